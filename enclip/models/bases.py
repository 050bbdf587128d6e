"""Base weights by name (D10)."""

import math
import tempfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from enclip.errors import WeightsError
from enclip.models.architecture import Architecture, Preprocessing, TokenizerSpec, build_module, build_tokenizer
from enclip.models.checkpoint import CARD, digest_of, first_lines, load_checkpoint
from enclip.models.clip import ClipModel

TINY = "tiny"
FRAME_STEP = 4  # px
MOST_OF_SQUARE = 0.9  # a frame that saves less is not worth another shape
_SCHEMES = ("hf-hub:", "local-dir:")


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
    return _pretrained(name).to(device)


def at_side(model: ClipModel, side: int) -> ClipModel:
    """The same weights in a network that takes pictures of another side, in px; in eval mode, on the same device.

    Convolutions take any. It counts as another initialisation: averaging knows architectures by their side.

    Raises:
        WeightsError: a tower whose weights depend on the side, as those of vision transformers do.
    """
    old = model.architecture
    vision = {**old.model_cfg["vision_cfg"], "image_size": side}
    frame = old.preprocessing.frame and _frame(side, old.preprocessing.frame[1] / old.preprocessing.frame[0])
    architecture = old.model_copy(
        update={
            "model_cfg": {**old.model_cfg, "vision_cfg": vision},
            "preprocessing": old.preprocessing.model_copy(update={"side": side, "frame": frame}),
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
    frame = _frame(model.side, aspect)
    if not model.from_scratch or model.epochs_trained or frame[0] * frame[1] > MOST_OF_SQUARE * model.side**2:
        return model
    try:
        with torch.inference_mode():
            model.module.encode_image(torch.zeros(1, 3, *frame, device=model.device))  # type: ignore[operator]
    except (RuntimeError, AssertionError):
        return model
    preprocessing = model.architecture.preprocessing.model_copy(update={"frame": frame})
    architecture = model.architecture.model_copy(update={"preprocessing": preprocessing})
    return replace(model, architecture=architecture, init_id=digest_of(model.module, architecture))


def _frame(side: int, aspect: float) -> tuple[int, int]:
    """Height and width in px, the longer one the side."""
    shorter = side * min(aspect, 1 / aspect)
    shorter = min(side, max(FRAME_STEP, math.ceil(round(shorter / FRAME_STEP, 6)) * FRAME_STEP))
    return (side, shorter) if aspect < 1 else (shorter, side)


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


def _pretrained(name: str) -> ClipModel:
    model_name, tag, quick_gelu = _parse(name)
    try:
        module = open_clip.create_model(
            model_name,
            pretrained=tag,
            force_quick_gelu=quick_gelu,
            require_pretrained=True,  # open_clip otherwise goes on with random weights
        )
        model_cfg: dict[str, Any] = open_clip.get_model_config(model_name)
        if quick_gelu:
            model_cfg["quick_gelu"] = True
        tokenizer = open_clip.get_tokenizer(model_name)
    except ImportError as error:
        raise WeightsError(f"{name} needs a package that is not installed: {error}", remedy=_HF_REMEDY) from error
    except Exception as error:  # the hub's client, timm and open_clip raise a dozen unrelated kinds
        if "loading state_dict" in str(error):
            raise WeightsError(
                f"The weights of {name} do not fit its configuration: {first_lines(error)}.",
                remedy="Take configuration and weights from the same model.",
            ) from error
        raise WeightsError(
            f"Cannot load {name}: {error}",
            remedy="Without network, fetch the weights elsewhere and use local-dir:PATH, or base=tiny.",
        ) from error
    if "multimodal_cfg" in model_cfg:
        raise WeightsError(f"{name} is a CoCa, which has a decoder that search has no use for.", remedy="Use a CLIP.")
    architecture = Architecture(
        model_cfg=model_cfg,
        preprocessing=_preprocessing(module),
        tokenizer=_tokenizer_spec(tokenizer, model_cfg),
        text_tower=module.text.config.to_dict() if "hf_model_name" in model_cfg["text_cfg"] else {},
    )
    return ClipModel(
        module=module.eval(),
        tokenize=build_tokenizer(architecture.tokenizer),
        architecture=architecture,
        init_id=digest_of(module, architecture),
        from_scratch=False,
    )


_HF_REMEDY = "Run `pip install enclip[hf]`."


def _parse(name: str) -> tuple[str, str | None, bool]:
    """open_clip's model name, its pretrained tag or file, and whether the weights want QuickGELU."""
    if name.startswith(_SCHEMES):
        return name, None, False
    model_name, _, tag = name.partition(":")
    model_name = model_name.replace("/", "-")
    if model_name not in open_clip.list_models():
        raise WeightsError(
            f"There are no base weights {name!r}.",
            remedy="Use tiny, NAME:TAG of open_clip (such as ViT-B-32:laion2b_s34b_b79k), hf-hub:ORG/NAME or "
            "local-dir:PATH.",
        )
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if not tag or (tag not in tags and not Path(tag).is_file()):
        raise WeightsError(
            f"{model_name} has no pretrained tag {tag!r}.", remedy=f"Use one of: {', '.join(tags) or 'none'}."
        )
    published = open_clip.get_pretrained_cfg(model_name, tag) or {}
    return model_name, tag, bool(published.get("quick_gelu", False))


def _preprocessing(module: nn.Module) -> Preprocessing:
    config = open_clip.get_model_preprocess_cfg(module)
    size = config["size"]
    interpolation = config.get("interpolation", "bicubic")
    return Preprocessing(
        side=int(size if isinstance(size, int) else size[0]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
    )


def _tokenizer_spec(tokenizer: Any, model_cfg: dict[str, Any]) -> TokenizerSpec:
    text_cfg = model_cfg["text_cfg"]
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        return TokenizerSpec(kind="bpe", context_length=tokenizer.context_length, options=options)
    if type(tokenizer).__name__ == "SigLipTokenizer":
        options = {"clean": "canonicalize"}  # what that class does before the same kind of tokenizer
    if text_cfg.get("tokenizer_mode"):
        options["tokenizer_mode"] = text_cfg["tokenizer_mode"]
    with tempfile.TemporaryDirectory(prefix="enclip-") as folder:
        tokenizer.save_pretrained(folder)
        texts = {path.name: path.read_text(encoding="utf-8") for path in Path(folder).glob("*.json")}
    return TokenizerSpec(kind="hf", context_length=tokenizer.context_length, options=options, files=texts)
