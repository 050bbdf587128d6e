"""uint8 canvases → the tower's input, batched and on the device."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from enclip.models.architecture import Preprocessing

WHITE = 0.9  # from here on a pixel says nothing, whatever a JPEG's ringing makes of it


def to_unit(pixels_BHWC: Tensor) -> Tensor:
    """uint8 `[B, H, W, 3]` → float32 `image_BCHW` in [0, 1], channels last in memory."""
    # A permuted BHWC tensor already is channels-last memory: no copy is made beyond the conversion.
    return pixels_BHWC.permute(0, 3, 1, 2).float().div_(255)


def framed(image_BCHW: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Square images in [0, 1] of any side → the shape that the tower looks at, with the whole product in view.

    Of a canvas its frame is kept. A picture that reaches beyond it, as a broad one does beyond an upright
    frame, is made smaller.
    """
    if image_BCHW.shape[-1] != preprocessing.side:
        image_BCHW = resize(image_BCHW, preprocessing.side, preprocessing.interpolation)
    if preprocessing.frame is None:
        return image_BCHW
    height, width = preprocessing.frame
    top, left = (preprocessing.side - height) // 2, (preprocessing.side - width) // 2
    framed_BCHW = image_BCHW[:, :, top : top + height, left : left + width]
    beyond_B = torch.nonzero(_reaches_beyond(image_BCHW, top, left))[:, 0]
    if len(beyond_B):
        side = min(height, width)
        smaller = resize(image_BCHW[beyond_B], side, preprocessing.interpolation)
        above, before = (height - side) // 2, (width - side) // 2
        framed_BCHW = framed_BCHW.clone()
        framed_BCHW[beyond_B] = functional.pad(
            smaller, (before, width - side - before, above, height - side - above), value=1.0
        )
    return framed_BCHW


def _reaches_beyond(image_BCHW: Tensor, top: int, left: int) -> Tensor:
    """`beyond_B`: whether more than white, and what resizing spreads by a pixel, lies beyond the frame."""
    darkest_HW = image_BCHW.amin(dim=1)
    rows, columns = darkest_HW.amin(dim=2), darkest_HW.amin(dim=1)
    edges = [edge for line, cut in ((rows, top - 1), (columns, left - 1)) if cut > 0 for edge in _ends(line, cut)]
    if not edges:
        return torch.zeros(len(image_BCHW), dtype=torch.bool, device=image_BCHW.device)
    return torch.cat(edges, dim=1).amin(dim=1) < WHITE


def _ends(line_BL: Tensor, length: int) -> tuple[Tensor, Tensor]:
    return line_BL[:, :length], line_BL[:, -length:]


