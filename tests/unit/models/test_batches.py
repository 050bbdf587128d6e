"""Batches of look-alikes: an epoch stays a permutation of the products, by epoch and seed alone."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclip.models.batches import ALONE, Batches
from enclip.models.captions import UNKNOWN
from enclip.models.clip import embed_pixels
from enclip.models.distributed import Ranks
from enclip.models.hard_negatives import TOGETHER, kinds, of_few_clusters, of_one_kind, picture_clusters
from enclip.models.training import TrainingData
from enclip.records import Product, Products

from .small_models import CPU, small_clip


@pytest.mark.parametrize("chosen", [of_one_kind, of_few_clusters])
@given(st.lists(st.integers(-1, 4), min_size=2, max_size=60), st.integers(1, 12), st.floats(0, 1), st.integers(0, 99))
@settings(deadline=None, max_examples=200)
def test_the_same_rows_in_parts_of_the_same_sizes(
    chosen: Callable[..., list[np.ndarray]], kind: list[int], count: int, share: float, seed: int
):
    kind_N = np.array(kind)
    parts = np.array_split(np.random.default_rng(seed).permutation(len(kind)), min(count, len(kind)))
    found = chosen(parts, kind_N, share, np.random.default_rng(seed))
    assert [len(part) for part in found] == [len(part) for part in parts]
    assert sorted(np.concatenate(found).tolist()) == list(range(len(kind)))


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_as_many_parts_as_asked_hold_one_kind(share: float):
    kind_N = np.repeat(np.arange(4), 100)
    parts = np.array_split(np.random.default_rng(0).permutation(400), 40)
    found = of_one_kind(parts, kind_N, share, np.random.default_rng(1))
    assert sum(len(set(kind_N[part])) == 1 for part in found) == 40 * share
    assert sum(len(set(kind_N[part])) == 1 for part in parts) == 0


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_as_many_parts_as_asked_hold_eights_of_few_clusters(share: float):
    """96 clusters of 24 in parts of 24: three of each are together, and no part is of one alone."""
    cluster_N = np.random.default_rng(2).permutation(np.repeat(np.arange(96), 24))
    parts = np.array_split(np.random.default_rng(0).permutation(96 * 24), 96)
    found = of_few_clusters(parts, cluster_N, share, np.random.default_rng(1))
    held = [np.unique(cluster_N[part], return_counts=True)[1] for part in found]
    assert sum(bool((counts % TOGETHER == 0).all()) for counts in held) == 96 * share
    assert sum(len(counts) == 1 for counts in held) <= 1
    assert not any((np.unique(cluster_N[part], return_counts=True)[1] % TOGETHER == 0).all() for part in parts)


def test_clusters_are_of_what_the_pictures_show(shapes: TrainingData):
    model, rows = small_clip().to(CPU), np.arange(0, len(shapes.pixels), 2)
    cluster_N = picture_clusters(model, shapes.pixels, rows, seed=3, device=CPU)
    assert (cluster_N[1::2] == UNKNOWN).all() and len(set(cluster_N[rows])) == round(len(rows) ** 0.5)
    assert np.array_equal(cluster_N, picture_clusters(model, shapes.pixels, rows, seed=3, device=CPU))
    image_RD = embed_pixels(model, shapes.pixels[rows], CPU)
    cosine_RR = image_RD @ image_RD.T
    same_RR = cluster_N[rows][:, None] == cluster_N[rows]
    others_RR = same_RR & ~np.eye(len(rows), dtype=bool)
    assert cosine_RR[others_RR].mean() > cosine_RR[~same_RR].mean() + 0.5 * cosine_RR.std()
    alike = np.zeros_like(shapes.pixels)
    assert len(set(picture_clusters(model, alike, rows, seed=3, device=CPU)[rows])) == 1


def test_products_of_no_kind_do_not_look_alike():
    kind_N = np.array([UNKNOWN] * 50 + [3] * 10)
    parts = np.array_split(np.random.default_rng(0).permutation(60), 6)
    found = of_one_kind(parts, kind_N, 1.0, np.random.default_rng(1))
    assert sum(bool((kind_N[part] == 3).all()) for part in found) == 1


def test_a_kind_is_the_type_or_else_the_category():
    rows = [("Tees", "Topwear"), ("tees ", "Other"), ("", "Topwear"), ("", "topwear"), ("Topwear", ""), ("", "")]
    products = Products.from_rows(
        [
            Product(product_id=str(number), name="", image_sha256="", article_type=kind, sub_category=category)
            for number, (kind, category) in enumerate(rows)
        ]
    )
    kind_N = kinds(products)
    assert kind_N[0] == kind_N[1] and kind_N[2] == kind_N[3] and kind_N[5] == UNKNOWN
    assert len({kind_N[0], kind_N[2], kind_N[4], UNKNOWN}) == 4


def test_epoch_and_seed_alone_decide_and_ranks_share_the_products_of_one_kind(shapes: TrainingData):
    """16 look-alikes a batch, of three kinds of 32."""
    tokenize = small_clip().tokenize

    def rows(epoch: int, *, seed: int = 0, ranks: Ranks = ALONE) -> list[list[int]]:
        """Told by what the pixels of each row say: its number."""
        numbered = replace(shapes, pixels=np.arange(96, dtype=np.uint8)[:, None, None, None])
        batches = Batches(
            numbered, tokenize, batch_size=16 // ranks.world_size, seed=seed, ranks=ranks, hard_negatives=0.5
        )
        return [batch.pixels_BHWC.flatten().tolist() for batch in batches.epoch(epoch)]

    alone = rows(1)
    assert rows(1) == alone != rows(2) and rows(1, seed=1) != alone
    assert sorted(row for batch in alone for row in batch) == list(range(96))
    kind = shapes.products.article_type
    assert sum(len(set(kind[batch])) == 1 for batch in alone) == 3
    halves = [rows(1, ranks=Ranks(rank, 2)) for rank in range(2)]
    assert [sorted(ours + theirs) for ours, theirs in zip(*halves, strict=True)] == [sorted(batch) for batch in alone]
