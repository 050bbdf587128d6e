"""Pictures and strings that a service may be sent by mistake or by malice; the same for the same seed."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from random import Random

from PIL import Image, ImageDraw

SIDE = (60, 80)
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "P", "L", "LA", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P",),
    "BMP": ("RGB", "P", "1"),
    "TIFF": ("RGB", "CMYK", "I;16"),
    "ICO": ("RGBA",),
    "PPM": ("RGB",),
}
# Sizes in headers, counts and offsets are where decoders go wrong.
EDGES = (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\x00\x01")
POLYGLOTS = (
    b"",
    b"\x00" * 4096,
    b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><svg>&e;</svg>",
    b"%PDF-1.7\n1 0 obj\n<<>>\nendobj",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file",
    b"push graphic-context\nfill 'url(https://example.com/x.jpg\"|id\")'",
    b"MM\x00*\x00\x00\x00\x08" + b"\xff\xff" * 400,
    b"II*\x00\x08\x00\x00\x00" + b"\x01\x00" * 400,
    b"\x00\x00\x00\x1cftypavif" + b"\x00" * 64,
    b"\x1f\x8b\x08" + b"\x00" * 64,
    b"PK\x03\x04" + b"\x00" * 64,
    b"\x7fELF" + b"\x00" * 64,
    b"8BPS\x00\x01" + b"\xff" * 64,
    b"qoif" + b"\xff" * 64,
    b"P6\n99999999 99999999\n255\n",
    b"GIF89a\xff\xff\xff\xff\xff\xff\xff",
    b"BM" + b"\xff" * 64,
    b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 32,
)
WORDS = (
    "shirt",
    "\x00",
    "\ud800",
    "\udfff\ud800",
    "\u202eoverride\u2066",
    "\u200d" * 50,
    "👨‍👩‍👧‍👦" * 80,
    "Z̸̢̛͇̭͎͉͔̺̺̬͇͖͉͂̈́͛̀̊͐̕ͅ" * 20,
    "ﷺ" * 500,
    "a" * 1000,
    "x" * 1001,
    "' OR 1=1; DROP TABLE products; --",
    "<script>alert(1)</script>",
    "{{7*7}} ${7*7} <%= 7*7 %> #{7*7}",
    "../../../../etc/passwd",
    "%s%s%s%n",
    "${jndi:ldap://x}",
    "\r\nX-Injected: 1",
    "<|endoftext|><start_of_text>",
    "&lt;&#x41;&nbsp;",
    "\ufeff\ufffe\uffff",
    "１２３ⅷ½",
    "\t\n\v\f ",
    "",
)
NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "-0", "1" + "0" * 400, "0.1", "1e-999", "true", "null", '"7"', "[]")


def picture(random: Random) -> bytes:
    """A picture that is damaged, or odd, or none at all."""
    return random.choice((_damaged, _damaged, _damaged, _odd, _polyglot))(random)


def body(random: Random) -> bytes:
    """A JSON body for a search, or what claims to be one."""
    return random.choice((_search, _search, _search, _numbers, _structure))(random)


def text(random: Random) -> str:
    """A string that some program somewhere has stumbled over; at times several."""
    parts = [random.choice(WORDS) for _ in range(random.choice((1, 1, 2, 4)))]
    parts += [chr(random.randrange(0x110000)) for _ in range(random.choice((0, 0, 1, 20)))]
    return "".join(parts)


def bombs() -> Iterator[bytes]:
    """Small files that would fill the memory, and large ones that may not."""
    for width, height in ((30_000, 30_000), (2**31 - 1, 1), (1, 2**31 - 1), (0, 5), (5_000, 5_001), (65_535, 65_535)):
        yield _png(width, height, zlib.compress(bytes(20_000_000), 9))
    animated = io.BytesIO()
    frames = [Image.new("P", (4000, 4000), number) for number in range(4)]
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    yield animated.getvalue()
    # Text of a PNG that decompresses to 100 MB.
    text_chunk = _chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(100_000_000), 9))
    plain = _drawn("PNG", "RGB", 0)
    yield plain[:33] + text_chunk + plain[33:]


def _damaged(random: Random) -> bytes:
    image = bytearray(_any(random))
    kind = random.randrange(5)
    if kind == 0:
        return bytes(image[: random.randrange(len(image))])
    if kind == 1:
        for _ in range(random.choice((1, 3, 30))):
            image[random.randrange(len(image))] ^= 1 << random.randrange(8)
    elif kind == 2:  # in the header, where sizes stand
        place = random.randrange(min(64, len(image)))
        image[place : place + 4] = random.choice(EDGES)
    elif kind == 3:
        place, length = random.randrange(len(image)), random.randrange(1, 400)
        image[place:place] = image[place : place + length] * random.choice((1, 5))
    else:
        place = random.randrange(len(image))
        del image[place : place + random.randrange(1, 200)]
    return bytes(image)


def _odd(random: Random) -> bytes:
    """Whole, but of a kind that one seldom meets."""
    out = io.BytesIO()
    image = Image.open(io.BytesIO(_drawn("PNG", "RGBA", random.randrange(5))))
    kind = random.randrange(6)
    if kind == 0:  # turned, and with an EXIF block that is nonsense but for that
        exif = Image.Exif()
        exif[0x0112] = random.choice((1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65_535))
        exif[0x010E] = "\x00" * random.choice((1, 3000))
        image.convert("RGB").save(out, "JPEG", exif=exif)
    elif kind == 1:
        profile = bytes(random.randrange(256) for _ in range(random.choice((1, 128, 500))))
        image.convert("RGB").save(out, random.choice(("JPEG", "PNG")), icc_profile=profile)
    elif kind == 2:
        frames = [image.rotate(30 * turn).convert("P") for turn in range(1, 4)]
        image.save(out, random.choice(("GIF", "WEBP", "PNG")), save_all=True, append_images=frames)
    elif kind == 3:  # the thinnest
        image.resize(random.choice(((1, 1), (1, 4000), (4000, 1), (2, 2)))).save(out, random.choice(("PNG", "WEBP")))
    elif kind == 4:
        image.convert("RGB").save(out, "JPEG", progressive=True, quality=random.choice((1, 100)), subsampling=2)
    else:  # two files in one
        return _any(random) + random.choice(POLYGLOTS) + _any(random)
    return out.getvalue()


def _polyglot(random: Random) -> bytes:
    head = random.choice(POLYGLOTS)
    return head if random.random() < 0.3 else head + _any(random)


def _any(random: Random) -> bytes:
    kind = random.choice(tuple(MODES))
    return _drawn(kind, random.choice(MODES[kind]), random.randrange(5))


@cache
def _drawn(kind: str, mode: str, number: int) -> bytes:
    image = Image.new("RGB", SIDE, (40 * number, 90, 200))
    ImageDraw.Draw(image).ellipse((5, 5, 50, 30 + 10 * number), fill="red", outline="white")
    out = io.BytesIO()
    (image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)).save(out, kind)
    return out.getvalue()


def _png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _search(random: Random) -> bytes:
    fields: dict[str, Callable[[], object]] = {
        "text": lambda: text(random),
        "without": lambda: text(random),
        "like": lambda: random.choice(("10001", text(random))),
        "filters": lambda: {random.choice(("category", "gender", "colour")): [text(random)[:100] or "x"]},
        "weights": lambda: {"text": random.choice((0, 1, 100)), "like": random.random()},
        "k": lambda: random.choice((1, 2, 100)),
        "offset": lambda: random.choice((0, 1, 900)),
        "spread": lambda: True,
    }
    chosen = [*random.sample(tuple(fields), random.randrange(1, 5)), "text"]
    return json.dumps({name: fields[name]() for name in chosen}).encode()


def _numbers(random: Random) -> bytes:
    name = random.choice(("k", "offset", "spread", "text", "image", "like", "weights", "filters"))
    number = random.choice(NUMBERS)
    inner = random.choice((number, f'{{"text": {number}}}', f'{{"gender": {number}}}', f"[{number}]"))
    return f'{{"text": "shirt", "{name}": {inner}, "k": 3}}'.encode()


def _structure(random: Random) -> bytes:
    depth = random.choice((3, 100, 5_000))
    return random.choice(
        (
            b"[" * depth + b"]" * depth,
            b'{"text":' * depth + b'"x"' + b"}" * depth,
            b'{"text": "a", "text": "b", "k": 1, "k": 2}',
            b'{"text": "' + bytes(random.randrange(256) for _ in range(20)) + b'"}',
            b'{"text": "shirt"',
            b'\xef\xbb\xbf{"text": "shirt", "k": 1}',
            '{"text": "shirt", "k": 1}'.encode(random.choice(("utf-16", "utf-32", "utf-7"))),
            b'{"text": "' + b"x" * 1_000_000 + b'"}',
            b'{"__proto__": {"k": 1}, "constructor": 1, "text": "x"}',
            b'{"text": "shirt", "filters": {"colour": [' + b'"x",' * 60 + b'"x"]}}',
            b'{"searches": [{"text": "x"}]}',
            b"null",
            b"",
            b"\x00" * 100,
        )
    )
