"""The gate report as people read it."""

from enclip import gates
from enclip.evaluation.intervals import holm
from enclip.pipeline.describe import gates_table
from enclip.pipeline.runs import GateRow, GateStep
from enclip.recipes import GatePolicy


def same(p_loss: float, *, num_queries: int = 60) -> gates.Comparison:
    return gates.Comparison(0.0, -0.001, 0.001, p_loss, num_queries)


def report(evidence: gates.GateEvidence, policy: GatePolicy) -> dict[str, list[str]]:
    """Gate → its cells, of what the gates really say."""
    decision = gates.decide(evidence, policy, adjust=holm)
    rows = tuple(
        GateRow(gate=row.gate, verdict=row.verdict, value=row.value, bound=row.bound, reason=row.reason)
        for row in decision.results
    )
    step = GateStep(release=2, champion=1, outcome=decision.outcome, results=rows, summary="")
    lines = gates_table(GateStep.model_validate_json(step.model_dump_json())).splitlines()
    assert lines[0] == "| gate | verdict | value | bound | reason |"
    assert lines[1] == "| --- | --- | ---: | ---: | --- |"
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines[2:]]
    return {row[0].removeprefix("| "): row[1:4] for row in cells}


def test_the_three_failure_signatures_stand_with_what_was_seen_and_the_threshold() -> None:
    policy = GatePolicy()
    evidence = gates.GateEvidence(
        map_at_10=0.5,
        num_queries=60,
        champion=same(0.9),
        best_member=same(0.4),
        no_clusters=same(0.001),
        overfit_gap=policy.max_overfit + 0.1,
    )
    shown = report(evidence, policy)
    assert shown["best member"] == ["pass", "0.400", f"{policy.alpha:.3f}"]
    assert shown["clusters"] == ["fail", "0.001", f"{policy.alpha:.3f}"]
    assert shown["overfitting"] == ["fail", f"{policy.max_overfit + 0.1:.3f}", f"{policy.max_overfit:.3f}"]


def test_a_gate_without_figures_has_empty_cells_and_counts_stay_whole() -> None:
    policy = GatePolicy(require_approval=True)
    shown = report(gates.GateEvidence(map_at_10=0.5, num_queries=60, new_categories={"Hats": 2}), policy)
    assert shown["approval"] == ["ask", "", ""]
    assert shown["new category Hats"] == ["ask", "2", str(policy.min_queries)]
    assert shown["overfitting"] == ["insufficient", "", f"{policy.max_overfit:.3f}"]


def test_categories_with_too_few_queries_share_a_row() -> None:
    policy = GatePolicy()
    few = {name: same(0.5, num_queries=policy.min_queries - 1) for name in ("Bags", "Hats")}
    judged = {"Shirts": same(0.9, num_queries=policy.min_queries)}
    evidence = gates.GateEvidence(map_at_10=0.5, num_queries=60, categories={**few, **judged})
    shown = report(evidence, policy)
    assert shown["2 categories"] == ["insufficient", "", ""] and "category Hats" not in shown
    assert shown["category Shirts"][0] == "pass"
    one = report(gates.GateEvidence(map_at_10=0.5, num_queries=60, categories={"Bags": few["Bags"], **judged}), policy)
    assert one["category Bags"][0] == "insufficient"
