"""Choose the ensemble on *select*: best epoch, soups, uniform last epochs, greedy over all there are."""

from collections.abc import Sequence

import numpy as np

from enclip.catalog.snapshot import load_snapshot, pixel_map
from enclip.errors import TrainingError
from enclip.pipeline.members import load_member, member_of
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import ChoiceStep, Plan, RunFolder, TrainStep
from enclip.pipeline.soups import cook
from enclip.pipeline.train import training_rows
from enclip.pipeline.validate import Validator
from enclip.recipes import ReleaseRecipe
from enclip.records import Floats, Split
from enclip.release import Candidate, GallerySettings, Member
from enclip.retrieval.selection import greedy_weights


def choose(platform: Platform, run_id: str) -> ChoiceStep:
    """Pick members and weights by mAP@10 on *select*; nothing of *gate* is looked at.

    Candidates are every epoch of the run, soups of its last epochs and, where the recipe says so, the
    champion's members. Where names are searched, their share is chosen with them.
    """
    folder = RunFolder(platform.blobs, run_id)
    plan, trained = folder.read("plan", Plan), folder.read("train", TrainStep)
    with folder.timed("choose"):
        products = load_snapshot(platform.blobs, plan.snapshot)
        pool = _pool(platform, plan, trained)
        with_names = plan.recipe.release.gallery != "image"
        image_MQN: list[Floats] = []
        name_MQN: list[Floats] = []
        select = Validator(products, split=Split.SELECT)
        for member in pool:
            model = load_member(platform.registry, member.source)
            pixels = pixel_map(
                products, platform.blobs, side=member.pixel_side, scratch=platform.scratch, digest=plan.snapshot
            )
            image_MQN.append(select.scores(model, pixels))
            if with_names:
                name_MQN.append(select.name_scores(model, image_MQN[-1]))
        own_pixels = pixel_map(
            products, platform.blobs, side=trained.pixel_side, scratch=platform.scratch, digest=plan.snapshot
        )
        rows = training_rows(products, plan.recipe.train)
        for soup, model, scores in cook(platform, plan, trained.epochs, pixels=own_pixels, rows=rows, select=select):
            pool.append(soup)
            image_MQN.append(scores)
            if with_names:
                name_MQN.append(select.name_scores(model, scores))
        step = _with_share(pool, image_MQN, name_MQN, select, plan.recipe.release)
        base = next((epoch for epoch in trained.epochs if epoch.epoch == 0), None)
        if base is not None:
            step = step.model_copy(update={"base": member_of(base, trained.pixel_side)})
        folder.write("choose", step)
    return step


def _pool(platform: Platform, plan: Plan, trained: TrainStep) -> list[Member]:
    """Candidate members, each checkpoint once; the untuned base is not one of them."""
    pool = {epoch.weights_sha256: member_of(epoch, trained.pixel_side) for epoch in trained.epochs if epoch.epoch > 0}
    if plan.recipe.release.use_champion and plan.parent_release is not None:
        for member in platform.registry.release_manifest(plan.parent_release).members:
            pool.setdefault(member.weights_sha256, member)
    if not pool:
        raise TrainingError(f"Run {plan.run_id} has no epoch to choose from.", remedy="Train at least one epoch.")
    return list(pool.values())


def _with_share(
    pool: Sequence[Member],
    image_MQN: Sequence[Floats],
    name_MQN: Sequence[Floats],
    select: Validator,
    recipe: ReleaseRecipe,
) -> ChoiceStep:
    """The best ensemble over pictures; with names, over the shares of them too. Ties: the smallest share."""
    if not name_MQN:
        return _best(pool, image_MQN, select, recipe)[0]
    found = {
        share: _best(
            pool,
            [(1 - share) * image_QN + share * name_QN for image_QN, name_QN in zip(image_MQN, name_MQN, strict=True)],
            select,
            recipe,
        )
        for share in sorted(recipe.name_shares)
    }
    share = max(found, key=lambda tried: found[tried][1])
    values = ", ".join(f"{tried:g}: {value:.3f}" for tried, (_, value) in found.items())
    why = f"A name share of {share:g} has the highest mAP@10 on select ({values})."
    gallery = GallerySettings(protocol=recipe.gallery, name_share=share, chosen_because=why)
    return found[share][0].model_copy(update={"gallery": gallery})


def _best(
    pool: Sequence[Member], score_MQN: Sequence[Floats], select: Validator, recipe: ReleaseRecipe
) -> tuple[ChoiceStep, float]:
    """The best ensemble by these scores, and its mAP@10 on *select*."""
    alone = np.array([select.quality(score_QN) for score_QN in score_MQN])
    epochs = [row for row, member in enumerate(pool) if not member.ingredients]
    soups = [row for row, member in enumerate(pool) if member.ingredients]
    best = max(epochs, key=lambda row: alone[row])
    fewest, most = min(recipe.min_members, len(epochs)), min(recipe.max_members, len(pool))
    weightings = {
        "best epoch": _uniform([best], len(pool)),
        "uniform last epochs": _uniform(_latest(pool, epochs, most), len(pool)),
        "greedy": greedy_weights(score_MQN, select.quality, min_members=min(fewest, most), max_members=most)[0],
    }
    if soups:
        weightings["best soup"] = _uniform([max(soups, key=lambda row: alone[row])], len(pool))
    candidates = [
        (name, weights, select.quality(_weighted(score_MQN, weights))) for name, weights in weightings.items()
    ]
    cheap = [candidate for candidate in candidates if len(_used(candidate[1])) <= most]
    allowed = [
        candidate for candidate in cheap if sum(len(pool[row].checkpoints) for row in _used(candidate[1])) >= fewest
    ]
    # One member and no soup: fewer checkpoints than wished for are better than no release.
    name, weights, value = max(allowed or cheap, key=lambda candidate: candidate[2])
    wish = f"at least {fewest} checkpoints" if allowed else f"fewer than the {fewest} checkpoints wished for"
    rows = sorted(_used(weights), key=lambda row: (-weights[row], row))
    members = tuple(pool[row].model_copy(update={"weight": float(weights[row])}) for row in rows)
    step = ChoiceStep(
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
            f"among ensembles of {wish} in at most {most} members, out of {len(epochs)} checkpoints "
            f"and {len(soups)} soups."
        ),
    )
    return step, value


def _latest(pool: Sequence[Member], epochs: Sequence[int], most: int) -> list[int]:
    """Rows of the last epochs, spread over the instances."""
    return sorted(epochs, key=lambda row: (-pool[row].epoch, pool[row].instance))[:most]


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
