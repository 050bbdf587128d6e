"""The rule: measurements in, a decision with reasons out. Pure; no file, no clock, no model (D12).

Three verdicts decide: one *fail* refuses, else one *ask* asks a person, else the release is promoted.
*insufficient* decides nothing by itself: a category with too few queries is judged in a pool instead, and
only a **new** category that stays insufficient asks, so that it neither passes in silence nor blocks.

Against the champion the burden of proof is on the challenger: a loss of the margin must be ruled out. Against
one category among many, the ensemble's own best member and the best of many releases, it is on the evidence
of a loss, or chance, small numbers and the luck of whatever was picked as best would block for ever; evidence
takes `min_queries` queries. docs/reports/gate-errors.md has the rates of both errors.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from enclip.recipes import GatePolicy
from enclip.records import ShadowTotals

Verdict = Literal["pass", "fail", "insufficient", "ask"]
Outcome = Literal["promote", "refuse", "ask"]
# p-values by hypothesis → p-values that may be compared with alpha together; `evaluation.intervals.holm`.
Adjust = Callable[[Mapping[str, float]], Mapping[str, float]]

MEASURABLE = 2  # queries without which there is no interval at all


@dataclass(frozen=True, slots=True)
class Comparison:
    """Challenger minus another on the same queries over the same gallery, in mAP@10.

    `low` and `high` bound the mean at the policy's alpha, one-sided each. `p_loss` is the one-sided p-value
    of a loss beyond the margin that the comparison was made with: small is evidence of a loss.
    """

    mean: float
    low: float
    high: float
    p_loss: float
    num_queries: int


@dataclass(frozen=True, slots=True)
class GateEvidence:
    """What was measured of a challenger on *gate*. None: there is nothing to compare with.

    Attributes:
        map_at_10: the headline of the challenger, over `num_queries` queries.
        champion: against what serves now; None for a first release.
        best_of_year: against the best release of the last year on today's queries, where it is another;
            `p_loss` with the policy's tolerance.
        base: against the base before fine-tuning; looked at for a first release.
        best_member: the ensemble against its own best member; `p_loss` with the policy's tolerance.
        no_clusters, no_bank, no_attributes: the release against itself without its clusters, its bank of likely
            queries, or what its heads say of attributes; `p_loss` with the policy's tolerance.
        categories: against the champion by category; `p_loss` with the policy's category margin.
        pooled: the same over pools of the categories that are `too_small`: by master category, by names.
        new_categories: categories that the champion's snapshot does not have, and their gate queries.
        overfit_gap: mAP@10 of a train sample of gate's size and mix, minus that of gate.
        search_ratio, memory_ratio: the release over its best member alone, in one process.
        shadow: what live queries showed of it beside the champion.
    """

    map_at_10: float
    num_queries: int
    champion: Comparison | None = None
    best_of_year: Comparison | None = None
    base: Comparison | None = None
    best_member: Comparison | None = None
    no_clusters: Comparison | None = None
    no_bank: Comparison | None = None
    no_attributes: Comparison | None = None
    categories: Mapping[str, Comparison] = field(default_factory=dict)
    pooled: Mapping[str, Comparison] = field(default_factory=dict)
    new_categories: Mapping[str, int] = field(default_factory=dict)
    overfit_gap: float | None = None
    search_ratio: float | None = None
    memory_ratio: float | None = None
    shadow: ShadowTotals | None = None


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one gate saw (`value`), what it asked for (`bound`), and its verdict with the reason."""

    gate: str
    verdict: Verdict
    value: float | None
    bound: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The outcome and every gate behind it, in the order of the table."""

    outcome: Outcome
    results: tuple[GateResult, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was not promoted; empty where it was."""
        wanted: dict[Outcome, Verdict | None] = {"promote": None, "refuse": "fail", "ask": "ask"}
        return tuple(result.reason for result in self.results if result.verdict == wanted[self.outcome])


@dataclass(frozen=True, slots=True)
class Threshold:
    """A gate that compares one figure with one bound.

    Attributes:
        asks: the gate in one sentence, for people.
        value: the figure; None: it does not exist, and `missing` is the verdict (None: no row at all).
        passes: called with value and bound. A NaN fails every comparison, and so the gate.
        says: the reason; `value` and `bound` are put in.
        evidence_of: the comparison that the value is evidence from; over too few queries there is none.
        of_queries: whether the value is of gate queries, and says nothing where there are too few for an interval.
    """

    name: str
    asks: str
    value: Callable[[GateEvidence], float | None]
    bound: Callable[[GatePolicy], float]
    passes: Callable[[float, float], bool]
    says: str
    missing: Verdict | None = None
    evidence_of: Callable[[GateEvidence], Comparison | None] = lambda _evidence: None
    of_queries: bool = False

    def judge(self, evidence: GateEvidence, policy: GatePolicy) -> Iterator[GateResult]:
        """One row, or none where the gate does not apply."""
        value, bound = self.value(evidence), self.bound(policy)
        if value is None:
            if self.missing is not None:
                yield GateResult(self.name, self.missing, None, bound, f"{self.asks} It was not measured.")
            return
        if self.of_queries and evidence.num_queries < MEASURABLE:
            reason = f"{_capital(self.name)}: {evidence.num_queries} gate queries; {MEASURABLE} are needed to judge it."
            yield GateResult(self.name, "insufficient", value, bound, reason)
            return
        behind = self.evidence_of(evidence)
        if behind is not None and behind.num_queries < policy.min_queries:
            needed = f"{behind.num_queries} gate queries; {policy.min_queries} are needed for evidence."
            yield GateResult(self.name, "insufficient", value, bound, f"{_capital(self.name)}: {needed}")
            return
        verdict: Verdict = "pass" if self.passes(value, bound) else "fail"
        yield GateResult(self.name, verdict, value, bound, self.says.format(value=value, bound=bound))


