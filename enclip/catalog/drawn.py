"""Draw a small catalog with Pillow, in the layout that users download; the package ships no photographs.

Products are silhouettes in a colour and a pattern, photographed badly: tilted, off centre, on a tinted
background, with sensor noise and a strong JPEG. Everything that an attribute says can be seen in the
picture, so that a small model can learn it; brands and model words can only be read in the name.
"""

import csv
import io
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from enclip.blobs import write_whole
from enclip.errors import ConfigError

WIDTH, HEIGHT = 60, 80
SCALE = 4  # drawn larger and reduced, which smooths the edges
FIRST_ID = 10_001
COLUMNS = (
    "id",
    "gender",
    "masterCategory",
    "subCategory",
    "articleType",
    "baseColour",
    "season",
    "year",
    "usage",
    "price",
    "productDisplayName",
)
COLOURS = {
    "Black": (32, 32, 36),
    "White": (238, 236, 230),
    "Red": (200, 38, 44),
    "Navy Blue": (28, 42, 108),
    "Green": (44, 138, 68),
    "Yellow": (236, 194, 44),
    "Pink": (236, 128, 172),
    "Brown": (124, 78, 44),
}
PATTERNS = ("Plain", "Striped", "Checked", "Dotted")
BRANDS = ("Acme", "Borealis", "Cobalt", "Dune", "Ember", "Fjord")
MODELS = ("Aero", "Bliss", "Crest", "Drift", "Echo", "Flint", "Grove", "Halo", "Iris", "Jade", "Kite", "Luna")
SEASONS = ("Summer", "Fall", "Winter", "Spring")
# A shop sells most of what it sells in two colours per shelf; without such a skew a small catalog
# would have no three products that share gender, colour and type.
COLOUR_SHARES = (0.56, 0.28, 0.05, 0.04, 0.03, 0.02, 0.01, 0.01)
RETAKE_SHARE = 0.06  # products that are an earlier one photographed again: near-duplicates

Pen = ImageDraw.ImageDraw
Box = tuple[float, float, float, float]


def _tee(pen: Pen, box: Box, slim: float) -> None:
    x, y, w, h = box
    body = 0.24 + 0.05 * slim
    points = [(0.34, 0.1), (0.66, 0.1), (1.0, 0.28), (0.9, 0.44), (1 - body, 0.36), (1 - body, 0.95)]
    points += [(body, 0.95), (body, 0.36), (0.1, 0.44), (0.0, 0.28)]
    pen.polygon([(x + px * w, y + py * h) for px, py in points], fill=255)
    pen.ellipse((x + 0.4 * w, y + 0.02 * h, x + 0.6 * w, y + 0.18 * h), fill=0)


def _shirt(pen: Pen, box: Box, slim: float) -> None:
    x, y, w, h = box
    body = 0.26 + 0.05 * slim
    points = [(0.36, 0.08), (0.64, 0.08), (0.84, 0.16), (1.0, 0.86), (0.86, 0.88), (1 - body, 0.38)]
    points += [(1 - body, 0.98), (body, 0.98), (body, 0.38), (0.14, 0.88), (0.0, 0.86), (0.16, 0.16)]
    pen.polygon([(x + px * w, y + py * h) for px, py in points], fill=255)
    pen.polygon([(x + 0.42 * w, y + 0.05 * h), (x + 0.58 * w, y + 0.05 * h), (x + 0.5 * w, y + 0.24 * h)], fill=0)
    pen.line((x + 0.5 * w, y + 0.24 * h, x + 0.5 * w, y + 0.98 * h), fill=0, width=max(2, int(0.03 * w)))


def _trousers(pen: Pen, box: Box, slim: float) -> None:
    x, y, w, h = box
    leg = 0.06 + 0.06 * slim
    points = [(0.24, 0.0), (0.76, 0.0), (0.86 - leg, 1.0), (0.58 + leg / 2, 1.0), (0.5, 0.32)]
    points += [(0.42 - leg / 2, 1.0), (0.14 + leg, 1.0)]
    pen.polygon([(x + px * w, y + py * h) for px, py in points], fill=255)


def _dress(pen: Pen, box: Box, _slim: float) -> None:
    x, y, w, h = box
    points = [(0.36, 0.0), (0.42, 0.1), (0.58, 0.1), (0.64, 0.0), (0.66, 0.36), (1.0, 0.98), (0.0, 0.98), (0.34, 0.36)]
    pen.polygon([(x + px * w, y + py * h) for px, py in points], fill=255)


