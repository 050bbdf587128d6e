"""Choose the ensemble on *select*: best epoch, uniform last epochs, greedy over all there are."""

from collections.abc import Sequence

import numpy as np

from enclip.catalog.snapshot import load_snapshot, pixel_map
from enclip.errors import TrainingError
from enclip.pipeline.members import load_member
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import ChoiceStep, Plan, RunFolder, TrainStep
from enclip.pipeline.validate import Validator
from enclip.recipes import ReleaseRecipe
from enclip.records import EpochVersion, Floats, Split
from enclip.release import Candidate, Member
from enclip.retrieval.selection import greedy_weights


def choose(platform: Platform, run_id: str) -> ChoiceStep:
    """Pick members and weights by mAP@10 on *select*; nothing of *gate* is looked at.

    Candidates are every epoch of the run and, where the recipe says so, the champion's members.
    """
    folder = RunFolder(platform.blobs, run_id)
    plan, trained = folder.read("plan", Plan), folder.read("train", TrainStep)
    with folder.timed("choose"):
        products = load_snapshot(platform.blobs, plan.snapshot)
        pool = _pool(platform, plan, trained)
        score_MQN: list[Floats] = []
        select = Validator(products, split=Split.SELECT)
        for member in pool:
            model = load_member(platform.registry, member.source)
            pixels = pixel_map(
                products, platform.blobs, side=member.pixel_side, scratch=platform.scratch, digest=plan.snapshot
            )
            score_MQN.append(select.scores(model, pixels))
        step = _best(pool, score_MQN, select, plan.recipe.release)
        base = next((epoch for epoch in trained.epochs if epoch.epoch == 0), None)
        if base is not None:
            step = step.model_copy(update={"base": _member(base, trained.pixel_side)})
        folder.write("choose", step)
    return step


def _pool(platform: Platform, plan: Plan, trained: TrainStep) -> list[Member]:
    """Candidate members, each checkpoint once; the untuned base is not one of them."""
    pool = {epoch.weights_sha256: _member(epoch, trained.pixel_side) for epoch in trained.epochs if epoch.epoch > 0}
    if plan.recipe.release.use_champion and plan.parent_release is not None:
        for member in platform.registry.release_manifest(plan.parent_release).members:
            pool.setdefault(member.weights_sha256, member)
    if not pool:
        raise TrainingError(f"Run {plan.run_id} has no epoch to choose from.", remedy="Train at least one epoch.")
    return list(pool.values())


def _member(epoch: EpochVersion, pixel_side: int) -> Member:
    return Member(
        version=epoch.version,
        source=epoch.source,
        instance=epoch.instance,
        epoch=epoch.epoch,
        weight=1.0,
        weights_sha256=epoch.weights_sha256,
        init_id=epoch.init_id,
        dim=epoch.dim,
        pixel_side=pixel_side,
    )


def _best(pool: Sequence[Member], score_MQN: Sequence[Floats], select: Validator, recipe: ReleaseRecipe) -> ChoiceStep:
    alone = np.array([select.quality(score_QN) for score_QN in score_MQN])
    best = int(alone.argmax())
    fewest = min(recipe.min_members, len(pool))
    most = max(fewest, min(recipe.max_members, len(pool)))
    weightings: dict[str, Floats] = {"best epoch": _one_hot(best, len(pool))}
    weightings["uniform last epochs"] = _uniform(_latest(pool, most), len(pool))
    greedy, _ = greedy_weights(score_MQN, select.quality, min_members=fewest, max_members=most)
    weightings["greedy"] = greedy
    candidates = [
        (name, weights, select.quality(_weighted(score_MQN, weights))) for name, weights in weightings.items()
    ]
    allowed = [candidate for candidate in candidates if fewest <= np.count_nonzero(candidate[1]) <= most]
    name, weights, value = max(allowed, key=lambda candidate: candidate[2])
    rows = sorted(_used(weights), key=lambda row: (-weights[row], row))
    members = tuple(pool[row].model_copy(update={"weight": float(weights[row])}) for row in rows)
    return ChoiceStep(
        members=members,
        candidates=tuple(
            Candidate(
                name=candidate_name,
                versions=tuple(pool[row].version for row in _used(candidate_weights)),
                weights=tuple(float(weight) for weight in candidate_weights[candidate_weights > 0]),
                map_at_10=candidate_value,
            )
            for candidate_name, candidate_weights, candidate_value in candidates
        ),
        best_member=max(range(len(rows)), key=lambda index: alone[rows[index]]),
        chosen_because=(
            f"{name} has the highest mAP@10 on select ({value:.3f}; best epoch {alone[best]:.3f}) "
            f"among ensembles of {fewest} to {most} members out of {len(pool)} checkpoints."
        ),
    )


def _latest(pool: Sequence[Member], most: int) -> list[int]:
    """The last epochs, spread over the instances."""
    order = sorted(range(len(pool)), key=lambda row: (-pool[row].epoch, pool[row].instance))
    return order[:most]


def _one_hot(row: int, length: int) -> Floats:
    return _uniform([row], length)


def _uniform(rows: Sequence[int], length: int) -> Floats:
    weights = np.zeros(length, dtype=np.float32)
    weights[list(rows)] = 1 / len(rows)
    return weights


def _used(weights: Floats) -> list[int]:
    """Rows of the members that count."""
    return [int(row) for row in np.flatnonzero(weights)]


def _weighted(score_MQN: Sequence[Floats], weights: Floats) -> Floats:
    total = np.zeros_like(score_MQN[0])
    for weight, score_QN in zip(weights, score_MQN, strict=True):
        if weight:
            total += weight * score_QN
    return total
