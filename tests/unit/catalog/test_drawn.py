"""The drawn catalog: the layout users download, the same for the same seed, and learnable."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from enclip.catalog.drawn import COLOURS, draw_catalog
from enclip.errors import ConfigError


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "styles.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_has_a_small_picture_and_all_attributes(drawn_catalog: Path) -> None:
    rows = _rows(drawn_catalog)
    assert len(rows) == 120
    assert len({row["id"] for row in rows}) == 120
    assert all(all(row.values()) and row["id"].isdigit() for row in rows)
    for row in rows:
        with Image.open(drawn_catalog / "images" / f"{row['id']}.jpg") as picture:
            assert picture.size == (60, 80)


def test_a_small_catalog_has_enough_categories_and_repeated_attributes(tmp_path: Path) -> None:
    rows = _rows(draw_catalog(tmp_path, num_products=300, seed=0))
    assert len({row["subCategory"] for row in rows}) >= 4
    assert len({row["articleType"] for row in rows}) == 10
    triples = Counter((row["gender"], row["baseColour"], row["articleType"]) for row in rows)
    # Specific queries need three products of a kind within the gate split's 15%.
    assert sum(count >= 12 for count in triples.values()) >= 4


def test_the_same_seed_draws_the_same_bytes_and_a_later_start_continues(tmp_path: Path) -> None:
    whole = draw_catalog(tmp_path / "whole", num_products=30, seed=3)
    second = draw_catalog(tmp_path / "second", num_products=10, seed=3, start=20)
    assert _rows(second) == _rows(whole)[20:]
    for row in _rows(second):
        name = f"images/{row['id']}.jpg"
        assert (second / name).read_bytes() == (whole / name).read_bytes()


def test_another_seed_draws_other_products(tmp_path: Path) -> None:
    assert _rows(draw_catalog(tmp_path / "a", num_products=20, seed=1)) != _rows(
        draw_catalog(tmp_path / "b", num_products=20, seed=2)
    )


def test_rare_types_come_when_named_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    rows = _rows(draw_catalog(tmp_path, num_products=12, seed=0, types=["Umbrellas", "Scarves"]))
    assert {row["articleType"] for row in rows} == {"Umbrellas", "Scarves"}
    with pytest.raises(ConfigError, match="Spaceships"):
        draw_catalog(tmp_path, num_products=1, seed=0, types=["Spaceships"])


def test_the_colour_in_the_name_is_the_colour_of_the_product(tmp_path: Path) -> None:
    folder = draw_catalog(tmp_path, num_products=60, seed=5, types=["Tshirts", "Dresses", "Trousers"])
    for row in _rows(folder):
        if row["baseColour"] not in ("Red", "Green", "Yellow") or "Plain" not in row["productDisplayName"]:
            continue
        pixels = np.asarray(Image.open(folder / "images" / f"{row['id']}.jpg").convert("RGB"), np.float32)
        middle = np.median(pixels[38:46, 26:34].reshape(-1, 3), axis=0)
        distance = {name: float(np.abs(middle - np.array(rgb)).sum()) for name, rgb in COLOURS.items()}
        assert min(distance, key=lambda name: distance[name]) == row["baseColour"], row