def _handbag(pen: Pen, box: Box, _slim: float) -> None:
    x, y, w, h = box
    pen.arc((x + 0.24 * w, y + 0.06 * h, x + 0.76 * w, y + 0.7 * h), 180, 360, fill=255, width=int(0.08 * w))
    points = [(0.1, 0.4), (0.9, 0.4), (1.0, 0.92), (0.0, 0.92)]
    pen.polygon([(x + px * w, y + py * h) for px, py in points], fill=255)


def _shoe(pen: Pen, box: Box, slim: float) -> None:
    x, y, w, h = box
    points = [(0.02, 0.36), (0.34, 0.34), (0.44, 0.5), (0.8, 0.58), (1.0, 0.68), (1.0, 0.76), (0.0, 0.76)]
    pen.polygon([(x + px * w, y + py * h) for px, py in points], fill=255)
    heel = 0.8 if slim < 0.5 else 0.86
    pen.rectangle((x, y + 0.78 * h, x + (1.0 if slim < 0.5 else 0.28) * w, y + heel * h), fill=255)


def _watch(pen: Pen, box: Box, slim: float) -> None:
    x, y, w, h = box
    strap = 0.14 - 0.05 * slim
    pen.rectangle((x + (0.5 - strap) * w, y, x + (0.5 + strap) * w, y + h), fill=255)
    pen.ellipse((x + 0.2 * w, y + 0.28 * h, x + 0.8 * w, y + 0.72 * h), fill=255)
    pen.ellipse((x + 0.32 * w, y + 0.37 * h, x + 0.68 * w, y + 0.63 * h), fill=0)
    pen.line((x + 0.5 * w, y + 0.5 * h, x + 0.5 * w, y + 0.4 * h), fill=255, width=int(0.04 * w))


def _cap(pen: Pen, box: Box, _slim: float) -> None:
    x, y, w, h = box
    pen.pieslice((x + 0.05 * w, y + 0.26 * h, x + 0.72 * w, y + 0.9 * h), 180, 360, fill=255)
    pen.ellipse((x + 0.4 * w, y + 0.53 * h, x + 1.0 * w, y + 0.66 * h), fill=255)


def _sunglasses(pen: Pen, box: Box, _slim: float) -> None:
    x, y, w, h = box
    pen.ellipse((x + 0.02 * w, y + 0.38 * h, x + 0.44 * w, y + 0.64 * h), fill=255)
    pen.ellipse((x + 0.56 * w, y + 0.38 * h, x + 0.98 * w, y + 0.64 * h), fill=255)
    pen.line((x + 0.4 * w, y + 0.44 * h, x + 0.6 * w, y + 0.44 * h), fill=255, width=int(0.05 * w))


def _bottle(pen: Pen, box: Box, _slim: float) -> None:
    x, y, w, h = box
    pen.rounded_rectangle((x + 0.3 * w, y + 0.26 * h, x + 0.7 * w, y + h), radius=int(0.1 * w), fill=255)
    pen.rectangle((x + 0.42 * w, y + 0.12 * h, x + 0.58 * w, y + 0.28 * h), fill=255)
    pen.rectangle((x + 0.38 * w, y, x + 0.62 * w, y + 0.1 * h), fill=255)


def _umbrella(pen: Pen, box: Box, _slim: float) -> None:
    x, y, w, h = box
    pen.pieslice((x, y + 0.1 * h, x + w, y + 0.9 * h), 180, 360, fill=255)
    pen.line((x + 0.5 * w, y + 0.5 * h, x + 0.5 * w, y + 0.92 * h), fill=255, width=int(0.06 * w))
    pen.arc((x + 0.34 * w, y + 0.84 * h, x + 0.53 * w, y + h), 0, 180, fill=255, width=int(0.06 * w))


def _scarf(pen: Pen, box: Box, _slim: float) -> None:
    x, y, w, h = box
    pen.arc((x + 0.22 * w, y, x + 0.78 * w, y + 0.4 * h), 0, 360, fill=255, width=int(0.16 * w))
    pen.polygon([(x + px * w, y + py * h) for px, py in [(0.3, 0.3), (0.5, 0.3), (0.46, 1), (0.2, 1)]], fill=255)
    pen.polygon([(x + px * w, y + py * h) for px, py in [(0.5, 0.3), (0.7, 0.3), (0.8, 0.8), (0.56, 0.84)]], fill=255)


@dataclass(frozen=True, slots=True)
class _Shelf:
    """One articleType: where it stands, what it is called in names, who buys it, and its silhouette."""

    master_category: str
    sub_category: str
    noun: str
    genders: dict[str, float]
    share: float  # 0: drawn only when asked for by name
    draw: Callable[[Pen, Box, float], None]


