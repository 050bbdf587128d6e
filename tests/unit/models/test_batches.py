"""Look-alike batches: an epoch stays a permutation of the products, by epoch and seed alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclip.models.batches import ALONE, Batches, kinds, look_alikes
from enclip.models.captions import UNKNOWN
from enclip.models.distributed import Ranks
from enclip.models.training import TrainingData
from enclip.records import Product, Products

from .small_models import small_clip


@given(st.lists(st.integers(-1, 4), min_size=2, max_size=60), st.integers(1, 12), st.floats(0, 1), st.integers(0, 99))
@settings(deadline=None, max_examples=200)
def test_the_same_rows_in_parts_of_the_same_sizes(kind: list[int], count: int, share: float, seed: int):
    kind_N = np.array(kind)
    parts = np.array_split(np.random.default_rng(seed).permutation(len(kind)), min(count, len(kind)))
    found = look_alikes(parts, kind_N, share, np.random.default_rng(seed))
    assert [len(part) for part in found] == [len(part) for part in parts]
    assert sorted(np.concatenate(found).tolist()) == list(range(len(kind)))


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_as_many_parts_as_asked_hold_one_kind(share: float):
    kind_N = np.repeat(np.arange(4), 100)
    parts = np.array_split(np.random.default_rng(0).permutation(400), 40)
    found = look_alikes(parts, kind_N, share, np.random.default_rng(1))
    assert sum(len(set(kind_N[part])) == 1 for part in found) == 40 * share
    assert sum(len(set(kind_N[part])) == 1 for part in parts) == 0


def test_products_of_no_kind_do_not_look_alike():
    kind_N = np.array([UNKNOWN] * 50 + [3] * 10)
    parts = np.array_split(np.random.default_rng(0).permutation(60), 6)
    found = look_alikes(parts, kind_N, 1.0, np.random.default_rng(1))
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
