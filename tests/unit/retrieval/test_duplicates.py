"""Near-duplicates: groups around a middle, equal pictures marked, nothing where nothing is alike."""

from dataclasses import replace

import numpy as np

from enclip.retrieval.clusters import Clusters
from enclip.retrieval.duplicates import describe_duplicates, find_duplicates
from enclip.retrieval.neighbours import Looks, Neighbours
from tests.unit.retrieval.conftest import unit


def found_in(products, vector_ND):
    looks = Looks.of(vector_ND, [vector_ND.shape[1]], [1.0])
    clusters = Clusters.fit(looks.vector_NP, count=6)
    neighbours = Neighbours.find(products, looks.vector_NP, clusters, k=10)
    groups = find_duplicates(looks, neighbours)
    return groups, describe_duplicates(groups, looks, products, clusters.assignment_N)


def retaken(shop, *, copies, noise=0.002):
    """The shop's vectors, some rows being others photographed again."""
    vector_ND = shop.blocks[0].copy()
    chance = np.random.default_rng(3)
    for row, original in copies.items():
        vector_ND[row] = unit(vector_ND[original] + noise * chance.normal(size=vector_ND.shape[1]))
    return vector_ND


def test_retakes_are_found_and_nothing_else(shop):
    vector_ND = retaken(shop, copies={10: 4, 22: 4, 31: 30})
    groups, described = found_in(shop.products, vector_ND)
    assert {frozenset(rows.tolist()) for rows in groups} == {frozenset({4, 10, 22}), frozenset({30, 31})}
    assert {group.differs for group in described} == {("name",), ("article_type", "base_colour", "gender", "name")}
    assert all(not product.same_picture for group in described for product in group.products)
    assert all(0.99 < group.similarity <= 1 for group in described)


def test_the_very_same_picture_is_marked_whatever_its_embedding(shop):
    sha = shop.products.image_sha256.copy()
    sha[[7, 9]] = "e" * 64
    groups, (group,) = found_in(replace(shop.products, image_sha256=sha), shop.blocks[0])
    assert [sorted(rows.tolist()) for rows in groups] == [[7, 9]]
    assert all(product.same_picture for product in group.products)


def test_products_without_a_picture_s_hash_are_no_copies_of_each_other(shop):
    blank = np.full(len(shop.products), "", dtype=object)
    assert found_in(replace(shop.products, image_sha256=blank), shop.blocks[0])[0] == []


def test_a_chain_of_small_steps_is_no_group(shop):
    """Each step is near, the ends are far: a group lies around its middle."""
    vector_ND = shop.blocks[0].copy()
    step = np.linspace(0, 1, 40)[:, None]
    vector_ND[:40] = unit((1 - step) * vector_ND[0] + step * vector_ND[1])
    groups, described = found_in(shop.products, vector_ND)
    assert max(len(rows) for rows in groups) < 15
    rows = np.concatenate(groups)
    assert len(rows) == len(set(rows.tolist())), "a product is in one group at most"
    assert min(group.similarity for group in described) > 0.99


def test_in_a_shop_of_few_products_only_equal_pictures_count(shop):
    few = shop.products.take(np.arange(6))
    vector_ND = retaken(shop, copies={1: 0})[:6]
    assert found_in(few, vector_ND)[0] == []
    sha = few.image_sha256.copy()
    sha[[0, 1]] = "d" * 64
    assert [sorted(rows.tolist()) for rows in found_in(replace(few, image_sha256=sha), vector_ND)[0]] == [[0, 1]]


def test_equal_input_gives_equal_groups_in_equal_order(shop):
    vector_ND = retaken(shop, copies={10: 4, 22: 4, 31: 30})
    assert found_in(shop.products, vector_ND)[1] == found_in(shop.products, vector_ND)[1]
