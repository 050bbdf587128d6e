"""The last epochs of an instance → one checkpoint, registered like an epoch, as a further candidate (D4)."""

import shutil
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from enclip.models.checkpoint import read_card, save_checkpoint
from enclip.models.clip import ClipModel
from enclip.models.device import after_training, resolve_device
from enclip.models.soup import average_checkpoints
from enclip.pipeline.members import member_of
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import Plan
from enclip.pipeline.validate import Validator, figures_of
from enclip.records import EpochVersion, Floats
from enclip.release import Ingredient, Member

STATISTICS_FROM = 2048  # train products behind a soup's BatchNorm statistics


def cook(
    platform: Platform,
    plan: Plan,
    epochs: Sequence[EpochVersion],
    *,
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
    select: Validator,
) -> Iterator[tuple[Member, ClipModel, Floats]]:
    """Uniform soups of the recipe's last epochs, each registered, with its model and `score_QN` on *select*.

    One soup per initialisation: instances of pretrained weights start alike and go into one soup, while
    instances trained from nothing differ and have one each. Of fewer than two epochs there is none.

    Args:
        epochs: of the run; the untuned base is passed over.
        pixels: uint8 `[N, S, S, 3]` of the snapshot.
        rows: the products that were trained on.
    """
    sample = np.sort(np.random.default_rng(plan.recipe.train.seed).permutation(rows)[:STATISTICS_FROM])
    for batch in _batches(epochs, plan.recipe.release.soup_epochs):
        folders = [platform.registry.fetch_epoch(epoch.source) for epoch in batch]
        device = resolve_device(after_training(plan.recipe.train.device))
        model = average_checkpoints(folders, pixels=pixels[sample], device=device)
        scores = select.scores(model, pixels)
        figures = figures_of(select.evaluate(scores), prefix="val")
        soup = _registered(platform, plan, model, batch, figures, read_card(folders[0]).pixel_side, len(rows))
        yield soup, model, scores


def _batches(epochs: Sequence[EpochVersion], last: int) -> list[list[EpochVersion]]:
    """Per initialisation, the last epochs of each of its instances."""
    found: dict[str, list[EpochVersion]] = {}
    for instance in sorted({epoch.instance for epoch in epochs}):
        own = sorted((epoch for epoch in epochs if epoch.instance == instance), key=lambda epoch: epoch.epoch)
        trained = [epoch for epoch in own if epoch.epoch > 0]
        for epoch in trained[max(0, len(trained) - last) :]:
            found.setdefault(epoch.init_id, []).append(epoch)
    return [batch for batch in found.values() if len(batch) > 1]


def _registered(
    platform: Platform,
    plan: Plan,
    model: ClipModel,
    batch: Sequence[EpochVersion],
    figures: dict[str, float],
    pixel_side: int,
    num_products: int,
) -> Member:
    ingredients = tuple(
        Ingredient(version=epoch.version, instance=epoch.instance, epoch=epoch.epoch, weight=1 / len(batch))
        for epoch in batch
    )
    folder = platform.scratch / "soups" / plan.run_id / f"i{batch[-1].instance}"
    save_checkpoint(folder, model, pixel_side=pixel_side)
    soup = platform.registry.log_epoch(
        plan.mlflow_run_id,
        folder,
        instance=batch[-1].instance,
        epoch=batch[-1].epoch,
        metrics=figures,
        snapshot=plan.snapshot,
        num_products=num_products,
        base=plan.recipe.train.base,
        parent_version=plan.base_version,
        ingredients=ingredients,
    )
    shutil.rmtree(folder)
    return member_of(soup, pixel_side).model_copy(update={"ingredients": ingredients})
