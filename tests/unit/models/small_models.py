"""A CLIP of a few thousand weights, and products that are a coloured shape, 16 px wide."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from enclip.models.architecture import Architecture, Preprocessing, TokenizerSpec, build_module, build_tokenizer
from enclip.models.checkpoint import digest_of
from enclip.models.clip import ClipModel
from enclip.models.training import EpochResult, Progress, TrainingData, fit
from enclip.recipes import TrainRecipe
from enclip.records import Product, Products

SIDE = 16
COLOURS = {"Red": (200, 30, 30), "Green": (30, 170, 60), "Blue": (40, 60, 200), "Black": (20, 20, 20)}
TYPES = ("Bars", "Boxes", "Rings")
CPU = torch.device("cpu")

SMALL = Architecture(
    model_cfg={
        "embed_dim": 16,
        "vision_cfg": {"timm_model_name": "test_resnet", "image_size": 32},
        "text_cfg": {"context_length": 12, "vocab_size": 1024, "width": 32, "heads": 2, "layers": 1},
    },
    preprocessing=Preprocessing(side=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bilinear"),
    tokenizer=TokenizerSpec(kind="bpe", context_length=12, num_merges=510),
)

_PATCHES = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TRANSFORMER = SMALL.model_copy(update={"model_cfg": {**SMALL.model_cfg, "vision_cfg": _PATCHES}})


def small_clip(seed: int = 0, architecture: Architecture = SMALL) -> ClipModel:
    module = build_module(architecture, seed=seed)
    return ClipModel(
        module=module,
        tokenize=build_tokenizer(architecture.tokenizer),
        architecture=architecture,
        init_id=digest_of(module, architecture),
        from_scratch=True,
    )


def draw_shapes(size: int) -> TrainingData:
    random = np.random.default_rng(1)
    products, canvases = [], []
    for number in range(size):
        colour = list(COLOURS)[number % len(COLOURS)]
        kind = TYPES[number // len(COLOURS) % len(TYPES)]
        products.append(
            Product(
                product_id=f"p{number:03d}",
                name=f"{colour} {kind} {number}",
                image_sha256=f"{number:064x}",
                article_type=kind,
                base_colour=colour,
            )
        )
        canvases.append(_draw(kind, COLOURS[colour], random))
    return TrainingData(
        products=Products.from_rows(products), pixels=np.stack(canvases), rows=np.arange(size, dtype=np.int64)
    )


def _draw(kind: str, colour: tuple[int, int, int], random: np.random.Generator) -> NDArray[np.uint8]:
    canvas = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    top, left = random.integers(2, 5, size=2)
    body = canvas[top : top + 9, left : left + 9]
    if kind == "Bars":
        body[::3] = colour
    else:
        body[:] = colour
        if kind == "Rings":
            body[3:6, 3:6] = 255
    noise = random.normal(0, 6, canvas.shape)
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)


def epochs_trained(
    model: ClipModel,
    data: TrainingData,
    recipe: TrainRecipe,
    state_dir: Path,
    *,
    instance: int,
    validate: Callable[[ClipModel], Mapping[str, float]],
    stop_after: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[EpochResult]:
    """The epochs of a training on the CPU, up to one after which it is cut off."""
    results = []
    for result in fit(
        model,
        data,
        recipe,
        instance=instance,
        device=CPU,
        state_dir=state_dir,
        validate=validate,
        on_progress=on_progress,
    ):
        results.append(result)
        if result.epoch == stop_after:
            break
    return results
