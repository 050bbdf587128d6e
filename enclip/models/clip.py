"""A CLIP in memory: batch → embedding."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from enclip.models.architecture import Architecture, Tokenizer
from enclip.models.device import autocast
from enclip.models.pixels import framed, normalise, to_unit
from enclip.models.texts import encode_texts, without_padding
from enclip.models.views import VIEWS
from enclip.records import Floats

Progress = Callable[[int, int], None]  # (done, total)

EMBED_BATCH = 256


@dataclass(frozen=True, eq=False)
class ClipModel:
    """Towers, tokenizer and where they come from.

    `init_id` names initialisation and architecture: checkpoints with equal ids may be averaged.
    `from_scratch` is true for a base with random weights and for what was trained from one, and
    `epochs_trained` counts the epochs of our own training behind the weights.
    """

    module: nn.Module
    tokenize: Tokenizer
    architecture: Architecture
    init_id: str
    from_scratch: bool
    epochs_trained: int = 0

    @property
    def is_untrained(self) -> bool:
        """Whether the weights are random still."""
        return self.from_scratch and not self.epochs_trained

    @property
    def sharpness(self) -> float:
        """What multiplies the cosines in training: the inverse temperature of its softmax."""
        return float(self.module.logit_scale.detach().exp())  # type: ignore[operator]

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.architecture.dim

    @property
    def side(self) -> int:
        """Side of the square canvas in px."""
        return self.architecture.preprocessing.side

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def to(self, device: torch.device) -> "ClipModel":
        """Move the weights, in place, in the memory layout that convolutions are fastest in."""
        self.module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self


class ClipEncoder:
    """`records.Encoder` over a ClipModel: float32, unit norm, batched, safe to call from several threads."""

    def __init__(self, model: ClipModel, device: torch.device | None = None, *, batch: int = EMBED_BATCH) -> None:
        self._model = model.to(device or model.device)
        self._model.module.eval()
        self._device = device or model.device
        self._batch = batch

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._model.dim

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """`embedding_BD` of the texts: float32, unit norm. Text beyond the context is cut."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        tokens_BL = self._model.tokenize(texts)
        return self._collect(self._encode_tokens(part) for part in torch.split(tokens_BL, self._batch))

    def encode_images(self, pixels_BHWC: NDArray[np.uint8], *, views: int = 1) -> Floats:
        """`embedding_BD` of uint8 RGB square canvases of any common side: float32, unit norm; the mean of its views."""
        return embed_pixels(self._model, pixels_BHWC, self._device, views=views, batch=self._batch)

    def _encode_tokens(self, tokens_BL: Tensor) -> Tensor:
        # In float32: a query is short, and its embedding should not depend on which others it came with.
        with torch.inference_mode():
            features = encode_texts(self._model.module, without_padding(self._model.module, tokens_BL).to(self._device))
            return nn.functional.normalize(features.float(), dim=-1).cpu()

    @staticmethod
    def _collect(parts: Iterator[Tensor]) -> Floats:
        return np.concatenate([part.numpy() for part in parts])


def embed_pixels(
    model: ClipModel,
    pixels: NDArray[np.uint8],
    device: torch.device,
    *,
    rows: NDArray[np.integer] | None = None,
    views: int = 1,
    batch: int = EMBED_BATCH,
    progress: Progress | None = None,
) -> Floats:
    """`embedding_ND` of uint8 `[N, S, S, 3]` (an array or a memory map): float32, unit norm.

    The weights must be on `device` and the module in eval mode. Memory is flat but for the result.

    Args:
        rows: of these pictures alone, in this order.
        views: how many of `VIEWS` are taken of each picture; its embedding is their mean, and takes as often as long.
    """
    preprocessing = model.architecture.preprocessing
    count = len(pixels) if rows is None else len(rows)
    embedding_ND = np.empty((count, model.dim), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, count, batch):
            here = slice(start, start + batch) if rows is None else rows[start : start + batch]
            # The copy turns a read-only memory map into an array that torch may own.
            part = torch.from_numpy(np.array(pixels[here])).to(device, non_blocking=True)
            images_BCHW = framed(to_unit(part), preprocessing)
            seen = [_embedded(model, normalise(view.of(images_BCHW), preprocessing), device) for view in VIEWS[:views]]
            mean_BD = nn.functional.normalize(torch.stack(seen).mean(dim=0), dim=-1) if views > 1 else seen[0]
            embedding_ND[start : start + batch] = mean_BD.cpu().numpy()
            if progress:
                progress(min(start + batch, count), count)
    return embedding_ND


def _embedded(model: ClipModel, images_BCHW: Tensor, device: torch.device) -> Tensor:
    with autocast(device):
        features: Tensor = model.module.encode_image(images_BCHW)  # type: ignore[operator]
    return nn.functional.normalize(features.float(), dim=-1)
