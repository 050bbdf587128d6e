"""Groups and splits: the rule, and what growth may not do."""

import io
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from enclip.catalog.groups import (
    COMPARED,
    Key,
    KeyKind,
    KeyState,
    Place,
    aside,
    group_limit,
    near_identical,
    new_group,
    normalised,
    picture_signature,
    place_newcomers,
    title_keys,
    title_stem,
)
from enclip.catalog.images import decode
from enclip.records import Split


def _stem(value: str) -> Key:
    return Key(KeyKind.STEM, value)


def test_the_stem_is_the_name_without_its_own_colour() -> None:
    assert title_stem("Puma Men's Navy Blue  Shirt", "Navy Blue") == "puma men s shirt"
    assert title_stem("Puma Men's Red Shirt", "Red") == title_stem("PUMA men's blue shirt!", "Blue")
    # A colour that is not the product's own may be a name: Red Tape is a brand.
    assert title_stem("Red Tape Black Shoes", "Black") == "red tape shoes"
    assert title_stem("Black", "Black") == ""
    assert normalised("ＦＵＬＬ Width") == "full width"


def test_an_empty_name_is_no_key() -> None:
    assert [key.kind for key in title_keys("", "", "ab" * 32)] == [KeyKind.PICTURE]


def _photo(seed: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (7, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((60, 80), Image.Resampling.BICUBIC)


def _copy(pixels: np.ndarray) -> np.ndarray:
    """The same photograph at another size and in another encoding."""
    out = io.BytesIO()
    Image.fromarray(pixels).resize((90, 120), Image.Resampling.LANCZOS).save(out, "JPEG", quality=75)
    return decode(out.getvalue())


def test_copies_are_recognised_and_most_share_a_band(drawn_catalog: Path) -> None:
    found, recognised, total = 0, 0, 0
    for file in sorted((drawn_catalog / "images").iterdir()):
        pixels = decode(file.read_bytes())
        original, copy = picture_signature(pixels), picture_signature(_copy(pixels))
        found += bool(set(original.bands) & set(copy.bands))
        recognised += bool(near_identical(original.thumb, [copy.thumb])[0])
        total += 1
    assert recognised >= 0.98 * total
    assert found >= 0.85 * total


def test_another_photo_and_another_colour_are_not_the_same() -> None:
    signature = picture_signature(np.asarray(_photo(1)))
    other = picture_signature(np.asarray(_photo(2)))
    recoloured = picture_signature(np.asarray(_photo(1))[:, :, ::-1].copy())
    assert near_identical(signature.thumb, [other.thumb, recoloured.thumb]).tolist() == [False, False]
    assert near_identical(signature.thumb, []).tolist() == []


def test_the_memory_of_a_comparison_does_not_grow_with_the_candidates() -> None:
    """Products that share a band are more in a larger catalog; found are those at the ends of each piece."""
    thumb, other = (picture_signature(np.asarray(_photo(seed))).thumb for seed in (1, 2))
    places = [0, COMPARED - 1, COMPARED, 16 * COMPARED - 1, 16 * COMPARED]
    candidates = [other] * (16 * COMPARED + 1)
    for place in places:
        candidates[place] = thumb
    near_identical(thumb, candidates[:1])
    tracemalloc.start()
    similar = near_identical(thumb, candidates)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.flatnonzero(similar).tolist() == places
    assert peak < 4_000_000  # all at once, 15 MB


def test_the_split_follows_a_stable_hash_in_the_shares_promised() -> None:
    splits = [new_group(str(number)).split for number in range(20_000)]
    shares = {split: splits.count(split) / len(splits) for split in Split}
    assert shares[Split.TRAIN] == pytest.approx(0.75, abs=0.01)
    assert shares[Split.SELECT] == pytest.approx(0.10, abs=0.01)
    assert shares[Split.GATE] == pytest.approx(0.15, abs=0.01)
    # Written down: a change would move every product of every catalog.
    assert new_group("15970") == Place("g834190a09273647", Split.TRAIN)


def test_newcomers_that_share_a_key_found_one_group() -> None:
    places = place_newcomers(
        {"a": [_stem("x")], "b": [_stem("x")], "c": [_stem("y")]}, placed={}, group_sizes={}, limit=9
    )
    assert places["a"] == places["b"] == new_group("a")
    assert places["c"] == new_group("c")


def test_a_newcomer_joins_the_nearest_of_two_groups_of_one_split() -> None:
    near, far = Place("g1", Split.TRAIN), Place("g2", Split.TRAIN)
    look = Key(KeyKind.LOOK, "pair")
    placed = {_stem("x"): KeyState(), look: KeyState()}
    placed[_stem("x")].add(far, 5)
    placed[look].add(near)
    assert place_newcomers({"n": [look, _stem("x")]}, placed=placed, group_sizes={}, limit=9) == {"n": near}


def test_a_newcomer_that_links_two_splits_stands_aside_and_links_nobody() -> None:
    placed = {_stem("x"): KeyState(), _stem("y"): KeyState()}
    placed[_stem("x")].add(Place("g1", Split.TRAIN))
    placed[_stem("y")].add(Place("g2", Split.GATE))
    newcomers = {"n": [_stem("x"), _stem("y"), _stem("z")], "o": [_stem("z")]}
    places = place_newcomers(newcomers, placed=placed, group_sizes={}, limit=9)
    assert places == {"n": aside("n"), "o": new_group("o")}


@pytest.mark.parametrize("split", [Split.TRAIN, Split.SELECT, Split.GATE])
def test_a_full_group_takes_nobody_in_but_what_is_like_it_stays_in_its_split(split: Split) -> None:
    placed = {_stem("x"): KeyState()}
    placed[_stem("x")].add(Place("g1", split), 3)
    newcomers = {f"n{number}": [_stem("x")] for number in range(3)}
    places = place_newcomers(newcomers, placed=placed, group_sizes={"g1": 3}, limit=3)
    assert set(places.values()) == {Place(new_group("n0").group_id, split)}


def test_links_to_a_full_group_count_where_another_has_room() -> None:
    placed = {_stem("x"): KeyState(), _stem("y"): KeyState()}
    placed[_stem("x")].add(Place("g1", Split.TRAIN), 3)
    placed[_stem("y")].add(Place("g2", Split.GATE), 1)
    places = place_newcomers({"n": [_stem("x"), _stem("y")]}, placed=placed, group_sizes={"g1": 3, "g2": 1}, limit=3)
    assert places == {"n": aside("n")}


def test_one_percent_but_never_fewer_than_twenty() -> None:
    assert [group_limit(size) for size in (10, 2000, 9468)] == [20, 20, 94]


KEYS = st.lists(st.sampled_from([_stem(letter) for letter in "abcdefghij"]), max_size=3, unique=True)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(KEYS, min_size=1, max_size=6), min_size=1, max_size=6))
def test_growth_moves_nobody_and_no_key_lies_in_two_splits(batches: list[list[list[Key]]]) -> None:
    """Whatever comes in whatever order: places are final, groups lie in one split, and so do linked products."""
    keys: dict[str, list[Key]] = {}
    places: dict[str, Place] = {}
    for number, batch in enumerate(batches):
        newcomers = {f"{number}-{index}": own for index, own in enumerate(batch)}
        placed: dict[Key, KeyState] = {}
        for product_id, place in places.items():
            for key in keys[product_id]:
                placed.setdefault(key, KeyState()).add(place)
        sizes = {group: sum(place.group_id == group for place in places.values()) for group, _ in places.values()}
        found = place_newcomers(newcomers, placed=placed, group_sizes=sizes, limit=1000)
        assert set(found) == set(newcomers)
        again = place_newcomers(dict(reversed(newcomers.items())), placed=placed, group_sizes=sizes, limit=1000)
        assert found == again
        keys |= newcomers
        places |= found
    split_of_group: dict[str, Split] = {}
    splits_of_key: dict[Key, set[Split]] = {}
    for product_id, place in places.items():
        assert split_of_group.setdefault(place.group_id, place.split) is place.split
        for key in keys[product_id] if place.split is not Split.ASIDE else ():
            splits_of_key.setdefault(key, set()).add(place.split)
    assert all(len(splits) == 1 for splits in splits_of_key.values())


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(KEYS, min_size=1, max_size=12), min_size=1, max_size=5), st.integers(1, 4))
def test_no_group_outgrows_the_limit_however_many_come_at_once(batches: list[list[list[Key]]], limit: int) -> None:
    """With room for few, most newcomers are turned away by somebody: still nobody moves, and each has one place."""
    keys: dict[str, list[Key]] = {}
    places: dict[str, Place] = {}
    for number, batch in enumerate(batches):
        newcomers = {f"{number}-{index}": own for index, own in enumerate(batch)}
        placed: dict[Key, KeyState] = {}
        for product_id, place in places.items():
            for key in keys[product_id]:
                placed.setdefault(key, KeyState()).add(place)
        sizes = Counter(place.group_id for place in places.values())
        found = place_newcomers(newcomers, placed=placed, group_sizes=sizes, limit=limit)
        assert set(found) == set(newcomers)
        keys |= newcomers
        places |= found
    assert max(Counter(place.group_id for place in places.values()).values()) <= limit
    assert len({(place.group_id, place.split) for place in places.values()}) == len(
        {place.group_id for place in places.values()}
    )


@given(st.text(min_size=1, max_size=12))
def test_the_split_of_a_founder_depends_on_its_id_alone(product_id: str) -> None:
    alone = place_newcomers({product_id: []}, placed={}, group_sizes={}, limit=20)[product_id]
    crowd = {product_id: [], **{f"{product_id}-{number}": [_stem("x")] for number in range(5)}}
    assert place_newcomers(crowd, placed={}, group_sizes={}, limit=20)[product_id] == alone == new_group(product_id)
