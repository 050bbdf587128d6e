"""Decide on a run's release: pair its AP@10 with every peer's, ask the gates, and tell the registry."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip import gates
from enclip.evaluation.intervals import holm, paired_bootstrap
from enclip.pipeline.describe import describe_release
from enclip.pipeline.platform import Platform
from enclip.pipeline.promote import set_challenger
from enclip.pipeline.runs import EvaluationStep, GateRow, GateStep, Plan, RunFolder
from enclip.recipes import GatePolicy
from enclip.records import QueryKind
from enclip.shadow import shadow_totals

Chosen = NDArray[np.bool_]  # per query


def decide(platform: Platform, run_id: str) -> GateStep:
    """Judge the run's evaluation by its policy; a refused release becomes `challenger`.

    Running it again decides the same, since nothing is measured here, but for what live queries have shown since.
    """
    folder = RunFolder(platform.blobs, run_id)
    plan, evaluation = folder.read("plan", Plan), folder.read("evaluation", EvaluationStep)
    with folder.timed("gate"):
        evidence = evidence_of(evaluation, plan.recipe.gate)
        if evaluation.champion is not None:
            seen = shadow_totals(platform.database, champion=evaluation.champion, challenger=evaluation.release)
            evidence = replace(evidence, shadow=seen)
        decision = gates.decide(evidence, plan.recipe.gate, adjust=holm)
        step = GateStep(
            release=evaluation.release,
            champion=evaluation.champion,
            outcome=decision.outcome,
            results=tuple(
                GateRow(gate=row.gate, verdict=row.verdict, value=row.value, bound=row.bound, reason=row.reason)
                for row in decision.results
            ),
            summary=_summary(evaluation, decision),
        )
        with tempfile.TemporaryDirectory(prefix="enclip-") as report:
            description = describe_release(platform, plan, evaluation, step, Path(report))
            platform.registry.report_release(
                step.release,
                tags={
                    "map_at_10": f"{evaluation.mean('challenger') or 0.0:.4f}",
                    "gate": step.outcome,
                    "kind": plan.kind,
                    "gallery": evaluation.protocol(),
                    "snapshot": plan.snapshot,
                },
                metrics=figures_of_release(evaluation),
                description=description,
                artifacts=Path(report),
            )
        if step.outcome != "promote":
            set_challenger(platform, step.release)
        folder.write("gate", step)
    return step


def figures_of_release(evaluation: EvaluationStep) -> dict[str, float]:
    """MLflow metrics of a release: mAP@10 on *gate*, by kind of query and by category."""
    figures = {"gate_map_at_10": evaluation.mean("challenger")}
    figures |= {f"gate_map_at_10_{kind.value}": evaluation.mean("challenger", kind=kind) for kind in QueryKind}
    figures |= {f"gate_map_at_10/{name}": value for name, value in evaluation.by_category.items()}
    return {name: value for name, value in figures.items() if value is not None}


def evidence_of(evaluation: EvaluationStep, policy: GatePolicy) -> gates.GateEvidence:
    """The evaluation as the comparisons that the gates look at.

    Overall comparisons are over the headline's queries. A category is judged over its headline and type
    queries; those with too few are shown as insufficient and pooled by master category, and the name
    queries of all of them make one more pool.
    """
    queries = evaluation.queries
    category = np.array([query.category for query in queries], dtype=str)
    master = np.array([query.master_category for query in queries], dtype=str)
    kind = np.array([query.kind.value for query in queries], dtype=str)
    headline, names = kind == evaluation.headline.value, kind == QueryKind.NAME.value

    def against(system: str, chosen: Chosen, margin: float) -> gates.Comparison | None:
        if system not in evaluation.systems:
            return None
        interval = paired_bootstrap(
            np.array(evaluation.systems["challenger"])[chosen],
            np.array(evaluation.systems[system])[chosen],
            margin=margin,
            alpha=policy.alpha,
            resamples=policy.bootstrap,
        )
        return gates.Comparison(
            mean=interval.mean,
            low=interval.low,
            high=interval.high,
            p_loss=interval.p_loss,
            num_queries=interval.num_queries,
        )

    def within(chosen: Chosen) -> gates.Comparison | None:
        return against("champion", chosen, policy.category_margin)

    is_refresh = "best member" not in evaluation.systems  # brings nothing that was not judged before
    counts = {str(name): int(np.count_nonzero((category == name) & ~names)) for name in np.unique(category)}
    small = np.isin(category, gates.too_small(counts, policy))
    pools = {
        str(name) or "uncategorised": within(small & ~names & (master == name)) for name in np.unique(master[small])
    }
    pools["names"] = within(small & names)
    return gates.GateEvidence(
        map_at_10=evaluation.mean("challenger") or 0.0,
        num_queries=int(np.count_nonzero(headline)),
        champion=against("champion", headline, policy.margin),
        best_of_year=against("best of the year", headline, policy.tolerance),
        base=against("base", headline, 0.0),
        best_member=against("best member", headline, policy.tolerance),
        no_clusters=None if is_refresh else against("without clusters", headline, policy.tolerance),
        no_bank=None if is_refresh else against("without bank", headline, policy.tolerance),
        no_attributes=None if is_refresh else against("without attributes", headline, policy.tolerance),
        categories=_present({name: within(~names & (category == name)) for name in counts}),
        pooled=_present(pools),
        new_categories={name: counts.get(name, 0) for name in evaluation.new_categories},
        overfit_gap=evaluation.overfit_gap,
        search_ratio=evaluation.search_ratio,
        memory_ratio=evaluation.memory_ratio,
    )


def _present(comparisons: Mapping[str, gates.Comparison | None]) -> dict[str, gates.Comparison]:
    """Those that there was a champion and a query for."""
    return {name: found for name, found in comparisons.items() if found is not None and found.num_queries}


def _summary(evaluation: EvaluationStep, decision: gates.GateDecision) -> str:
    against = f"release {evaluation.champion}" if evaluation.champion else "the floors of a first release"
    ours, theirs = evaluation.protocol(), evaluation.protocol("champion")
    note = ""
    if "champion" in evaluation.systems and ours != theirs:
        note = f" The galleries differ ({ours}; champion: {theirs}); each was measured as it serves."
    if decision.outcome == "promote":
        return f"Release {evaluation.release} passed every gate against {against}.{note}"
    verb = "was refused" if decision.outcome == "refuse" else "needs a person's approval"
    return f"Release {evaluation.release} {verb}: {' '.join(decision.reasons)}{note}"
