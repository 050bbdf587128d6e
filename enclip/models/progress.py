"""What a training has done so far: the records it hands out, and the state it resumes from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from enclip.blobs import writing
from enclip.errors import TrainingError
from enclip.models.batches import TrainingData
from enclip.models.checkpoint import digest_of
from enclip.models.clip import ClipModel
from enclip.recipes import TrainRecipe

STATE = "state.pt"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an instance is: `step` of `steps` over all its epochs, the loss and the speed just now."""

    instance: int
    epoch: int
    step: int
    steps: int
    loss: float
    images_per_s: float


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One epoch of an instance. `folder` holds its checkpoint; epoch 0 is the untuned base.

    `metrics` are train_loss, matching_similarity, nonmatching_similarity, logit_scale, learning_rate,
    batch_size (less than asked for where memory was short), images_per_s, and what `validate` returned.
    """

    instance: int
    epoch: int
    folder: Path
    weights_sha256: str
    metrics: Mapping[str, float]
    seconds: float


def fingerprint(model: ClipModel, data: TrainingData, recipe: TrainRecipe, *, instance: int) -> str:
    """Names a training by its recipe, base, products and pictures; only an equal one may be resumed."""
    digest = hashlib.sha256(recipe.model_dump_json(exclude=set(recipe.left_out_of_digests)).encode())
    digest.update(f"{instance} {data.pixels.shape} {digest_of(model.module, model.architecture)}".encode())
    for row in data.rows:
        digest.update(f"{data.products.product_id[row]} {data.products.image_sha256[row]}\n".encode())
    return digest.hexdigest()


def save_state(folder: Path, *, name: str, results: list[EpochResult], tensors: Mapping[str, Any]) -> None:
    """Write the state after a finished epoch; a crash leaves the one before it."""
    rows = [{**asdict(result), "folder": result.folder.name} for result in results]
    temporary = folder / f".tmp-{STATE}"
    tensors = on_host(tensors)  # an error of the device is not one of the disk
    with writing(folder / STATE, RuntimeError):
        torch.save({"fingerprint": name, "results": json.dumps(rows), **tensors}, temporary)
        temporary.replace(folder / STATE)


def on_host(value: Any) -> Any:
    """The same nested dicts and lists with every tensor on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {key: on_host(item) for key, item in value.items()}
    return [on_host(item) for item in value] if isinstance(value, list) else value


def load_state(folder: Path, *, name: str, device: torch.device) -> tuple[list[EpochResult], dict[str, Any]]:
    """Results and tensors of the finished epochs; both empty where none is.

    Raises:
        TrainingError: the folder holds the state of another training, or a damaged one.
    """
    path = folder / STATE
    if not path.is_file():
        return [], {}
    try:
        saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        found = saved.pop("fingerprint")
        results = [EpochResult(**{**row, "folder": folder / row["folder"]}) for row in json.loads(saved.pop("results"))]
    except (OSError, EOFError, RuntimeError, UnpicklingError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"The training state {path} cannot be read: {error}", remedy=f"Remove {folder} to start again."
        ) from error
    if found != name:
        raise TrainingError(
            f"{folder} holds a training with another recipe, base or catalog.",
            remedy="Start a new run, or remove that folder to start this one again.",
        )
    return results, saved