def _no_evidence(name: str, *, asks: str, better: str, of: Callable[[GateEvidence], Comparison | None]) -> Threshold:
    """A gate that refuses on evidence that something else is better."""

    def p_loss(evidence: GateEvidence) -> float | None:
        found = of(evidence)
        return found.p_loss if found else None

    return Threshold(
        name=name,
        asks=asks,
        value=p_loss,
        bound=lambda policy: policy.alpha,
        passes=operator.gt,
        says=f"Evidence that {better}: p = {{value:.3f}}; it must lie above {{bound:.3f}}.",
        evidence_of=of,
    )


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(
        name="floor",
        asks="A first release reaches the least mAP@10.",
        value=lambda evidence: evidence.map_at_10 if evidence.champion is None else None,
        bound=lambda policy: policy.floor,
        passes=operator.ge,
        says="No champion yet: mAP@10 is {value:.3f}, at least {bound:.3f} is asked.",
        of_queries=True,
    ),
    Threshold(
        name="better than base",
        asks="A first release is better than its base before fine-tuning.",
        value=lambda evidence: evidence.base.mean if evidence.champion is None and evidence.base else None,
        bound=lambda _policy: 0.0,
        passes=operator.gt,
        says="No champion yet: mAP@10 differs from the base's by {value:+.3f}; more than {bound:.3f} is asked.",
        of_queries=True,
    ),
    Threshold(
        name="champion",
        asks="A loss of the margin against the champion is ruled out.",
        value=lambda evidence: evidence.champion.low if evidence.champion else None,
        bound=lambda policy: -policy.margin,
        passes=operator.gt,
        says="Against the champion mAP@10 changes by at least {value:+.4f}; more than {bound:+.4f} is asked.",
        of_queries=True,
    ),
    _no_evidence(
        "best of the year",
        asks="There is no evidence that the last year's best release is better, so that small losses do not add up.",
        better="the year's best release is better",
        of=lambda evidence: evidence.best_of_year,
    ),
    _no_evidence(
        "best member",
        asks="There is no evidence that the ensemble's best member alone is better than the ensemble.",
        better="its best member alone is better",
        of=lambda evidence: evidence.best_member,
    ),
    _no_evidence(
        "clusters",
        asks="There is no evidence that its clusters make results irrelevant.",
        better="it is better without its clusters",
        of=lambda evidence: evidence.no_clusters,
    ),
    _no_evidence(
        "bank",
        asks="There is no evidence that its bank of likely queries makes results irrelevant.",
        better="it is better without its bank of queries",
        of=lambda evidence: evidence.no_bank,
    ),
    _no_evidence(
        "attributes",
        asks="There is no evidence that the attributes it sees in pictures make results irrelevant.",
        better="it is better without attributes",
        of=lambda evidence: evidence.no_attributes,
    ),
    Threshold(
        name="overfitting",
        asks="It finds what it was trained on not much better than what it was not.",
        value=lambda evidence: evidence.overfit_gap,
        bound=lambda policy: policy.max_overfit,
        passes=operator.le,
        says="mAP@10 of a train sample lies {value:+.3f} above that of gate; at most {bound:.3f} is allowed.",
        missing="insufficient",
    ),
    Threshold(
        name="search time",
        asks="A search takes not much longer than with one member.",
        value=lambda evidence: evidence.search_ratio,
        bound=lambda policy: policy.max_search_ratio,
        passes=operator.le,
        says="A search takes {value:.2f} times one member's; at most {bound:.2f} times is allowed.",
        missing="insufficient",
    ),
    Threshold(
        name="memory",
        asks="The index is not much larger than one member's.",
        value=lambda evidence: evidence.memory_ratio,
        bound=lambda policy: policy.max_memory_ratio,
        passes=operator.le,
        says="The index takes {value:.2f} times one member's memory; at most {bound:.2f} times is allowed.",
        missing="insufficient",
    ),
)


