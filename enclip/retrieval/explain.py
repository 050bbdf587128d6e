"""Why a product stands where it stands: its score as a sum of named parts, and what each member thinks of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from enclip.errors import QueryError
from enclip.records import Floats
from enclip.retrieval.filters import Mask
from enclip.retrieval.half import single
from enclip.retrieval.mix import NOTHING, Mix
from enclip.retrieval.searcher import Searcher

# Each part with the weights of a mix that switch it on, in the order in which they are: what a part is said to add
# is what it adds to those before it.
STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("names", ("name_share",)),
    ("exemplars", ("exemplar_share",)),
    ("attributes", ("attribute_weight",)),
    ("likely queries", ("calibration",)),
    ("clusters", ("pull", "narrowing", "feedback")),
    ("BM25", ("bm25_weight",)),
    ("attributes by name", ("name_attribute_weight",)),
)


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member's share of the score, its own cosine with the query, and the product's rank by it alone, from 1."""

    weight: float
    cosine: float
    rank: int


@dataclass(frozen=True, slots=True)
class NamedAttribute:
    """A field that words name values of, and how likely the picture shows one of them, 0 to 1.

    `by_name` is how likely the name means one; None where the release reads no names, or no word of this one.
    """

    field: str
    values: tuple[str, ...]
    probability: float
    by_name: float | None
    wanted: bool  # False: words to turn from


@dataclass(frozen=True, slots=True)
class Explanation:
    """A product's score for one query; `parts` add up to it, "cosines" first.

    `pull` is how strongly the query pulls products toward the mean of their clusters, `feedback` how far it turned
    toward the clusters of its first results.
    """

    score: float
    parts: dict[str, float]
    members: tuple[MemberView, ...]
    attributes: tuple[NamedAttribute, ...]
    cluster: int
    pull: float
    feedback: float


def explain(
    searcher: Searcher,
    query_1Ds: Sequence[Floats],
    product_id: str,
    *,
    text: str = "",
    text_share: float = 1.0,
    without: str = "",
    allowed: Mask | None = None,
) -> Explanation:
    """The score that `Searcher.search` gives a product for one query.

    Args:
        text, text_share, without: as `search` has them, of one query.
        allowed: the products that are searched, and among which members rank it.

    Raises:
        QueryError: no such product in this release.
    """
    row = searcher.row(product_id)
    if row is None:
        raise QueryError(f"Product {product_id!r} is not in this release.", remedy="Search for it first.")

    whole = searcher.asked(query_1Ds, [text], [text_share], [without])
    toward_D = searcher.turn(whole, allowed)

    def score(mix: Mix, avoided: str) -> float:
        scorer = searcher.weighed(mix)
        asked = scorer.asked(query_1Ds, [text], [text_share], [avoided])
        turned = toward_D if mix.feedback else None
        return float(scorer.score(asked, 0, np.array([row]), scorer.matches(asked, 0), turned)[0])

    mix, before = NOTHING, score(NOTHING, "")
    parts = {"cosines": before}
    for name, weights in STEPS:
        mix = replace(mix, **{weight: getattr(searcher.mix, weight) for weight in weights})
        if any(getattr(mix, weight) for weight in weights):
            now = score(mix, "")
            parts[name], before = now - before, now
    final = score(mix, without)
    if final != before:
        parts["without"] = final - before
    return Explanation(
        score=final,
        parts=parts,
        members=tuple(_view(searcher, member, own_1D, row, allowed) for member, own_1D in enumerate(query_1Ds)),
        attributes=(*_named(searcher, text, row, wanted=True), *_named(searcher, without, row, wanted=False)),
        cluster=int(searcher.clusters.assignment_N[row]),
        pull=float(whole.pull_Q[0]),
        feedback=float(whole.feedback_Q[0]),
    )


def _view(searcher: Searcher, member: int, own_1D: Floats, row: int, allowed: Mask | None) -> MemberView:
    block_ND = searcher.block(member)
    rows = np.arange(len(block_ND)) if allowed is None else np.flatnonzero(allowed)
    cosine = float(single(block_ND[row]) @ own_1D[0])
    cosine_N = np.concatenate(
        [single(block_ND[part]) @ own_1D[0] for part in np.array_split(rows, 1 + len(rows) // 16_384)]
    )
    return MemberView(searcher.weights[member], cosine, 1 + int((cosine_N > cosine + 1e-6).sum()))


def _named(searcher: Searcher, words: str, row: int, *, wanted: bool) -> list[NamedAttribute]:
    if searcher.heads is None or not words:
        return []
    columns = searcher.heads.asked(words) if wanted else searcher.heads.turned_from(words)
    shown = searcher.heads.shown(columns, searcher.shown(np.array([row])))
    said = searcher.wording.said
    meant: list[float | None] = [None] * len(shown)
    if said is not None and searcher.mix.name_attribute_weight and not said.is_silent[row]:
        meant = [float(found_1[0]) for found_1 in said.shown(columns, np.array([row]))]
    return [
        NamedAttribute(field, values, float(probability_1[0]), by_name, wanted)
        for (field, values, probability_1), by_name in zip(shown, meant, strict=True)
    ]
