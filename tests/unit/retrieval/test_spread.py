"""Folding near-duplicates: the best of each group first, the others only where nothing else is left."""

import numpy as np
import pytest

from enclip.errors import ReleaseError
from enclip.records import Hit, Product, Products, Ranking
from enclip.retrieval.spread import Spread

IDS = [f"p{number}" for number in range(10)]
PRODUCTS = Products.from_rows([Product(product_id, product_id, "") for product_id in IDS])
GROUPS = [np.array([1, 3, 5]), np.array([2, 8])]


def ranking(*ids):
    return Ranking(tuple(Hit(product_id, 1 - place / 100, 0) for place, product_id in enumerate(ids)))


def page(found, *, k, groups=GROUPS):
    return [(hit.product_id, hit.folded) for hit in Spread.of(groups, 10).page(found, PRODUCTS, k=k).hits]


def test_only_the_best_of_a_group_stays_and_says_how_many_it_stands_for():
    assert page(ranking("p3", "p0", "p1", "p5", "p8", "p4", "p2"), k=4) == [("p3", 2), ("p0", 0), ("p8", 1), ("p4", 0)]


def test_once_others_are_exhausted_the_folded_ones_come_back_in_order():
    assert page(ranking("p3", "p0", "p1", "p5"), k=4) == [("p3", 0), ("p0", 0), ("p1", 0), ("p5", 0)]
    assert page(ranking("p3", "p0", "p1", "p5"), k=3) == [("p3", 1), ("p0", 0), ("p1", 0)]


def test_without_groups_the_page_is_the_ranking_cut():
    found = ranking("p3", "p0", "p1")
    assert Spread.of([], 10).page(found, PRODUCTS, k=2) == Ranking(found.hits[:2])


def test_an_empty_ranking_stays_empty():
    assert page(ranking(), k=3) == []


def test_every_product_found_is_shown_or_folded():
    chance = np.random.default_rng(0)
    for _ in range(200):
        found = ranking(*chance.permutation(IDS)[: chance.integers(0, 11)])
        k = int(chance.integers(1, 12))
        shown = Spread.of(GROUPS, 10).page(found, PRODUCTS, k=k).hits
        assert len(shown) == min(k, len(found.hits))
        assert len({hit.product_id for hit in shown}) == len(shown)
        group_of = {f"p{row}": number for number, rows in enumerate(GROUPS) for row in rows}
        left = [hit.product_id for hit in found.hits if hit.product_id not in {one.product_id for one in shown}]
        assert sum(hit.folded for hit in shown) == sum(
            group_of.get(product_id, -1) in {group_of.get(hit.product_id) for hit in shown} for product_id in left
        )


def test_saved_and_loaded_it_is_the_same(tmp_path):
    spread = Spread.of(GROUPS, 10)
    spread.save(tmp_path / "duplicates.npz")
    np.testing.assert_array_equal(Spread.load(tmp_path / "duplicates.npz", num_products=10).group_N, spread.group_N)
    with pytest.raises(ReleaseError, match="there are 11"):
        Spread.load(tmp_path / "duplicates.npz", num_products=11)
    (tmp_path / "duplicates.npz").write_bytes(b"nothing")
    with pytest.raises(ReleaseError, match="cannot be read"):
        Spread.load(tmp_path / "duplicates.npz", num_products=10)