def decide(evidence: GateEvidence, policy: GatePolicy, *, adjust: Adjust) -> GateDecision:
    """The decision on a challenger.

    Args:
        adjust: adjusts the p-values of all categories and pools that have enough queries, together.
    """
    results = [row for threshold in THRESHOLDS for row in threshold.judge(evidence, policy)]
    results += _categories(evidence, policy, adjust)
    results += _new_categories(evidence, policy)
    results += _shadow(evidence, policy)
    results += _people(evidence, policy)
    verdicts = {result.verdict for result in results}
    outcome: Outcome = "refuse" if "fail" in verdicts else "ask" if "ask" in verdicts else "promote"
    return GateDecision(outcome, tuple(results))


def too_small(queries_of: Mapping[str, int], policy: GatePolicy) -> Sequence[str]:
    """Categories with too few gate queries to be judged alone; those belong in the pools."""
    return [name for name, num_queries in queries_of.items() if num_queries < policy.min_queries]


def _categories(evidence: GateEvidence, policy: GatePolicy, adjust: Adjust) -> Iterator[GateResult]:
    """A loss in one category, or in a pool of small ones, with evidence that counts all that were looked at."""
    judged = {f"category {name}": comparison for name, comparison in evidence.categories.items()}
    judged |= {f"pool {name}": comparison for name, comparison in evidence.pooled.items()}
    enough = {name: found for name, found in judged.items() if found.num_queries >= policy.min_queries}
    adjusted = adjust({name: found.p_loss for name, found in enough.items()})
    for name, found in judged.items():
        bound = -policy.category_margin
        if name not in enough:
            reason = f"{found.num_queries} gate queries; {policy.min_queries} are needed to judge it."
            yield GateResult(name, "insufficient", found.mean, bound, f"{_capital(name)}: {reason}")
            continue
        p_value = adjusted[name]
        lost = not p_value > policy.alpha  # a NaN is no proof of innocence
        yield GateResult(
            name,
            "fail" if lost else "pass",
            found.mean,
            bound,
            f"{_capital(name)}: mAP@10 changes by {found.mean:+.3f} over {found.num_queries} queries; "
            f"{'evidence' if lost else 'no evidence'} of a loss beyond {policy.category_margin:.3f} "
            f"(adjusted p = {p_value:.3f}).",
        )


def _new_categories(evidence: GateEvidence, policy: GatePolicy) -> Iterator[GateResult]:
    for name in too_small(evidence.new_categories, policy):
        num_queries = evidence.new_categories[name]
        yield GateResult(
            f"new category {name}",
            "ask",
            num_queries,
            policy.min_queries,
            f"Category {name} is new and has {num_queries} gate queries, too few to judge it "
            f"({policy.min_queries} are needed): a person decides.",
        )


def _shadow(evidence: GateEvidence, policy: GatePolicy) -> Iterator[GateResult]:
    """What live queries showed, where the policy asks for it; a first release has no champion to follow.

    Too few queries ask a person, and with that leave the release as challenger: the gates can be asked again when it
    has had its queries.
    """
    overlap, ratio = policy.min_shadow_overlap, policy.max_shadow_ratio
    if evidence.champion is None or not (policy.min_shadow_queries or overlap or ratio):
        return
    needed = policy.min_shadow_queries or policy.min_queries
    seen = evidence.shadow or ShadowTotals()
    enough = seen.num_compared >= needed
    yield GateResult(
        "shadow",
        "pass" if enough else "ask",
        seen.num_compared,
        needed,
        f"It answered {seen.num_compared} live queries in the champion's shadow; at least {needed} are asked"
        f"{'.' if enough else ': a person decides, or the gates again when it has had them.'}",
    )
    asked = (
        (
            "shadow overlap",
            overlap,
            seen.mean_overlap,
            operator.ge,
            "shares {:.2f} of the first 10, at least {:.2f} is",
        ),
        (
            "shadow time",
            ratio,
            seen.latency_ratio,
            operator.le,
            "takes {:.2f} times the time, at most {:.2f} times are",
        ),
    )
    for name, bound, value, passes, says in asked:
        if not bound:
            continue
        if not enough or value is None:
            reason = f"{_capital(name)}: {seen.num_compared} live queries; {needed} are needed to judge it."
            yield GateResult(name, "insufficient", value, bound, reason)
            continue
        reason = f"Beside the champion it {says.format(value, bound)} asked, over {seen.num_queries} live queries"
        failed = f", {seen.num_failed} of which failed" if seen.num_failed else ""
        yield GateResult(name, "pass" if passes(value, bound) else "fail", value, bound, f"{reason}{failed}.")


def _people(evidence: GateEvidence, policy: GatePolicy) -> Iterator[GateResult]:
    if evidence.num_queries < MEASURABLE:
        yield GateResult(
            "measured",
            "ask",
            evidence.num_queries,
            MEASURABLE,
            f"Only {evidence.num_queries} gate queries exist, so nothing was measured: a person decides.",
        )
    if policy.require_approval:
        yield GateResult("approval", "ask", None, None, "A person's approval was asked for.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
