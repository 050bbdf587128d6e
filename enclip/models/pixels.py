"""uint8 canvases → the tower's input, batched and on the device."""

import torch
from torch import Tensor
from torch.nn import functional

from enclip.models.architecture import Preprocessing


def to_unit(pixels_BHWC: Tensor) -> Tensor:
    """uint8 `[B, H, W, 3]` → float32 `image_BCHW` in [0, 1], channels last in memory."""
    # A permuted BHWC tensor already is channels-last memory: no copy is made beyond the conversion.
    return pixels_BHWC.permute(0, 3, 1, 2).float().div_(255)


def normalise(image_BCHW: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Images in [0, 1] of any square side → the tower's side, mean and deviation."""
    if image_BCHW.shape[-1] != preprocessing.side:
        image_BCHW = resize(image_BCHW, preprocessing.side, preprocessing.interpolation)
    mean = torch.tensor(preprocessing.mean, device=image_BCHW.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=image_BCHW.device).view(1, 3, 1, 1)
    return ((image_BCHW - mean) / std).contiguous(memory_format=torch.channels_last)


def prepare(pixels_BHWC: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 `[B, S, S, 3]` → `image_BCHW` as the tower wants it; the whole canvas stays in view."""
    return normalise(to_unit(pixels_BHWC), preprocessing)


def resize(image_BCHW: Tensor, side: int, interpolation: str = "bilinear") -> Tensor:
    """Antialiased resize to a square; values stay in [0, 1] (bicubic overshoots)."""
    resized = functional.interpolate(
        image_BCHW, size=(side, side), mode=interpolation, antialias=True, align_corners=False
    )
    return resized.clamp_(0, 1)
