"""Image bytes → pixels: uint8 RGB, upright, alpha on white, the whole product kept in view."""

import hashlib
import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from enclip.errors import ImageError

MAX_PIXELS = 25_000_000
MAX_BYTES = 25_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # what shops send; other decoders stay out of reach
WHITE = (255, 255, 255)
LYING = (5, 6, 7, 8)  # EXIF orientations of pictures that are turned by a quarter

Pixels = NDArray[np.uint8]


def decode(data: bytes) -> Pixels:
    """Pixels of a picture: `[height, width, 3]` uint8 RGB, at least 1×1.

    EXIF rotation is applied; palettes, grey, CMYK and 16 bit become RGB; transparency lies on white; of an
    animation the first frame counts.

    Raises:
        ImageError: not an image of a known format, truncated or damaged, or larger than 25 MP or 25 MB.
    """
    if not data:
        raise ImageError("The picture is empty.")
    if len(data) > MAX_BYTES:
        raise ImageError(f"The picture has {len(data)} bytes; {MAX_BYTES} are the most.")
    try:
        with warnings.catch_warnings():
            # Our own, stricter limit below decides; Pillow's would warn about sizes in between.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = picture.size
        if width * height > MAX_PIXELS:
            limit = f"{MAX_PIXELS // 1_000_000} MP are the most"
            raise ImageError(f"The picture is too large: {width}×{height} px; {limit}.")
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        return np.array(_rgb(picture), dtype=np.uint8)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"The picture is too large: {MAX_PIXELS // 1_000_000} MP are the most.") from error
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = f"none of {', '.join(FORMATS)}" if "cannot identify" in reason else reason
        raise ImageError(f"The picture cannot be decoded: {reason}.") from error


def fit_square(pixels_HWC: Pixels, side: int) -> Pixels:
    """The picture on a white square canvas, `[side, side, 3]` uint8: aspect kept, centred, nothing cropped."""
    height, width = pixels_HWC.shape[:2]
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size != (width, height):
        resized = Image.fromarray(pixels_HWC).resize(size, Image.Resampling.BICUBIC)  # Pillow's resize antialiases
        pixels_HWC = np.asarray(resized)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    canvas = np.full((side, side, 3), WHITE[0], dtype=np.uint8)  # one value fills faster than three
    canvas[top : top + size[1], left : left + size[0]] = pixels_HWC
    return canvas


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of a picture in px as it is looked at, read from its header alone. Raises ImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            # Pillow decodes a PNG whole to look for EXIF behind the pixels, which no camera puts there.
            known = picture.format != "PNG" or "exif" in picture.info
            turned = known and picture.getexif().get(ExifTags.Base.Orientation) in LYING
            return (height, width) if turned else (width, height)
    except Exception as error:  # as in `decode`
        raise ImageError(f"The picture cannot be read: {error}.") from error


def sha256(data: bytes) -> str:
    """Hex SHA-256 of a picture's bytes: its name in the store."""
    return hashlib.sha256(data).hexdigest()


def image_key(image_sha256: str) -> str:
    """Where a picture lies in the blob store."""
    return f"images/{image_sha256[:2]}/{image_sha256}"


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
        # Pillow clips 16 bit to 255 on conversion; keep the upper byte instead.
        wide = np.asarray(picture)
        return Image.fromarray((np.clip(wide, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*WHITE, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")
