"""Base weights that open_clip publishes, or that lie in a folder of its layout."""

import tempfile
from pathlib import Path
from typing import Any

import open_clip
from torch import nn

from enclip.errors import WeightsError
from enclip.models.architecture import Architecture, Preprocessing, TokenizerSpec, build_tokenizer
from enclip.models.checkpoint import digest_of, first_lines
from enclip.models.clip import ClipModel

_SCHEMES = ("hf-hub:", "local-dir:")
_HF_REMEDY = "Run `pip install enclip[hf]`."


def load_pretrained(name: str) -> ClipModel:
    """What open_clip calls `name`, on the CPU, in eval mode; see `load_base`.

    Raises:
        WeightsError: an unknown name, or weights that cannot be had from here.
    """
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
        preprocessing=_preprocessing(module, name),
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


def _preprocessing(module: nn.Module, name: str) -> Preprocessing:
    config = open_clip.get_model_preprocess_cfg(module)
    size = config["size"]
    interpolation = config.get("interpolation", "bicubic")
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise WeightsError(f"{name} looks at pictures of {size} px.", remedy="Use a CLIP that looks at squares.")
    try:
        return Preprocessing(
            side=sides.pop(),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
        )
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"The preprocessing of {name} cannot be used: {first_lines(error)}.",
            remedy="Give side, and mean and std of three colours, in its preprocess_cfg.",
        ) from error


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