SHELVES = {
    "Tshirts": _Shelf("Apparel", "Topwear", "T-shirt", {"Men": 0.65, "Women": 0.35}, 0.2, _tee),
    "Shirts": _Shelf("Apparel", "Topwear", "Shirt", {"Men": 0.8, "Women": 0.2}, 0.14, _shirt),
    "Handbags": _Shelf("Accessories", "Bags", "Handbag", {"Women": 1.0}, 0.14, _handbag),
    "Casual Shoes": _Shelf("Footwear", "Shoes", "Casual Shoes", {"Men": 0.7, "Women": 0.3}, 0.13, _shoe),
    "Watches": _Shelf("Accessories", "Watches", "Watch", {"Men": 0.55, "Women": 0.45}, 0.09, _watch),
    "Trousers": _Shelf("Apparel", "Bottomwear", "Trousers", {"Men": 0.8, "Women": 0.2}, 0.08, _trousers),
    "Dresses": _Shelf("Apparel", "Dress", "Dress", {"Women": 1.0}, 0.1, _dress),
    "Caps": _Shelf("Accessories", "Headwear", "Cap", {"Men": 0.75, "Unisex": 0.25}, 0.05, _cap),
    "Sunglasses": _Shelf("Accessories", "Eyewear", "Sunglasses", {"Unisex": 0.6, "Women": 0.4}, 0.05, _sunglasses),
    "Water Bottle": _Shelf("Accessories", "Water Bottle", "Water Bottle", {"Unisex": 1.0}, 0.04, _bottle),
    "Umbrellas": _Shelf("Accessories", "Umbrellas", "Umbrella", {"Unisex": 1.0}, 0.0, _umbrella),
    "Scarves": _Shelf("Accessories", "Scarves", "Scarf", {"Women": 1.0}, 0.0, _scarf),
}


@dataclass(frozen=True, slots=True)
class _Look:
    """What a drawn product is; two photographs of one look are near-duplicates."""

    article_type: str
    gender: str
    colour: str
    pattern: str
    name: str
    seed: int  # of the silhouette's place and tilt


