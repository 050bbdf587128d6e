"""Each branch of the decision has a test that fails without it."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclip.evaluation.intervals import holm
from enclip.gates import THRESHOLDS, Comparison, GateDecision, GateEvidence, decide, too_small
from enclip.recipes import GatePolicy
from enclip.records import ShadowTotals

POLICY = GatePolicy()
SAME = Comparison(mean=0.0, low=-0.005, high=0.005, p_loss=0.9, num_queries=100)
GOOD = GateEvidence(
    map_at_10=0.5,
    num_queries=100,
    champion=SAME,
    best_of_year=SAME,
    best_member=SAME,
    categories={"Topwear": SAME, "Shoes": SAME},
    overfit_gap=0.1,
    search_ratio=1.2,
    memory_ratio=3.0,
)
FIRST = replace(GOOD, champion=None, best_of_year=None, categories={}, base=replace(SAME, mean=0.2))


def judged(evidence: GateEvidence, policy: GatePolicy = POLICY) -> GateDecision:
    return decide(evidence, policy, adjust=holm)


def verdicts(decision: GateDecision) -> dict[str, str]:
    return {result.gate: result.verdict for result in decision.results}


def refused_by(decision: GateDecision) -> list[str]:
    assert decision.outcome == "refuse"
    return [result.gate for result in decision.results if result.verdict == "fail"]


def test_a_challenger_that_passes_every_gate_is_promoted() -> None:
    decision = judged(GOOD)
    assert decision.outcome == "promote"
    assert set(verdicts(decision).values()) == {"pass"}
    assert decision.reasons == ()


def test_a_challenger_within_the_margin_of_the_champion_is_promoted() -> None:
    assert judged(replace(GOOD, champion=replace(SAME, low=-0.0279))).outcome == "promote"


def test_a_challenger_that_may_lose_the_margin_is_refused() -> None:
    decision = judged(replace(GOOD, champion=replace(SAME, low=-0.028)))
    assert refused_by(decision) == ["champion"]
    assert "-0.0280" in decision.reasons[0]


def test_small_losses_that_add_up_are_refused_by_the_best_of_the_year() -> None:
    """Against the champion each loss was within the margin; against the year's best there is evidence by now."""
    fallen = Comparison(mean=-0.025, low=-0.04, high=-0.012, p_loss=0.02, num_queries=100)
    assert refused_by(judged(replace(GOOD, best_of_year=fallen))) == ["best of the year"]


def test_the_luck_of_the_best_of_the_year_refuses_nobody() -> None:
    """The best of many is best by chance too: a loss that could be luck is no evidence."""
    lucky = Comparison(mean=-0.013, low=-0.03, high=0.003, p_loss=0.3, num_queries=100)
    assert judged(replace(GOOD, best_of_year=lucky)).outcome == "promote"


@pytest.mark.parametrize(("field", "gate"), [("no_clusters", "clusters"), ("no_bank", "bank")])
def test_evidence_that_a_part_of_the_score_makes_results_irrelevant_refuses(field, gate):
    assert judged(replace(GOOD, **{field: replace(SAME, p_loss=0.051)})).outcome == "promote"
    assert refused_by(judged(replace(GOOD, **{field: replace(SAME, p_loss=0.05)}))) == [gate]
    few = judged(replace(GOOD, **{field: replace(SAME, p_loss=0.001, num_queries=19)}))
    assert few.outcome == "promote"
    assert next(row.verdict for row in few.results if row.gate == gate) == "insufficient"


@pytest.mark.parametrize(("field", "gate"), [("best_of_year", "best of the year"), ("best_member", "best member")])
def test_over_too_few_queries_there_is_no_evidence(field: str, gate: str) -> None:
    few = Comparison(mean=-0.2, low=-0.3, high=-0.1, p_loss=0.0005, num_queries=19)
    decision = judged(replace(GOOD, **{field: few}))
    assert (decision.outcome, verdicts(decision)[gate]) == ("promote", "insufficient")
    assert refused_by(judged(replace(GOOD, **{field: replace(few, num_queries=20)}))) == [gate]


def test_without_another_best_of_the_year_there_is_no_such_gate() -> None:
    assert "best of the year" not in verdicts(judged(replace(GOOD, best_of_year=None)))


def test_a_first_release_above_the_floor_and_its_base_is_promoted() -> None:
    decision = judged(FIRST)
    assert decision.outcome == "promote"
    assert {"floor", "better than base"} <= set(verdicts(decision))
    assert "champion" not in verdicts(decision)


