"""Image bytes → pixels: what shops send, and what attackers send."""

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from enclip.catalog.images import decode, fit_square, image_key, sha256, size_of
from enclip.errors import ImageError


def _saved(picture: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def test_exif_rotation_is_applied() -> None:
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste((255, 0, 0), (0, 0, 10, 20))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for display
    data = _saved(picture, "JPEG", exif=exif, quality=95)
    pixels = decode(data)
    assert pixels.shape == (40, 20, 3) and size_of(data) == (20, 40)
    assert pixels[2, 10, 0] > 200 and pixels[2, 10, 1] < 60  # red is on top now


@pytest.mark.parametrize(("form", "orientation", "size"), [("JPEG", 9, (40, 20)), ("PNG", 6, (20, 40))])
def test_a_size_is_what_decoding_makes_of_it(form: str, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _saved(Image.new("RGB", (40, 20)), form, exif=exif)
    assert size_of(data) == size == decode(data).shape[1::-1]


def test_an_orientation_that_is_no_number_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _saved(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    data = data.replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x02")  # of the type ASCII
    assert isinstance(Image.open(io.BytesIO(data)).getexif()[0x0112], str)
    assert size_of(data) == (40, 20) == decode(data).shape[1::-1]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(mode: str) -> None:
    pixels = decode(_saved(Image.new(mode, (3, 3), 0), "PNG"))
    assert (pixels == 255).all()


def test_a_transparent_palette_lies_on_white() -> None:
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 20, 30] * 256)
    assert (decode(_saved(picture, "PNG", transparency=0)) == 255).all()


def test_cmyk_becomes_rgb() -> None:
    pixels = decode(_saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert pixels[4, 4, 0] > 200 and pixels[4, 4, 1] < 60


def test_sixteen_bits_keep_their_brightness() -> None:
    grey = np.full((4, 4), 32768, np.uint16)
    pixels = decode(_saved(Image.fromarray(grey), "PNG"))
    assert (pixels == 128).all()


def test_the_largest_sixteen_bit_picture_takes_no_gigabytes() -> None:
    data = _saved(Image.fromarray(np.zeros((5000, 5000), np.uint16)), "PNG")
    tracemalloc.start()
    decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 250_000_000  # NumPy's part; 64-bit intermediates took 425 MB


def test_grey_and_bilevel_pictures_become_rgb() -> None:
    assert decode(_saved(Image.new("L", (2, 2), 77), "PNG")).tolist()[0][0] == [77, 77, 77]
    assert decode(_saved(Image.new("1", (2, 2), 1), "PNG")).tolist()[0][0] == [255, 255, 255]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "The picture is empty"),
        (b"<html>not found</html>", "none of JPEG, PNG"),
        (_saved(Image.new("RGB", (2, 2)), "TIFF"), "none of JPEG, PNG"),
        (b"\xff\xd8\xff\xe0garbage", "picture"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
        (bytes(25_000_001), "25000001 bytes"),
    ],
    ids=["empty", "html", "tiff", "jpeg", "png", "huge"],
)
def test_what_is_no_picture_is_one_clear_error(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        decode(data)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "BMP"])
def test_a_picture_is_known_by_its_bytes_whatever_its_name(form: str) -> None:
    assert decode(_saved(Image.new("RGB", (3, 2), (255, 255, 255)), form)).shape == (2, 3, 3)


def test_one_pixel_is_a_picture() -> None:
    assert decode(_saved(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_picture_is_refused(form: str, kept: float) -> None:
    # Its header is whole: only reading the pixels shows what is missing.
    data = _saved(Image.effect_noise((64, 64), 80).convert("RGB"), form)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(data[: int(len(data) * kept)])


@pytest.mark.parametrize("side", [5_001, 10_000, 20_000])  # Pillow's own limits are silent, a warning, an error
def test_a_decompression_bomb_is_refused_before_it_unfolds(side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1_000_000), 9)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    start = time.monotonic()
    with pytest.raises(ImageError, match="25 MP"):
        decode(bomb)
    assert time.monotonic() - start < 0.5


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=400), st.integers(0, 3000))
def test_damage_never_raises_anything_but_image_error(noise: bytes, at: int) -> None:
    data = bytearray(_saved(Image.new("RGB", (30, 40), "teal"), "PNG" if at % 2 else "JPEG"))
    data[at % len(data) : at % len(data) + len(noise)] = noise
    try:
        pixels = decode(bytes(data))
    except ImageError:
        return
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 64))
def test_the_square_holds_the_whole_picture_on_white(width: int, height: int, side: int) -> None:
    square = fit_square(np.zeros((height, width, 3), np.uint8), side)
    assert square.shape == (side, side, 3)
    dark = (square < 128).all(axis=2)
    across, down = int(dark.any(axis=0).sum()), int(dark.any(axis=1).sum())
    assert max(across, down) == side
    scale = side / max(width, height)
    assert abs(across - max(1, width * scale)) <= 1 and abs(down - max(1, height * scale)) <= 1


def test_keys_spread_over_folders_by_content() -> None:
    digest = sha256(b"picture")
    assert image_key(digest) == f"images/{digest[:2]}/{digest}"
    assert size_of(_saved(Image.new("RGB", (30, 70)), "PNG")) == (30, 70)