def draw_catalog(
    folder: Path,
    *,
    num_products: int,
    seed: int,
    start: int = 0,
    types: Collection[str] | None = None,
) -> Path:
    """Write `styles.csv` and `images/<id>.jpg` (60×80 px) of drawn products; the folder.

    A product depends on `seed`, `types` and its number alone: with the same ones, numbers `start` and up continue
    an earlier catalog, so that two calls (into two folders) make a first and a second batch.

    Args:
        folder: made when absent; an earlier `styles.csv` in it is replaced.
        num_products: how many; their ids are 10001 + start and up.
        seed: of everything that is drawn.
        start: number of the first product.
        types: articleTypes to draw; None: the ten common ones. "Umbrellas" and "Scarves" come only when named.

    Raises:
        ConfigError: an articleType that cannot be drawn.
    """
    names = [name for name, shelf in SHELVES.items() if shelf.share] if types is None else list(types)
    unknown = sorted(set(names) - set(SHELVES))
    if unknown or not names:
        raise ConfigError(
            f"Cannot draw articleTypes {unknown or '(none given)'}.", remedy=f"Choose from: {', '.join(SHELVES)}."
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number in range(start, start + num_products):
        look, chance = _look(number, seed, names)
        shelf = SHELVES[look.article_type]
        product_id = FIRST_ID + number
        writer.writerow(
            (
                product_id,
                look.gender,
                shelf.master_category,
                shelf.sub_category,
                look.article_type,
                look.colour,
                chance.choice(SEASONS),
                chance.choice((2024, 2025, 2026)),
                "Sports" if look.pattern == "Striped" else "Casual",
                # Of a generator of its own, so that what else is drawn does not hang on it.
                f"{random.Random(f'{seed}/{number}/price').randint(8, 150) - 0.1:.2f}",
                look.name,
            )
        )
        write_whole(folder / "images" / f"{product_id}.jpg", _photograph(look, chance))
    write_whole(folder / "styles.csv", text.getvalue().encode())
    return folder


def _look(number: int, seed: int, names: list[str]) -> tuple[_Look, random.Random]:
    chance = random.Random(f"{seed}/{number}")
    if number > 0 and chance.random() < RETAKE_SHARE:
        original, _ = _look(chance.randrange(max(0, number - 40), number), seed, names)
        return original, chance
    weights = [SHELVES[name].share or 0.1 for name in names]
    article_type = chance.choices(names, weights)[0]
    shelf = SHELVES[article_type]
    gender = chance.choices(list(shelf.genders), list(shelf.genders.values()))[0]
    palette = list(COLOURS)
    random.Random(f"{article_type}/{gender}").shuffle(palette)  # each shelf sells its own two colours
    colour = chance.choices(palette, COLOUR_SHARES)[0]
    pattern = chance.choices(PATTERNS, (0.4, 0.25, 0.2, 0.15))[0]
    words = [chance.choice(BRANDS), gender, chance.choice(MODELS), pattern, colour, shelf.noun]
    return _Look(article_type, gender, colour, pattern, " ".join(words), chance.getrandbits(32)), chance


def _photograph(look: _Look, chance: random.Random) -> bytes:
    """One bad photograph of a look, as JPEG."""
    place = random.Random(look.seed)
    shelf = SHELVES[look.article_type]
    width, height = WIDTH * SCALE, HEIGHT * SCALE
    slim = {"Men": 0.0, "Unisex": 0.5, "Women": 1.0}[look.gender]
    item_w = width * place.uniform(0.62, 0.84) * (1 - 0.14 * slim)
    item_h = min(height * 0.88, item_w * place.uniform(1.08, 1.3))
    left = (width - item_w) / 2 + place.uniform(-0.06, 0.06) * width
    top = (height - item_h) / 2 + place.uniform(-0.05, 0.05) * height
    box = (left, top, item_w, item_h)

    mask = Image.new("L", (width, height), 0)
    shelf.draw(ImageDraw.Draw(mask), box, slim)
    tilt = place.uniform(-9, 9)
    mask = mask.rotate(tilt, Image.Resampling.BILINEAR)

    background = tuple(place.randint(214, 255) for _ in range(3))
    picture = Image.new("RGB", (width, height), background)
    shade = ImageChops.offset(mask, 6, 8).point(lambda value: value // 3)
    picture.paste((120, 120, 124), mask=shade)
    picture.paste(_cloth(look, place, (width, height)), mask=mask)
    picture.paste((60, 60, 60), mask=_outline(mask))
    _gender_cue(ImageDraw.Draw(picture), look.gender, width, height)

    small = picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    noise = np.random.default_rng(chance.getrandbits(32)).normal(0, 5, (HEIGHT, WIDTH, 3))
    light = 1 + chance.uniform(-0.07, 0.07)
    pixels = np.clip(np.asarray(small, np.float32) * light + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=chance.randint(55, 80))
    return out.getvalue()


def _cloth(look: _Look, place: random.Random, size: tuple[int, int]) -> Image.Image:
    """The colour with its pattern; the pattern is a darker or lighter tone of it, so the colour stays true."""
    base = COLOURS[look.colour]
    dark = sum(base) / 3 < 110
    tone = tuple(int(value + (255 - value) * 0.5) if dark else int(value * 0.62) for value in base)
    cloth = Image.new("RGB", size, tuple(min(255, max(0, value + place.randint(-10, 10))) for value in base))
    pen = ImageDraw.Draw(cloth)
    step = place.randint(24, 34)
    if look.pattern in ("Striped", "Checked"):
        for y in range(place.randint(0, step), size[1], step):
            pen.rectangle((0, y, size[0], y + step // 4), fill=tone)
    if look.pattern == "Checked":
        for x in range(place.randint(0, step), size[0], step):
            pen.rectangle((x, 0, x + step // 4, size[1]), fill=tone)
    if look.pattern == "Dotted":
        for y in range(0, size[1], step):
            for x in range(step // 2 if y // step % 2 else 0, size[0], step):
                pen.ellipse((x, y, x + step // 3, y + step // 3), fill=tone)
    return cloth


def _outline(mask: Image.Image) -> Image.Image:
    """A thin edge, without which white products would vanish on a white ground."""
    grown = mask.point(lambda value: 255 if value > 20 else 0)
    inner = ImageChops.offset(grown, 3, 3)
    return ImageChops.difference(grown, ImageChops.darker(grown, inner)).point(lambda value: value * 2 // 3)


def _gender_cue(pen: Pen, gender: str, width: int, height: int) -> None:
    """A shelf label in the corner: a blue square for men, a magenta disc for women, none for everyone."""
    side = width // 7
    if gender == "Men":
        pen.rectangle((6, height - side - 6, 6 + side, height - 6), fill=(40, 110, 200))
    elif gender == "Women":
        pen.ellipse((6, height - side - 6, 6 + side, height - 6), fill=(210, 60, 170))
