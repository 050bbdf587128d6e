"""A checkpoint on disk: `weights.safetensors` and `model.json`. Never a pickle.

`model.json` carries all that builds the network again, the hash of the weights included, so that the
two files are enough anywhere, without a hub and without the base they came from. But for a delta: an epoch of
low-rank updates has in its weights only what it changes, and beside them `base`, the checkpoint that it changes,
or a link to it. Who reads a checkpoint gets whole weights either way.
"""

import hashlib
import json
import os
from collections.abc import Mapping
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
from enclip.models.lora import ALPHA, changes, compose, composed
from enclip.release import file_sha256

WEIGHTS = "weights.safetensors"
CARD = "model.json"
BASE = "base"


class Delta(BaseModel):
    """Of what, and how, a delta's weights make whole ones (`lora.py`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_sha256: str
    alpha: float


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
    delta: Delta | None = None


def save_checkpoint(folder: Path, model: ClipModel, *, pixel_side: int, base: Path | None = None) -> str:
    """Write both files, the card last; the weights' SHA-256, equal for equal weights.

    Args:
        pixel_side: side in px of the stored canvases that the checkpoint was trained on.
        base: the whole checkpoint that the model was when low-rank updates were attached to it. Then only what has
            changed is written, and a link to the base; the hash stands for both.

    Raises:
        StoreError: the disk is full or cannot be written to. WeightsError: the base cannot be read.
    """
    temporary = folder / f".tmp-{WEIGHTS}"
    delta = Delta(base_sha256=read_card(base).weights_sha256, alpha=ALPHA) if base else None
    with writing(folder / WEIGHTS, SafetensorError):
        folder.mkdir(parents=True, exist_ok=True)
        if base and delta:
            save_file(_on_host(changes(model.module)), temporary, metadata={BASE: delta.base_sha256})
            link = folder / BASE
            if link.is_symlink() or not link.exists():  # else a copy, as some tools make of a link
                link.unlink(missing_ok=True)
                link.symlink_to(os.path.relpath(base, folder))
        else:
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
            delta=delta,
        )
        # Whole checkpoints say what they said before there were deltas: an older enclip reads them.
        text = card.model_dump_json(indent=2, exclude=None if delta else {"delta"})
        write_whole(folder / CARD, text.encode())
    return sha256


def load_checkpoint(folder: Path, *, device: torch.device) -> ClipModel:
    """The model of a checkpoint, in eval mode; the weights are hashed before they are used.

    Raises:
        WeightsError: a missing, damaged or newer file, a delta whose base is missing or is another one, or weights
            that do not fit the architecture.
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
    """The whole weights by name, on the CPU, hashed first; a delta's with its base's. Raises WeightsError."""
    state = _read_file(folder, card)
    if card.delta is None:
        return state
    base, wanted = folder / BASE, card.delta.base_sha256[:12]
    what = f"{folder} has only what changed from the base weights {wanted}…"
    remedy = f"Put the checkpoint with these weights at {base}, epoch 0 of the same training, or a link to it."
    if not (base / CARD).is_file():
        raise WeightsError(f"{what}, and there is no {base}.", remedy=remedy)
    base_card = read_card(base)
    if base_card.weights_sha256 != card.delta.base_sha256:
        raise WeightsError(f"{what}, and {base} has {base_card.weights_sha256[:12]}….", remedy=remedy)
    try:
        return compose(read_weights(base, base_card), state, alpha=card.delta.alpha)
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{folder / WEIGHTS} does not fit its base {base}: {first_lines(error)}.") from error


def _read_file(folder: Path, card: Card) -> dict[str, Tensor]:
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
    """Parameters and statistics by name, low-rank updates added: CPU copies, as safetensors wants them."""
    return _on_host(composed(module))


def _on_host(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of their own memory."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}


def digest_of(module: nn.Module, architecture: Architecture) -> str:
    """16 hex digits that name these weights in this architecture; of a base, its `init_id`."""
    digest = hashlib.sha256(json.dumps(architecture.model_dump(mode="json"), sort_keys=True).encode())
    for key, value in sorted(state_of(module).items()):
        digest.update(key.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def first_lines(error: Exception) -> str:
    """What torch says of weights that do not fit, on one line: it names every tensor on a line of its own."""
    return "; ".join(line.strip() for line in str(error).splitlines()[:2]).rstrip(".")
