"""Plots are pictures of what they were given: files that open, are small, and change with the data."""

import numpy as np
import pytest
from PIL import Image

from enclip.evaluation import plots


def pixels_of(path) -> np.ndarray:
    assert path.stat().st_size < plots.MAX_BYTES
    with Image.open(path) as image:
        image.load()
        return np.asarray(image.convert("RGB"))


def test_epochs_are_drawn_and_other_values_look_different(tmp_path):
    rising = {"instance 0": [(0, 0.0), (1, 0.2), (2, 0.3)], "instance 1": [(0, 0.01), (1, 0.25)]}
    flat = {"instance 0": [(0, 0.1), (1, 0.1), (2, 0.1)], "instance 1": [(0, 0.1), (1, 0.1)]}
    first = pixels_of(plots.plot_epochs(tmp_path / "a.png", rising))
    assert not np.array_equal(first, pixels_of(plots.plot_epochs(tmp_path / "b.png", flat)))
    assert np.array_equal(first, pixels_of(plots.plot_epochs(tmp_path / "c.png", rising))), "the same every time"


def test_categories_grow_with_their_number_and_take_no_champion(tmp_path):
    few = {"Shirts": 0.5, "Shoes": 0.7}
    many = {f"category {number}": number / 40 for number in range(40)}
    small = pixels_of(plots.plot_categories(tmp_path / "a.png", few, num_queries={"Shirts": 3}))
    large = pixels_of(
        plots.plot_categories(tmp_path / "b.png", many, {"category 3": 0.9}, num_queries=dict.fromkeys(many, 5))
    )
    assert large.shape[0] > small.shape[0]


def test_nothing_to_draw_is_an_empty_plot_and_not_an_error(tmp_path):
    pixels_of(plots.plot_epochs(tmp_path / "a.png", {"instance 0": []}))
    pixels_of(plots.plot_categories(tmp_path / "b.png", {}, {}, num_queries={}))


def test_levels_are_drawn_a_panel_per_way(tmp_path):
    one = {"blur": {"ours": [("none", 0.5), ("1 px", 0.4)], "theirs": [("none", 0.45), ("1 px", 0.2)]}}
    two = {**one, "noise": {"ours": [("none", 0.5), ("0.1", 0.1)], "theirs": [("none", 0.45)]}}
    narrow = pixels_of(plots.plot_levels(tmp_path / "a.png", one, title="mAP@10"))
    wide = pixels_of(plots.plot_levels(tmp_path / "b.png", two, title="mAP@10"))
    assert wide.shape[1] > narrow.shape[1] and wide.shape[0] == narrow.shape[0]


@pytest.mark.parametrize("num_products", [1, 3, 5, 120])
def test_clusters_are_drawn_with_their_thumbnails(tmp_path, num_products):
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(num_products, 8)).astype(np.float32)
    clusters = (np.arange(num_products) % 3).astype(np.int32)
    magenta = np.full((20, 15, 3), (255, 0, 255), np.uint8)
    drawn = pixels_of(plots.plot_clusters(tmp_path / "a.png", vectors, clusters, lambda row: magenta))
    bare = pixels_of(plots.plot_clusters(tmp_path / "b.png", vectors, clusters, lambda row: None))

    def num_magenta(image):
        return int((np.abs(image.astype(int) - (255, 0, 255)).sum(axis=2) < 60).sum())

    assert num_magenta(drawn) > 100
    assert num_magenta(bare) == 0


def test_a_picture_that_would_be_too_large_is_reduced(tmp_path):
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(400, 8)).astype(np.float32)
    noise = chance.integers(0, 256, (400, 60, 45, 3), dtype=np.uint8)
    path = plots.plot_clusters(tmp_path / "a.png", vectors, np.zeros(400, np.int32), lambda row: noise[row])
    assert pixels_of(path).shape[0] > 300