def test_a_first_release_below_the_floor_is_refused() -> None:
    assert refused_by(judged(replace(FIRST, map_at_10=0.19))) == ["floor"]


def test_a_first_release_no_better_than_its_base_is_refused() -> None:
    assert refused_by(judged(replace(FIRST, base=replace(SAME, mean=0.0)))) == ["better than base"]


def test_floor_and_base_do_not_hold_a_later_release() -> None:
    later = replace(GOOD, map_at_10=0.01, base=replace(SAME, mean=-0.5))
    assert judged(later).outcome == "promote"


def test_an_ensemble_below_its_best_member_is_refused() -> None:
    assert refused_by(judged(replace(GOOD, best_member=replace(SAME, p_loss=0.05)))) == ["best member"]


def test_an_ensemble_is_not_refused_for_lack_of_evidence_against_its_best_member() -> None:
    unsure = Comparison(mean=-0.005, low=-0.05, high=0.04, p_loss=0.4, num_queries=40)
    assert judged(replace(GOOD, best_member=unsure)).outcome == "promote"


def test_overfitting_is_refused() -> None:
    assert refused_by(judged(replace(GOOD, overfit_gap=0.36))) == ["overfitting"]


def test_a_search_that_costs_too_much_time_is_refused() -> None:
    assert refused_by(judged(replace(GOOD, search_ratio=2.01))) == ["search time"]


def test_an_index_that_costs_too_much_memory_is_refused() -> None:
    assert refused_by(judged(replace(GOOD, memory_ratio=8.01))) == ["memory"]


def test_what_could_not_be_measured_is_said_and_does_not_refuse() -> None:
    decision = judged(replace(GOOD, overfit_gap=None, search_ratio=None, memory_ratio=None))
    assert decision.outcome == "promote"
    assert verdicts(decision) | {
        "overfitting": "insufficient",
        "search time": "insufficient",
        "memory": "insufficient",
    } == verdicts(decision)


def test_a_category_with_evidence_of_a_loss_is_refused() -> None:
    lost = Comparison(mean=-0.1, low=-0.15, high=-0.05, p_loss=0.001, num_queries=40)
    decision = judged(replace(GOOD, categories={"Topwear": SAME, "Shoes": lost}))
    assert refused_by(decision) == ["category Shoes"]
    assert "Shoes" in decision.reasons[0]
    assert "-0.100" in decision.reasons[0]


def test_evidence_in_categories_is_holm_adjusted_over_all_that_were_looked_at() -> None:
    unlucky = Comparison(mean=-0.05, low=-0.09, high=-0.01, p_loss=0.03, num_queries=40)
    assert refused_by(judged(replace(GOOD, categories={"Shoes": unlucky}))) == ["category Shoes"]
    many = {f"Other {number}": SAME for number in range(9)} | {"Shoes": unlucky}
    assert judged(replace(GOOD, categories=many)).outcome == "promote"


def test_an_insufficient_category_decides_nothing_alone_and_is_not_counted() -> None:
    small = Comparison(mean=-0.9, low=-1.0, high=-0.8, p_loss=0.0001, num_queries=19)
    decision = judged(replace(GOOD, categories={"Topwear": SAME, "Ties": small}))
    assert decision.outcome == "promote"
    assert verdicts(decision)["category Ties"] == "insufficient"
    # Were it counted, p = 0.03 twice over would no longer be evidence.
    unlucky = replace(SAME, p_loss=0.03)
    assert refused_by(judged(replace(GOOD, categories={"Shoes": unlucky, "Ties": small}))) == ["category Shoes"]


def test_insufficient_categories_are_judged_in_their_pool() -> None:
    lost = Comparison(mean=-0.2, low=-0.3, high=-0.1, p_loss=0.001, num_queries=20)
    decision = judged(replace(GOOD, pooled={"Accessories": lost}))
    assert refused_by(decision) == ["pool Accessories"]


def test_a_pool_that_is_insufficient_itself_decides_nothing() -> None:
    lost = Comparison(mean=-0.2, low=-0.3, high=-0.1, p_loss=0.001, num_queries=19)
    decision = judged(replace(GOOD, pooled={"Accessories": lost}))
    assert decision.outcome == "promote"
    assert verdicts(decision)["pool Accessories"] == "insufficient"


def test_a_new_category_that_stays_insufficient_asks_a_person() -> None:
    decision = judged(replace(GOOD, new_categories={"Saree": 3}))
    assert decision.outcome == "ask"
    assert "Saree" in decision.reasons[0]


