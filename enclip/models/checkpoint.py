"""A checkpoint on disk: `weights.safetensors` and `model.json`. Never a pickle.

`model.json` carries all that builds the network again, the hash of the weights included, so that the
two files are enough anywhere, without a hub and without the base they came from.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from enclip.blobs import write_whole, writing
from enclip.errors import WeightsError
from enclip.models.architecture import Architecture, build_module, build_tokenizer
from enclip.models.clip import ClipModel
from enclip.release import file_sha256

WEIGHTS = "weights.safetensors"
CARD = "model.json"


class Card(BaseModel):
    """`model.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: Literal[1] = 1
    architecture: Architecture
    init_id: str
    from_scratch: bool
    epochs_trained: int = 0
    pixel_side: int
    dim: int
    weights_sha256: str


def save_checkpoint(folder: Path, model: ClipModel, *, pixel_side: int) -> str:
    """Write both files, the card last; the weights' SHA-256, equal for equal weights.

    Args:
        pixel_side: side in px of the stored canvases that the checkpoint was trained on.

    Raises:
        StoreError: the disk is full or cannot be written to.
    """
    temporary = folder / f".tmp-{WEIGHTS}"
    with writing(folder / WEIGHTS, SafetensorError):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state_of(model.module), temporary)
        sha256 = file_sha256(temporary)
        temporary.replace(folder / WEIGHTS)
        card = Card(
            architecture=model.architecture,
            init_id=model.init_id,
            from_scratch=model.from_scratch,
            epochs_trained=model.epochs_trained,
            pixel_side=pixel_side,
            dim=model.dim,
            weights_sha256=sha256,
        )
        write_whole(folder / CARD, card.model_dump_json(indent=2).encode())
    return sha256


def load_checkpoint(folder: Path, *, device: torch.device) -> ClipModel:
    """The model of a checkpoint, in eval mode; the weights are hashed before they are used.

    Raises:
        WeightsError: a missing, damaged or newer file, or weights that do not fit the architecture.
    """
    card = read_card(folder)
    state = read_weights(folder, card)
    module = build_module(card.architecture)
    fill(module, state, where=folder / WEIGHTS)
    model = ClipModel(
        module=module,
        tokenize=build_tokenizer(card.architecture.tokenizer),
        architecture=card.architecture,
        init_id=card.init_id,
        from_scratch=card.from_scratch,
        epochs_trained=card.epochs_trained,
    )
    return model.to(device)


def read_card(folder: Path) -> Card:
    """`model.json` alone. Raises WeightsError."""
    path = folder / CARD
    try:
        return Card.model_validate_json(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"No checkpoint at {folder}: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "content"
        raise WeightsError(
            f"{path} is not a checkpoint's card: {place}: {first['msg']}.",
            remedy="Fetch the checkpoint again, or upgrade enclip if a newer one wrote it.",
        ) from error


def read_weights(folder: Path, card: Card) -> dict[str, Tensor]:
    """The weights by name, on the CPU, hashed first. Raises WeightsError."""
    path = folder / WEIGHTS
    try:
        found = file_sha256(path)
        if found != card.weights_sha256:
            raise WeightsError(
                f"{path} is damaged: SHA-256 {found[:12]}…, expected {card.weights_sha256[:12]}….",
                remedy="Fetch the checkpoint again.",
            )
        return load_file(path, device="cpu")
    except OSError as error:
        raise WeightsError(f"Cannot read {path}: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}.") from error


def fill(module: nn.Module, state: dict[str, Tensor], *, where: Path) -> None:
    """Load weights that must fit name by name and shape by shape. Raises WeightsError."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{where} does not fit its architecture: {first_lines(error)}.") from error


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and statistics by name: CPU copies of their own memory, as safetensors wants them."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in module.state_dict().items()}


def digest_of(module: nn.Module, architecture: Architecture) -> str:
    """16 hex digits that name these weights in this architecture; of a base, its `init_id`."""
    asked = architecture.model_dump(mode="json")
    if architecture.preprocessing.frame is None:  # as digests were before there were frames
        del asked["preprocessing"]["frame"]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    for key, value in sorted(state_of(module).items()):
        digest.update(key.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def first_lines(error: Exception) -> str:
    """What torch says of weights that do not fit, on one line: it names every tensor on a line of its own."""
    return "; ".join(line.strip() for line in str(error).splitlines()[:2]).rstrip(".")
