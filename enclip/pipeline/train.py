"""Fine-tune: every epoch of every instance becomes a version of `enclip-epoch`."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from enclip.catalog.snapshot import load_snapshot, pixel_map, stored_side, typical_aspect
from enclip.errors import TrainingError
from enclip.ledger import finish_attempt
from enclip.models import training
from enclip.models.bases import at_frame, at_side, load_base
from enclip.models.checkpoint import CARD, load_checkpoint, read_card
from enclip.models.clip import ClipModel
from enclip.models.device import gpu_figures
from enclip.models.distributed import from_first, joined
from enclip.pipeline.budget import Budget, Price
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import Plan, RunFolder, TrainStep
from enclip.pipeline.validate import Validator, figures_of
from enclip.recipes import TrainRecipe
from enclip.records import EpochVersion, Products, Split


def train(
    platform: Platform,
    run_id: str,
    *,
    environment: Mapping[str, str] = os.environ,
    on_progress: Callable[[training.Progress], None] | None = None,
) -> TrainStep:
    """Fine-tune as the run's plan says; resumes after the last finished epoch.

    Args:
        environment: where torchrun says which of its processes this is. All of them train; the first
            one validates and registers.

    Raises:
        DeviceError: the plan asks for CUDA and there is none.
        ConfigError: not even one member of this base is within the budget.
        TrainingError: nothing to train on, or the loss is not a number.
    """
    folder = RunFolder(platform.blobs, run_id)
    plan = folder.read("plan", Plan)
    recipe = plan.recipe.train
    with joined(environment, recipe.device) as (ranks, device), folder.timed("train"):
        products = load_snapshot(platform.blobs, plan.snapshot)
        states = platform.scratch / "training" / run_id
        aspect = 1.0 if plan.base_source else typical_aspect(products, platform.blobs)
        model = starting_model(platform, plan, aspect, states / "i0", instance=0, device=device)
        if plan.recipe.release.max_text_ms or plan.recipe.release.max_memory_mb:
            # One clock for all processes: with their own, some might go on and wait for the others for ever.
            price = from_first(Price.of(model) if ranks.first else None)
            Budget(plan.recipe.release, num_products=len(products)).check(price)
        side = recipe.pixel_side or stored_side(products, platform.blobs, model.side)
        pixels = pixel_map(products, platform.blobs, side=side, scratch=platform.scratch, digest=plan.snapshot)
        rows = training_rows(products, recipe)
        recipe = sized(recipe, len(rows))
        select = Validator(products, split=Split.SELECT)
        epochs: list[EpochVersion] = []
        speeds: list[float] = []
        batch_size = recipe.batch_size
        for instance in range(recipe.instances):
            if instance:
                model = starting_model(
                    platform, plan, aspect, states / f"i{instance}", instance=instance, device=device
                )
            for result in training.fit(
                model,
                training.TrainingData(products=products, pixels=pixels, rows=rows),
                recipe,
                instance=instance,
                device=device,
                state_dir=states / f"i{instance}",
                validate=lambda trained: figures_of(select.evaluate(select.scores(trained, pixels)), prefix="val"),
                on_progress=on_progress,
            ):
                if result.epoch:
                    speeds.append(result.metrics["images_per_s"])
                    batch_size = min(batch_size, int(result.metrics["batch_size"]))
                if ranks.first:
                    epochs.append(
                        platform.registry.log_epoch(
                            plan.mlflow_run_id,
                            result.folder,
                            instance=result.instance,
                            epoch=result.epoch,
                            metrics=result.metrics,
                            snapshot=plan.snapshot,
                            num_products=len(rows),
                            base=recipe.base,
                            parent_version=plan.base_version,
                        )
                    )
        step = TrainStep(
            epochs=tuple(epochs),
            pixel_side=side,
            device=str(device),
            batch_size=batch_size,
            images_per_s=round(float(np.mean(speeds)), 1) if speeds else 0.0,
        )
        if ranks.first:
            _report(platform, plan, step, device, num_rows=len(rows))
            folder.write("train", step)
            finish_attempt(platform.database, run_id=run_id, outcome="trained")
    return step


def sized(recipe: TrainRecipe, num_products: int) -> TrainRecipe:
    """The recipe with a batch size where it leaves it open: small catalogs need steps more than negatives."""
    if recipe.batch_size:
        return recipe
    return recipe.model_copy(update={"batch_size": min(128, max(16, num_products // 100))})


def training_rows(products: Products, recipe: TrainRecipe) -> NDArray[np.int64]:
    """Rows to train on: the train split, or the focus categories' part of it with a replay sample.

    Raises:
        TrainingError: fewer than two products are left.
    """
    trainable = products.split == Split.TRAIN
    if recipe.focus:
        focus = np.isin(products.category, recipe.focus) | np.isin(products.article_type, recipe.focus)
        inside = np.flatnonzero(trainable & focus)
        outside = np.flatnonzero(trainable & ~focus)
        wanted = min(len(outside), round(recipe.replay * len(inside)))
        replay = np.random.default_rng(recipe.seed).choice(outside, size=wanted, replace=False)
        rows = np.sort(np.concatenate([inside, replay]))
    else:
        rows = np.flatnonzero(trainable)
    if len(rows) < 2:
        raise TrainingError(
            f"Only {len(rows)} products to train on.", remedy="Take in more products, or name other categories."
        )
    return rows


def starting_model(
    platform: Platform, plan: Plan, aspect: float, state_dir: Path, *, instance: int, device: torch.device
) -> ClipModel:
    """What an instance starts from: the plan's weights, in the shape that it began with or that pictures have."""
    recipe = plan.recipe.train
    if plan.base_source:
        champion = load_checkpoint(platform.registry.fetch_epoch(plan.base_source), device=device)
        return at_side(champion, recipe.image_side)
    base = at_side(load_base(recipe.base, seed=recipe.seed + instance, device=device), recipe.image_side)
    begun = state_dir / "epoch-00"
    if (begun / CARD).is_file() and read_card(begun).architecture.preprocessing.frame is None:
        return base  # cut off before bases looked at a shape
    return at_frame(base, aspect)


def _report(platform: Platform, plan: Plan, step: TrainStep, device: torch.device, *, num_rows: int) -> None:
    """What the run's page in MLflow shows of the training as a whole, the GPU included."""
    gpu = gpu_figures(device)
    facts = {name: value for name, value in gpu.items() if isinstance(value, str)}
    figures = {name: value for name, value in gpu.items() if not isinstance(value, str)}
    platform.registry.log_figures(
        plan.mlflow_run_id,
        params={
            "device": step.device,
            "batch_size": step.batch_size,
            "pixel_side": step.pixel_side,
            "train_products": num_rows,
            **facts,
        },
        metrics={"images_per_s": step.images_per_s, **figures},
    )
