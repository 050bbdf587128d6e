"""What a CLIP is made of, as JSON that builds it again: offline, without weights, without a name to look up."""

import gzip
import json
import logging
import math
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn

from enclip.errors import WeightsError
from enclip.models.small_maps import mend

Tokenizer = Callable[[Sequence[str]], Tensor]  # texts → token_BL, int64

FRAME_STEP = 4  # px

_seed_lock = threading.Lock()


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(_Frozen):
    """How uint8 pixels become the tower's input. Mean and std are of RGB in [0, 1]."""

    side: int = Field(gt=0, description="Side of the square canvas in px, and the longer one of the input.")
    frame: tuple[int, int] | None = Field(
        None, description="Height and width of the canvas's middle, in px, where the tower looks at no more of it."
    )
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    def at(self, side: int) -> "Preprocessing":
        """The same for pictures of another side; a frame keeps its shape."""
        frame = self.frame and frame_of(side, self.frame[1] / self.frame[0])
        return self.model_copy(update={"side": side, "frame": frame})

    @model_serializer(mode="wrap")
    def _as_before_frames(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a frame nothing is said of it: digests stay, and an older enclip reads the card."""
        said: dict[str, Any] = dump(self)
        if self.frame is None:
            said.pop("frame", None)
        return said


def frame_of(side: int, aspect: float) -> tuple[int, int]:
    """Height and width in px of a width over height, the longer one the side."""
    shorter = side * min(aspect, 1 / aspect)
    shorter = min(side, max(FRAME_STEP, math.ceil(round(shorter / FRAME_STEP, 6)) * FRAME_STEP))
    return (side, shorter) if aspect < 1 else (shorter, side)


class TokenizerSpec(_Frozen):
    """How text becomes tokens.

    `bpe` is open_clip's byte-pair encoding, whose merges lie in its wheel; the most frequent
    `num_merges` of them suffice for a small text tower, and keep its embedding table small.
    `hf` carries its own files, so that a checkpoint needs no hub.
    """

    kind: Literal["bpe", "hf"]
    context_length: int = Field(gt=1)
    num_merges: int = Field(0, ge=0, description="bpe: merges kept; 0: all.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of open_clip's tokenizer.")
    files: dict[str, str] = Field(default_factory=dict, description="hf: the tokenizer's text files by name.")


class Architecture(_Frozen):
    """Everything about a CLIP but its weights."""

    model_cfg: dict[str, Any] = Field(description="open_clip's model configuration.")
    preprocessing: Preprocessing
    tokenizer: TokenizerSpec
    text_tower: dict[str, Any] = Field(
        default_factory=dict, description="config.json of a Hugging Face text tower, where there is one."
    )

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.model_cfg["embed_dim"])


def build_module(architecture: Architecture, *, seed: int = 0) -> nn.Module:
    """The network with seeded random weights, on the CPU, in eval mode. Touches no network.

    Raises:
        WeightsError: open_clip or timm cannot build this configuration.
    """
    import open_clip  # here, since it takes seconds, and most steps build no network

    with tempfile.TemporaryDirectory(prefix="enclip-") as folder:
        model_cfg = json.loads(json.dumps(architecture.model_cfg))  # open_clip writes into what it is given
        if architecture.text_tower:
            (Path(folder) / "config.json").write_text(json.dumps(architecture.text_tower))
            model_cfg["text_cfg"]["hf_model_name"] = folder
        (Path(folder) / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
        # One thread at a time: the seed is set around a global generator, and restored.
        with _seed_lock, torch.random.fork_rng(devices=[]), _Quiet():
            torch.manual_seed(seed)
            try:
                module = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
            except (RuntimeError, ValueError, TypeError, KeyError, AssertionError, OSError, ImportError) as error:
                raise WeightsError(
                    f"Cannot build the CLIP of this configuration: {error}",
                    remedy="Towers and tokenizers from Hugging Face need `pip install enclip[hf]`.",
                ) from error
    mend(module)
    return module.eval()  # type: ignore[no-any-return]


def build_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """The tokenizer; texts beyond its context are cut. Touches no network.

    Raises:
        WeightsError: a Hugging Face tokenizer without the `transformers` package, or damaged files.
    """
    tokenizer = _bpe(spec) if spec.kind == "bpe" else _hugging_face(spec)

    def tokenize(texts: Sequence[str]) -> Tensor:
        if not texts:
            return torch.zeros(0, spec.context_length, dtype=torch.int64)
        tokens: Tensor = tokenizer(list(texts))
        return tokens

    return tokenize


def _bpe(spec: TokenizerSpec) -> Any:
    from open_clip.tokenizer import SimpleTokenizer, default_bpe

    if not spec.num_merges:
        return SimpleTokenizer(context_length=spec.context_length, **spec.options)
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for _, line in zip(range(spec.num_merges + 1), file, strict=False)]
    with tempfile.NamedTemporaryFile(suffix=".gz") as kept:
        kept.write(gzip.compress("\n".join(lines).encode()))
        kept.flush()
        return SimpleTokenizer(bpe_path=kept.name, context_length=spec.context_length, **spec.options)


def _hugging_face(spec: TokenizerSpec) -> Any:
    from open_clip.tokenizer import HFTokenizer

    with tempfile.TemporaryDirectory(prefix="enclip-") as folder:
        for name, text in spec.files.items():
            (Path(folder) / Path(name).name).write_text(text, encoding="utf-8")
        try:
            return HFTokenizer(folder, context_length=spec.context_length, **spec.options)
        except ImportError as error:
            raise WeightsError(
                "This model's tokenizer needs the package `transformers`.", remedy="Run `pip install enclip[hf]`."
            ) from error
        except (OSError, ValueError) as error:
            raise WeightsError(f"The tokenizer's files {sorted(spec.files)} cannot be read: {error}") from error


class _Quiet:
    """open_clip logs each step of building a model, and a warning for random weights, to the root logger."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._before)
