"""Good pictures → poor ones, the same every time: fewer pixels, a stronger JPEG, blur, noise."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]

BLUR_SIDE = 80  # px: the side of a canvas on which a blur has the deviation it says


def _shrink(pixels_HWC: Pixels, side: float, _chance: np.random.Generator) -> Pixels:
    """Fewer pixels, and enlarged again."""
    whole = Image.fromarray(pixels_HWC)
    small = whole.resize((round(side), round(side)), Image.Resampling.BICUBIC)
    return np.asarray(small.resize(whole.size, Image.Resampling.BICUBIC))


def _compress(pixels_HWC: Pixels, quality: float, _chance: np.random.Generator) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "JPEG", quality=round(quality))
    return np.asarray(Image.open(file).convert("RGB"))


def _blur(pixels_HWC: Pixels, deviation: float, _chance: np.random.Generator) -> Pixels:
    radius = deviation * pixels_HWC.shape[0] / BLUR_SIDE
    return np.asarray(Image.fromarray(pixels_HWC).filter(ImageFilter.GaussianBlur(radius)))


def _noise(pixels_HWC: Pixels, deviation: float, chance: np.random.Generator) -> Pixels:
    noise = chance.normal(0, 255 * deviation, pixels_HWC.shape)
    return np.clip(np.rint(pixels_HWC + noise), 0, 255).astype(np.uint8)


_WAYS: Mapping[str, Callable[[Pixels, float, np.random.Generator], Pixels]] = {
    "resolution": _shrink,
    "JPEG": _compress,
    "blur": _blur,
    "noise": _noise,
}


@dataclass(frozen=True, slots=True)
class Degradation:
    """One way to spoil a picture, and how far.

    Attributes:
        way: "resolution", "JPEG", "blur" or "noise".
        level: px of the longest side; JPEG quality; deviation in px at a side of 80; deviation of 0 to 1.
    """

    way: str
    level: float

    @property
    def label(self) -> str:
        """For people: `12 px`, `JPEG 10`, `blur 2 px`, `noise 0.1`."""
        level = f"{self.level:g}"
        return {"resolution": f"{level} px", "blur": f"blur {level} px"}.get(self.way, f"{self.way} {level}")

    @property
    def key(self) -> str:
        """For file names."""
        return f"{self.way.lower()}-{self.level:g}"

    def __call__(self, pixels: Pixels) -> Pixels:
        """uint8 `[N, S, S, 3]` → the same shape. A picture has the same noise in whatever company it comes.

        The canvas's white beside a picture stays white: a shop's picture is poor before it stands there, and towers
        with a frame look for what reaches beyond it.
        """
        spoil = _WAYS[self.way]
        return np.stack(
            [
                _beside(picture, spoil(picture, self.level, np.random.default_rng(crc32(picture.tobytes()))))
                for picture in pixels
            ]
        )


def _beside(good_HWC: Pixels, spoilt_HWC: Pixels) -> Pixels:
    """The spoilt picture with the good one's white rows and columns at the edges."""
    white_HW = (good_HWC == 255).all(axis=2)
    margin_H, margin_W = (_from_ends(white_HW.all(axis=axis)) for axis in (1, 0))
    return np.where((margin_H[:, None] | margin_W)[..., None], np.uint8(255), spoilt_HWC)


def _from_ends(white_L: NDArray[np.bool_]) -> NDArray[np.bool_]:
    start, end = np.logical_and.accumulate(white_L), np.logical_and.accumulate(white_L[::-1])[::-1]
    return np.asarray(start | end)