def normalise(image_BCHW: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Images in [0, 1] that fit the tower → its mean and deviation."""
    mean = torch.tensor(preprocessing.mean, device=image_BCHW.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=image_BCHW.device).view(1, 3, 1, 1)
    return ((image_BCHW - mean) / std).contiguous(memory_format=torch.channels_last)


def prepare(pixels_BHWC: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 `[B, S, S, 3]` → `image_BCHW` as the tower wants it; the whole product stays in view."""
    return normalise(framed(to_unit(pixels_BHWC), preprocessing), preprocessing)


def resize(image_BCHW: Tensor, size: int | tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """Antialiased resize to a square, or a height and a width; values stay in [0, 1] (bicubic overshoots)."""
    shape = (size, size) if isinstance(size, int) else size
    resized = functional.interpolate(image_BCHW, size=shape, mode=interpolation, antialias=True, align_corners=False)
    return resized.clamp_(0, 1)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training pictures vary. Colour is a label, so it hardly does.

    `low_quality` is the share of pictures that are shrunk, blurred, made noisy or compressed.
    """

    low_quality: float = 0.3
    flip: float = 0.5
    zoom: float = 0.15  # relative
    shift: float = 0.08  # of the side
    rotation: float = 0.07  # rad
    brightness: float = 0.12
    contrast: float = 0.12


def augment(image_BCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Images in [0, 1] → varied ones of the same size, each in its own way, white outside the canvas."""
    moved = _move(image_BCHW, augmentation, generator)
    jittered = _jitter(moved, augmentation, generator)
    return _degrade(jittered, augmentation.low_quality, generator)


def _uniform(size: int, low: float, high: float, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(size, device=like.device, generator=generator) * (high - low) + low


def _move(image_BCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Flip, zoom, turn and shift in one bilinear resampling.

    All in units of half a side, each axis its own: of pictures that are no squares a turn shears a little, too.
    """
    size = len(image_BCHW)
    # The grid maps output to input: a factor below 1 enlarges the product. Enlarging stays mild, so
    # that a product that fills its canvas is not cut.
    log_zoom = _uniform(size, -augmentation.zoom / 3, augmentation.zoom, image_BCHW, generator)
    angle = _uniform(size, -augmentation.rotation, augmentation.rotation, image_BCHW, generator)
    mirror = torch.where(_uniform(size, 0, 1, image_BCHW, generator) < augmentation.flip, -1.0, 1.0)
    # Shifts are in units of half a side.
    shift_x = _uniform(size, -2 * augmentation.shift, 2 * augmentation.shift, image_BCHW, generator)
    shift_y = _uniform(size, -2 * augmentation.shift, 2 * augmentation.shift, image_BCHW, generator)
    cosine, sine = log_zoom.exp() * angle.cos(), log_zoom.exp() * angle.sin()
    rows = [mirror * cosine, -sine, shift_x, mirror * sine, cosine, shift_y]
    theta_B23 = torch.stack(rows, dim=1).view(size, 2, 3)
    return warp(image_BCHW, theta_B23)


def warp(image_BCHW: Tensor, theta_B23: Tensor) -> Tensor:
    """Images in [0, 1] read at where an affine map sends each pixel, in units of half a side; white outside."""
    grid = functional.affine_grid(theta_B23, list(image_BCHW.shape), align_corners=False)
    # Outside the canvas grid_sample reads zeros; on the negative, zero is white.
    negative = functional.grid_sample(1 - image_BCHW, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return 1 - negative


def _jitter(image_BCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Brightness and contrast; hue and saturation stay, since shoppers ask for colours."""
    size = len(image_BCHW)
    gain = _uniform(size, 1 - augmentation.contrast, 1 + augmentation.contrast, image_BCHW, generator)
    lift = _uniform(size, -augmentation.brightness / 2, augmentation.brightness / 2, image_BCHW, generator)
    centred = (image_BCHW - 0.5) * gain.view(-1, 1, 1, 1) + 0.5 + lift.view(-1, 1, 1, 1)
    return centred.clamp_(0, 1)


def _degrade(image_BCHW: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Make a share of the pictures poor, each in one of four ways: small, blurred, noisy, compressed."""
    if share <= 0:
        return image_BCHW
    chosen = _uniform(len(image_BCHW), 0, 1, image_BCHW, generator) < share
    way_B = (_uniform(len(image_BCHW), 0, 4, image_BCHW, generator)).long().clamp_(max=3)
    way_B = torch.where(chosen, way_B, -1)
    result = image_BCHW.clone()
    ways: tuple[Callable[[Tensor, float], Tensor], ...] = (
        _shrink,
        _blur,
        partial(_add_noise, generator=generator),
        compress,
    )
    for way, spoil in enumerate(ways):
        rows = torch.nonzero(way_B == way)[:, 0]
        if len(rows):
            strength = float(_uniform(1, 0, 1, image_BCHW, generator))
            result[rows] = spoil(image_BCHW[rows], strength)
    return result


def _shrink(image_BCHW: Tensor, strength: float) -> Tensor:
    """Fewer pixels and back: 1/1.5 to 1/3 of the side."""
    height, width = image_BCHW.shape[-2:]
    factor = 1.5 + 1.5 * strength
    return resize(resize(image_BCHW, (max(8, round(height / factor)), max(8, round(width / factor)))), (height, width))


def _blur(image_BCHW: Tensor, strength: float) -> Tensor:
    """Gaussian blur of 0.6 to 1.4 px at a side of 80."""
    sigma = (0.6 + 0.8 * strength) * max(image_BCHW.shape[-2:]) / 80
    radius = max(1, round(2.5 * sigma))
    offset = torch.arange(-radius, radius + 1, device=image_BCHW.device, dtype=image_BCHW.dtype)
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1)
    padded = functional.pad(image_BCHW, (radius, radius, radius, radius), mode="replicate")
    across = functional.conv2d(padded, kernel.view(3, 1, 1, -1), groups=3)
    return functional.conv2d(across, kernel.view(3, 1, -1, 1), groups=3)


def _add_noise(image_BCHW: Tensor, strength: float, *, generator: torch.Generator) -> Tensor:
    """Gaussian noise with a deviation of 0.02 to 0.08."""
    noise = torch.randn(image_BCHW.shape, device=image_BCHW.device, generator=generator)
    return (image_BCHW + (0.02 + 0.06 * strength) * noise).clamp_(0, 1)


def compress(image_BCHW: Tensor, strength: float) -> Tensor:
    """The loss of JPEG, on the device: 8×8 DCT coefficients rounded, coarser at high frequencies.

    Strength 0 to 1 stands for a quality of about 60 down to 15. The quantisation step grows linearly
    with the frequency, a fair fit of the standard's luminance table.
    """
    own_height, own_width = image_BCHW.shape[-2:]
    padded = functional.pad(image_BCHW, (0, -own_width % 8, 0, -own_height % 8), mode="replicate")
    size, colours, height, width = padded.shape
    blocks = padded.reshape(size, colours, height // 8, 8, width // 8, 8).transpose(3, 4)
    basis = _dct_basis(image_BCHW)
    frequency = torch.arange(8, device=image_BCHW.device, dtype=image_BCHW.dtype)
    step = (12 + 8 * (frequency[:, None] + frequency[None, :])) / 255 * (0.8 + 2.5 * strength)
    coefficients = basis @ blocks @ basis.T
    restored = basis.T @ (torch.round(coefficients / step) * step) @ basis
    whole = restored.transpose(3, 4).reshape(size, colours, height, width)
    return whole[:, :, :own_height, :own_width].clamp(0, 1)


def _dct_basis(like: Tensor) -> Tensor:
    """The orthonormal 8×8 DCT-II matrix: row k is frequency k."""
    position = torch.arange(8, device=like.device, dtype=like.dtype)
    basis = torch.cos(math.pi * (2 * position[None, :] + 1) * position[:, None] / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis
