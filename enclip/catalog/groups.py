"""Groups and splits (D7): what is one product for a model lies in one split, for ever.

Two products are linked when they have the same picture, the same name, the same title stem (the name
without the product's own colour) or near-identical pictures. A newcomer joins its nearest group; when its
links lead into two splits it stands aside. A key that would gather more than a share of the catalog says
nothing about its products (a placeholder picture, a name like "Shirt") and is refused as a mistake.

This module is pure; `enclip.catalog.assign` brings keys and neighbours from the database.
"""

import hashlib
import heapq
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from enclip.records import Split

SHARES = ((Split.TRAIN, 75), (Split.SELECT, 10), (Split.GATE, 15))  # percent
MAX_SHARE = 0.01
MIN_LIMIT = 20  # in a small catalog 1% would refuse honest groups

THUMB_SIZE = (12, 16)  # width, height
# Bits of the picture hash lie in bands, and pictures that share a band are compared. Measured on
# fashion-small: 91% of copies at twice the size and JPEG quality 70 share one, at 18 candidates a product.
BANDS, BAND_BITS = 3, 21
# Chosen on the 9,468 products of fashion-small: at these values the pairs are the same photograph or the
# same product re-shot, and the largest chain has 11 products; at 0.85 and 6 one chain swallows 200 shoes.
MIN_CORRELATION = 0.95
MAX_COLOUR_DIFFERENCE = 4.0
COMPARED = 128  # pictures compared at a time, at 7.5 KB each: the candidates of one product grow with the catalog


class KeyKind(IntEnum):
    """What makes two products similar, nearest first. `BAND` keys only propose `LOOK` pairs."""

    PICTURE = 0
    NAME = 1
    LOOK = 2
    STEM = 3
    BAND = 4


class Key(NamedTuple):
    """Something that two products may share."""

    kind: KeyKind
    value: str


class Place(NamedTuple):
    """Where a product belongs."""

    group_id: str
    split: Split


@dataclass(frozen=True, slots=True)
class PictureSignature:
    """What near-duplicate search remembers of a picture: keys to find candidates, a thumb to verify them."""

    bands: tuple[Key, ...]
    thumb: bytes  # 16×12×3 uint8


@dataclass(slots=True)
class KeyState:
    """Products already placed that have a key: per group how many, and the group's split."""

    members: Counter[Place] = field(default_factory=Counter)

    def add(self, place: Place, count: int = 1) -> None:
        # A product that stands aside is in nobody's training or measurement, so it leaks nothing.
        if place.split is not Split.ASIDE:
            self.members[place] += count


def normalised(name: str) -> str:
    """A name in lower case, its words single-spaced, without punctuation."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", name).casefold()))


def title_stem(name: str, colour: str) -> str:
    """The name without the product's own colour words: equal for the colour variants of one style."""
    own = set(normalised(colour).split())
    return " ".join(word for word in normalised(name).split() if word not in own)


def title_keys(name: str, colour: str, image_sha256: str) -> tuple[Key, ...]:
    """The keys of a product that need no look at its pixels; an empty name gives no name keys."""
    keys = [Key(KeyKind.PICTURE, image_sha256[:32])]
    whole, stem = normalised(name), title_stem(name, colour)
    if whole:
        keys.append(Key(KeyKind.NAME, _short_hash(whole)))
    if stem:
        keys.append(Key(KeyKind.STEM, _short_hash(stem)))
    return tuple(keys)


def picture_signature(pixels_HWC: NDArray[np.uint8]) -> PictureSignature:
    """The signature of decoded RGB pixels; survives re-encoding and resizing.

    The hash says which of the 63 lowest frequencies of the discrete cosine transform exceed their median
    (the "perceptual hash"); difference hashes clump on white backgrounds (2,100 of 9,468 shared one band).
    """
    picture = Image.fromarray(pixels_HWC)
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
    low = (_DCT @ grey @ _DCT.T).reshape(-1)[1 : BANDS * BAND_BITS + 1]
    margins = low - np.median(low)
    bands = tuple(key for band in range(BANDS) for key in _band_keys(band, margins[band::BANDS]))
    thumb = np.asarray(picture.resize(THUMB_SIZE, Image.Resampling.BOX), np.uint8)
    return PictureSignature(bands, thumb.tobytes())


def near_identical(thumb: bytes, candidates: Sequence[bytes]) -> NDArray[np.bool_]:
    """Per candidate: whether its picture is the same but for encoding, size or a trace of light.

    Both must hold: the detail (what is left after subtracting each pixel's neighbourhood) correlates at
    0.95 or more, and colours differ by at most 4 levels of 255 on average.
    """
    similar = np.zeros(len(candidates), dtype=bool)
    for start in range(0, len(candidates), COMPARED):
        end = start + COMPARED
        similar[start:end] = _near_identical(thumb, candidates[start:end])
    return similar


