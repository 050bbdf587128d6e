"""The last step of a run: move the alias if its gates allow it, against the champion they were measured with."""

from enclip.catalog.snapshot import take_snapshot
from enclip.errors import PromotionConflict
from enclip.ledger import finish_attempt
from enclip.pipeline.cluster import build
from enclip.pipeline.embed import embed_all
from enclip.pipeline.evaluate import evaluate_run
from enclip.pipeline.gate import decide
from enclip.pipeline.open_release import verify_release
from enclip.pipeline.platform import Platform
from enclip.pipeline.promote import promote
from enclip.pipeline.runs import ChoiceStep, GateStep, Plan, PromotionStep, RunFolder

MOST_REBASES = 3


def promote_run(
    platform: Platform, run_id: str, *, approved: bool = False, reason: str = "", rebases: int = MOST_REBASES
) -> PromotionStep:
    """Promote the run's release if its gates say so, or ask and a person has approved.

    If the champion has changed since the release was measured (D13), a refresh is thrown away, as a
    newer index than its own serves already; a retrained ensemble is rebased onto today's catalog, gated
    against the new champion, and promoted if it still passes.

    Raises:
        ReleaseError, WeightsError: a service could not follow to the release, or it does not answer its canary queries
            as it did when it was built; nothing has moved.
    """
    folder = RunFolder(platform.blobs, run_id)
    plan, gate = folder.read("plan", Plan), folder.read("gate", GateStep)
    with folder.timed("promote"):
        step = _promote(platform, plan, gate, approved=approved, reason=reason, rebases=rebases)
        folder.write("promote", step)
        platform.registry.close_run(plan.mlflow_run_id)
        finish_attempt(platform.database, run_id=run_id, outcome="promoted" if step.promoted else "not promoted")
    return step


def _promote(
    platform: Platform, plan: Plan, gate: GateStep, *, approved: bool, reason: str, rebases: int
) -> PromotionStep:
    if gate.outcome == "refuse" or (gate.outcome == "ask" and not approved):
        return PromotionStep(release=gate.release, promoted=False, summary=gate.summary)
    verify_release(platform, gate.release)
    by = plan.origin.dag_run_id or plan.run_id
    try:
        moved = promote(
            platform,
            gate.release,
            expected_champion=gate.champion,
            by=by,
            reason=" ".join(filter(None, [reason, gate.summary])),
        )
    except PromotionConflict as conflict:
        if plan.kind == "refresh" or not rebases:
            return PromotionStep(
                release=gate.release, promoted=False, summary=f"Thrown away: {conflict.what} A newer one serves."
            )
        rebased = rebase(platform, plan.run_id, release=gate.release)
        return promote_run(platform, rebased.run_id, approved=approved, reason=reason, rebases=rebases - 1)
    return PromotionStep(release=gate.release, promoted=True, summary=moved.summary)


def rebase(platform: Platform, run_id: str, *, release: int) -> Plan:
    """A run's ensemble over the catalog as it is now, built, measured and gated against today's champion."""
    before = RunFolder(platform.blobs, run_id)
    plan, choice = before.read("plan", Plan), before.read("choose", ChoiceStep)
    stem, _, count = run_id.partition(".rebase")
    again = RunFolder(platform.blobs, f"{stem}.rebase{int(count or 0) + 1}")
    snapshot = take_snapshot(platform.catalog, platform.blobs)
    rebased = plan.model_copy(
        update={
            "run_id": again.run_id,
            "snapshot": snapshot.digest,
            "num_products": snapshot.num_products,
            "built_from": release,
            "parent_release": platform.registry.alias("champion"),
        }
    )
    again.write("plan", rebased)
    again.write("choose", choice)
    embed_all(platform, again.run_id)
    build(platform, again.run_id)
    evaluate_run(platform, again.run_id)
    decide(platform, again.run_id)
    return rebased