def test_a_new_category_with_enough_queries_asks_nobody() -> None:
    assert judged(replace(GOOD, new_categories={"Saree": 20})).outcome == "promote"


def test_too_few_queries_to_measure_anything_ask_a_person() -> None:
    decision = judged(replace(FIRST, num_queries=1))
    assert (decision.outcome, verdicts(decision)["measured"]) == ("ask", "ask")


@pytest.mark.parametrize("num_queries", [0, 1])
@pytest.mark.parametrize("before", [GOOD, FIRST], ids=["champion", "first"])
def test_what_was_not_measured_is_asked_and_not_refused(before: GateEvidence, num_queries: int) -> None:
    """As the intervals say it of so few queries: nothing is ruled out."""
    nothing = Comparison(mean=0.0, low=-1.0, high=1.0, p_loss=1.0, num_queries=num_queries)
    evidence = replace(
        before,
        num_queries=num_queries,
        map_at_10=0.0,
        champion=before.champion and nothing,
        base=before.base and nothing,
    )
    decision = judged(evidence)
    assert decision.outcome == "ask"
    assert all(verdicts(decision).get(gate, "insufficient") == "insufficient" for gate in ("floor", "champion"))


def test_an_approval_that_is_required_asks_a_person() -> None:
    decision = judged(GOOD, GatePolicy(require_approval=True))
    assert (decision.outcome, decision.reasons) == ("ask", ("A person's approval was asked for.",))


def test_a_failed_gate_is_refused_without_asking_anybody() -> None:
    worse = replace(GOOD, champion=replace(SAME, low=-0.5), new_categories={"Saree": 3})
    decision = judged(worse, GatePolicy(require_approval=True))
    assert refused_by(decision) == ["champion"]


SHADOWED = GatePolicy(min_shadow_queries=100, min_shadow_overlap=0.6, max_shadow_ratio=1.5)
SEEN = ShadowTotals(num_compared=100, overlap=60.0, champion_s=1.0, challenger_s=1.5)


def shadowed(seen: ShadowTotals, policy: GatePolicy = SHADOWED) -> GateDecision:
    return judged(replace(GOOD, shadow=seen), policy)


def shadow_verdicts(decision: GateDecision) -> dict[str, str]:
    return {name: verdict for name, verdict in verdicts(decision).items() if name.startswith("shadow")}


def test_a_challenger_that_did_well_in_the_shadow_is_promoted() -> None:
    decision = shadowed(SEEN)
    assert decision.outcome == "promote"
    assert shadow_verdicts(decision) == dict.fromkeys(("shadow", "shadow overlap", "shadow time"), "pass")


def test_the_shadow_is_looked_at_only_where_it_is_asked_for() -> None:
    assert shadow_verdicts(shadowed(ShadowTotals(), POLICY)) == {}
    assert list(shadow_verdicts(shadowed(SEEN, GatePolicy(min_shadow_queries=100)))) == ["shadow"]
    assert list(shadow_verdicts(shadowed(SEEN, GatePolicy(max_shadow_ratio=2)))) == ["shadow", "shadow time"]


def test_too_few_queries_in_the_shadow_ask_and_decide_nothing_else() -> None:
    decision = shadowed(replace(SEEN, num_compared=99, overlap=0.0, challenger_s=90.0))
    assert decision.outcome == "ask"
    assert shadow_verdicts(decision) == {
        "shadow": "ask",
        "shadow overlap": "insufficient",
        "shadow time": "insufficient",
    }
    assert "99 live queries" in decision.reasons[0]


def test_without_a_number_of_its_own_the_shadow_needs_as_many_queries_as_other_evidence() -> None:
    policy = GatePolicy(min_shadow_overlap=0.5)
    assert shadowed(ShadowTotals(num_compared=19, overlap=19.0), policy).outcome == "ask"
    assert shadowed(ShadowTotals(num_compared=20, overlap=20.0), policy).outcome == "promote"


def test_a_challenger_that_finds_too_much_else_in_the_shadow_is_refused() -> None:
    assert refused_by(shadowed(replace(SEEN, overlap=59.0))) == ["shadow overlap"]


def test_queries_that_the_challenger_alone_fails_count_as_nothing_found() -> None:
    decision = shadowed(replace(SEEN, overlap=100.0, num_failed=67))
    assert refused_by(decision) == ["shadow overlap"]
    assert "67 of which failed" in decision.reasons[0]
    assert shadowed(ShadowTotals(num_failed=500)).outcome == "ask", "none of them was answered"