def _near_identical(thumb: bytes, candidates: Sequence[bytes]) -> NDArray[np.bool_]:
    thumbs = np.frombuffer(thumb + b"".join(candidates), np.uint8).reshape(-1, THUMB_SIZE[1], THUMB_SIZE[0], 3)
    colours = thumbs.astype(np.float32)
    difference = np.abs(colours[1:] - colours[0]).mean(axis=(1, 2, 3))
    grey = colours.mean(axis=3)
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), "edge")
    around = (
        padded[:, 1:-1, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    ) / 5
    detail = (grey - around).reshape(len(grey), -1)
    length = np.linalg.norm(detail, axis=1)
    # Two blank pictures have no detail to compare; their colours decide alone.
    blank = (length[1:] < 1) & (length[0] < 1)
    correlation = detail[1:] @ detail[0] / np.maximum(length[1:] * length[0], 1e-6)
    similar: NDArray[np.bool_] = (difference <= MAX_COLOUR_DIFFERENCE) & (blank | (correlation >= MIN_CORRELATION))
    return similar


def group_limit(num_products: int) -> int:
    """Most products of a group, or of a key, in a catalog of this size."""
    return max(MIN_LIMIT, int(MAX_SHARE * num_products))


def new_group(product_id: str) -> Place:
    """The group that a product founds, and its split: 75/10/15 by a stable hash."""
    digest = hashlib.sha256(f"enclip-group/{product_id}".encode()).hexdigest()
    group_id = f"g{digest[:15]}"
    point = int(digest[16:32], 16) % 100
    for split, share in SHARES:
        if point < share:
            return Place(group_id, split)
        point -= share
    raise AssertionError("shares sum to 100")


def aside(product_id: str) -> Place:
    """The place of a product that links two splits: a group of its own, in no split."""
    return Place(new_group(product_id).group_id, Split.ASIDE)


def place_newcomers(
    newcomers: Mapping[str, Sequence[Key]],
    *,
    placed: Mapping[Key, KeyState],
    group_sizes: Mapping[str, int],
    limit: int,
) -> dict[str, Place]:
    """A place for each newcomer; nothing that is placed already moves.

    Whoever is linked to a placed product goes first, nearest link first, and then links others; only when
    no link is left does the next newcomer found a group. The result depends on ids, keys and what is
    placed, not on the order of the mappings.

    Args:
        newcomers: product_id → its keys, without `BAND` keys and without keys refused as too common.
        placed: key → the placed products that have it.
        group_sizes: products per group that `placed` mentions.
        limit: groups of this size take nobody in; who is linked to nobody else founds one in the same split.
    """
    states = {key: KeyState(Counter(state.members)) for key, state in placed.items()}
    sizes = Counter(group_sizes)
    having: defaultdict[Key, list[str]] = defaultdict(list)
    for product_id in sorted(newcomers):
        for key in newcomers[product_id]:
            having[key].append(product_id)

    places: dict[str, Place] = {}
    queue = [
        (key.kind, product_id)
        for key, products in having.items()
        if states.get(key) and states[key].members
        for product_id in products
    ]
    heapq.heapify(queue)
    spread = {key for key in having if states.get(key) and states[key].members}

    def settle(product_id: str, place: Place) -> None:
        places[product_id] = place
        sizes[place.group_id] += 1
        for key in newcomers[product_id]:
            if len(having[key]) == 1:
                continue  # nobody else asks for it
            states.setdefault(key, KeyState()).add(place)
            if place.split is not Split.ASIDE and key not in spread:
                spread.add(key)
                for other in having[key]:
                    if other not in places:
                        heapq.heappush(queue, (key.kind, other))

    def drain() -> None:
        while queue:
            _, product_id = heapq.heappop(queue)
            if product_id not in places:
                settle(product_id, _join(product_id, newcomers[product_id], states, sizes, limit))

    drain()
    for product_id in sorted(newcomers):
        if product_id not in places:
            settle(product_id, new_group(product_id))
            drain()
    return places


def _join(
    product_id: str, keys: Iterable[Key], states: Mapping[Key, KeyState], sizes: Mapping[str, int], limit: int
) -> Place:
    """The nearest group with room; aside when links lead into two splits; where no group has room a new one, which
    stays in their split: what is full is no less alike.
    """
    links = [(key.kind, -count, place) for key in keys if key in states for place, count in states[key].members.items()]
    if not links:
        return new_group(product_id)
    splits = {place.split for _, _, place in links}
    if len(splits) > 1:
        return aside(product_id)
    with_room = [link for link in links if sizes.get(link[2].group_id, 0) < limit]
    return min(with_room)[2] if with_room else Place(new_group(product_id).group_id, splits.pop())


def _band_keys(band: int, margins: NDArray[np.float64]) -> tuple[Key, Key]:
    """A band's key, and the key with its least certain bit the other way, which a new encoding may flip.

    Bands take every third frequency, so that each sees coarse and fine ones.
    """
    bits = margins > 0
    weights = 1 << np.arange(BAND_BITS)
    value = int(bits @ weights)
    flipped = value ^ int(weights[np.argmin(np.abs(margins))])
    return Key(KeyKind.BAND, f"{band}{value:06x}"), Key(KeyKind.BAND, f"{band}{flipped:06x}")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _dct_matrix(size: int, rows: int) -> NDArray[np.float64]:
    steps = np.arange(size)
    matrix: NDArray[np.float64] = np.cos(np.pi * (2 * steps[None] + 1) * np.arange(rows)[:, None] / (2 * size))
    return matrix


_DCT = _dct_matrix(32, 8)
