"""Base weights by name (D10)."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch

from enclip.errors import WeightsError
from enclip.models.architecture import Architecture, build_module, build_tokenizer, frame_of
from enclip.models.checkpoint import CARD, digest_of, load_checkpoint
from enclip.models.clip import ClipModel
from enclip.recipes import TINY

MOST_OF_SQUARE = 0.9  # a frame that saves less is not worth another shape


def load_base(name: str, *, seed: int, device: torch.device) -> ClipModel:
    """Base weights, in eval mode.

    Args:
        name: `tiny` (random weights by `seed`, no download), `NAME:TAG` of open_clip, `hf-hub:ORG/NAME`,
            or `local-dir:PATH` of an open_clip folder or of one of our checkpoints.
        seed: initialises what has no pretrained weights; pretrained bases do not depend on it.

    Raises:
        WeightsError: an unknown name, or weights that cannot be had from here.
    """
    if name == TINY:
        return _random(packaged(TINY), seed=seed).to(device)
    path = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:") and (path / CARD).is_file():
        return load_checkpoint(path, device=device)
    from enclip.models.pretrained import load_pretrained

    return load_pretrained(name).to(device)


def at_side(model: ClipModel, side: int) -> ClipModel:
    """The same weights in a network that takes pictures of another side, in px; in eval mode, on the same device.

    Convolutions take any; 0 leaves it as it is. It counts as another initialisation: averaging knows architectures by
    their side.

    Raises:
        WeightsError: a tower whose weights depend on the side, as those of vision transformers do.
    """
    if side in (0, model.side):
        return model
    old = model.architecture
    vision = {**old.model_cfg["vision_cfg"], "image_size": side}
    architecture = old.model_copy(
        update={
            "model_cfg": {**old.model_cfg, "vision_cfg": vision},
            "preprocessing": old.preprocessing.at(side),
        }
    )
    module = build_module(architecture)
    try:
        module.load_state_dict(model.module.state_dict())
    except RuntimeError as error:
        raise WeightsError(
            f"The image tower's weights are for pictures of {model.side} px and cannot take {side} px.",
            remedy="Use a base whose image tower is convolutional.",
        ) from error
    changed = replace(model, module=module, architecture=architecture, init_id=digest_of(module, architecture))
    return changed.to(model.device)


def at_frame(model: ClipModel, aspect: float) -> ClipModel:
    """The same weights in a network that looks at the middle of its canvas alone, of that width over height.

    So nothing is computed of the white beside upright pictures: at 3:4 training took 0.81 of the time. For
    convolutions that start from nothing; a model that has been trained keeps its frame, and so does a tower
    that takes squares alone. What is nearly a square has no frame.
    """
    frame = frame_of(model.side, aspect)
    if not model.is_untrained or frame[0] * frame[1] > MOST_OF_SQUARE * model.side**2:
        return model
    try:
        with torch.inference_mode():
            model.module.encode_image(torch.zeros(1, 3, *frame, device=model.device))  # type: ignore[operator]
    except (RuntimeError, AssertionError):
        return model
    preprocessing = model.architecture.preprocessing.model_copy(update={"frame": frame})
    architecture = model.architecture.model_copy(update={"preprocessing": preprocessing})
    return replace(model, architecture=architecture, init_id=digest_of(model.module, architecture))


def packaged(name: str) -> Architecture:
    """An architecture that is part of this package."""
    text = (files("enclip.models") / "configs" / f"{name}.json").read_text(encoding="utf-8")
    return Architecture.model_validate_json(text)


def _random(architecture: Architecture, *, seed: int) -> ClipModel:
    module = build_module(architecture, seed=seed)
    return ClipModel(
        module=module,
        tokenize=build_tokenizer(architecture.tokenizer),
        architecture=architecture,
        init_id=digest_of(module, architecture),
        from_scratch=True,
    )