def test_a_challenger_that_is_too_slow_in_the_shadow_is_refused() -> None:
    assert refused_by(shadowed(replace(SEEN, challenger_s=1.51))) == ["shadow time"]


def test_shadow_figures_that_are_no_numbers_do_not_pass() -> None:
    assert shadowed(replace(SEEN, overlap=math.nan)).outcome == "refuse"
    assert shadowed(replace(SEEN, challenger_s=math.nan)).outcome == "refuse"


def test_a_first_release_has_nobody_s_shadow_to_stand_in() -> None:
    decision = judged(FIRST, SHADOWED)
    assert (decision.outcome, shadow_verdicts(decision)) == ("promote", {})


@pytest.mark.parametrize("figure", ["overfit_gap", "search_ratio", "memory_ratio"])
def test_a_figure_that_is_no_number_does_not_pass(figure: str) -> None:
    assert judged(replace(GOOD, **{figure: math.nan})).outcome == "refuse"


def test_comparisons_that_are_no_numbers_do_not_pass() -> None:
    broken = Comparison(math.nan, math.nan, math.nan, math.nan, 100)
    for field in ("champion", "best_of_year", "best_member"):
        assert judged(replace(GOOD, **{field: broken})).outcome == "refuse"
    assert refused_by(decide(replace(GOOD, categories={"Shoes": broken}), POLICY, adjust=dict)) == ["category Shoes"]


def test_strictness_is_the_margin() -> None:
    def outcomes(low: float) -> list[str]:
        unsure = replace(GOOD, champion=replace(SAME, low=low))
        return [judged(unsure, GatePolicy.named(name)).outcome for name in ("strict", "normal", "lenient")]

    assert outcomes(-0.009) == ["promote", "promote", "promote"]
    assert outcomes(-0.02) == ["refuse", "promote", "promote"]
    assert outcomes(-0.04) == ["refuse", "refuse", "promote"]
    assert outcomes(-0.05) == ["refuse", "refuse", "refuse"]


def test_the_default_policy_is_the_normal_one() -> None:
    assert GatePolicy() == GatePolicy.named("normal")


def test_the_report_of_their_errors_is_about_these_policies_and_the_bars_hold() -> None:
    """docs/reports/gate-errors.json is made by bench/studies/gate_errors.py; a policy that changes needs a new one."""
    report = json.loads((Path(__file__).parents[2] / "docs/reports/gate-errors.json").read_text())
    for name, policy in report["policies"].items():
        assert GatePolicy.named(name) == GatePolicy(**policy)
    reference = [
        row
        for row in report["cells"]
        if (row["strictness"], row["num_queries"], row["paired_sd"], row["retrains"]) == ("normal", 157, 0.1, 1000)
    ]
    assert {row["effect"] for row in reference} == {0.0, -0.02, 0.02, -0.03}
    assert all(row["promoted"] >= 0.9 for row in reference if row["effect"] == 0)
    assert all(row["promoted"] <= 0.05 for row in reference if row["effect"] == -0.03)


def test_too_small_names_the_categories_for_the_pools() -> None:
    assert list(too_small({"Topwear": 20, "Ties": 19}, POLICY)) == ["Ties"]


def test_every_gate_says_what_it_asks() -> None:
    assert len({gate.name for gate in THRESHOLDS}) == len(THRESHOLDS)
    assert all(gate.asks.endswith(".") for gate in THRESHOLDS)


comparisons = st.builds(
    Comparison,
    mean=st.floats(-1, 1),
    low=st.floats(-1, 1),
    high=st.floats(-1, 1),
    p_loss=st.floats(0, 1),
    num_queries=st.integers(0, 200),
)


@given(champion=comparisons, categories=st.dictionaries(st.text(max_size=8), comparisons, max_size=5))
def test_a_better_champion_comparison_never_turns_promote_into_refuse(
    champion: Comparison, categories: Mapping[str, Comparison]
) -> None:
    evidence = replace(GOOD, champion=champion, categories=categories)
    better = replace(evidence, champion=replace(champion, low=min(1.0, champion.low + 0.1)))
    if judged(evidence).outcome == "promote":
        assert judged(better).outcome == "promote"


@given(champion=comparisons)
def test_a_larger_margin_never_refuses_what_a_smaller_one_promotes(champion: Comparison) -> None:
    evidence = replace(GOOD, champion=champion)
    if judged(evidence, GatePolicy(margin=0.01)).outcome == "promote":
        assert judged(evidence, GatePolicy(margin=0.05)).outcome == "promote"
