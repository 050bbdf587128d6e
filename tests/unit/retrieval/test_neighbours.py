"""Neighbours against a plain sort, pictures that are shared, and cosines against the members' own."""

from dataclasses import replace

import numpy as np
import pytest

from enclip.retrieval.clusters import Clusters
from enclip.retrieval.neighbours import Looks, Neighbours


def looks_of(shop):
    half = np.concatenate([block.astype(np.float16) for block in shop.blocks], axis=1)
    return Looks.of(half, shop.dims, shop.weights)


def clusters_of(looks, count=12):
    return Clusters.fit(looks.vector_NP, count=count)


def test_they_are_the_nearest_by_a_plain_sort(shop):
    looks = looks_of(shop)
    found = Neighbours.find(shop.products, looks.vector_NP, clusters_of(looks), k=8)
    for row in range(0, len(shop.products), 37):
        distance = ((looks.vector_NP[found.first_U] - looks.vector_NP[found.first_U[row]]) ** 2).sum(axis=1)
        distance[row] = np.inf
        np.testing.assert_allclose(found.distance_UK[row], np.sort(distance)[:8], atol=1e-4)
        assert row not in found.row_UK[row]


def test_through_clusters_nearly_all_are_the_same(shop):
    looks = looks_of(shop)
    clusters = clusters_of(looks, count=40)
    exact = Neighbours.find(shop.products, looks.vector_NP, clusters, k=5)
    probed = Neighbours.find(shop.products, looks.vector_NP, clusters, k=5, exact_rows=10)
    same = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(exact.row_UK, probed.row_UK, strict=True)])
    assert same > 0.9


def test_a_picture_that_many_share_counts_once(shop):
    sha = shop.products.image_sha256.copy()
    sha[:50] = "f" * 64
    vector_ND = shop.blocks[0].copy()
    vector_ND[:50] = vector_ND[0]
    clusters = Clusters.fit(vector_ND, count=6)
    found = Neighbours.find(replace(shop.products, image_sha256=sha), vector_ND, clusters, k=5)
    assert len(found) == len(shop.products) - 49
    assert [rows.tolist() for rows in found.copies()] == [list(range(50))]
    assert all(len(set(row)) == 5 for row in found.row_UK)


def test_equal_vectors_of_many_pictures_never_name_themselves(shop):
    vector_ND = np.repeat(shop.blocks[0][:1], len(shop.products), axis=0)
    found = Neighbours.find(shop.products, vector_ND, Clusters.fit(vector_ND, count=1), k=4)
    assert (found.row_UK != np.arange(len(found))[:, None]).all()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_shop_of_few_products_has_few_neighbours(shop, size):
    rows = np.arange(size)
    found = Neighbours.find(
        shop.products.take(rows), shop.blocks[0][:size], Clusters.fit(shop.blocks[0][:size], count=1), k=5
    )
    assert [len(row[row >= 0]) for row in found.row_UK] == [size - 1] * size


def test_cosines_are_the_weighted_sum_of_the_members(shop):
    looks = looks_of(shop)
    left, right = np.arange(0, 100), np.arange(100, 200)
    expected = sum(
        weight * np.einsum("md,md->m", block[left], block[right])
        for weight, block in zip(shop.weights, shop.blocks, strict=True)
    )
    np.testing.assert_allclose(looks.cosines(left, right), expected, atol=2e-3)


def test_the_projection_never_adds_distance(shop):
    looks = looks_of(shop)
    found = Neighbours.find(shop.products, looks.vector_NP, clusters_of(looks), k=6)
    left = np.repeat(np.arange(len(found)), 6)
    whole = 2 - 2 * looks.cosines(found.first_U[left], found.first_U[found.row_UK.ravel()])
    assert (found.distance_UK.ravel() <= whole + 5e-3).all()


def test_what_lies_behind_the_pictures_is_left_out(shop):
    half = np.concatenate([block.astype(np.float16) for block in shop.blocks], axis=1)
    names = np.random.default_rng(0).normal(size=half.shape).astype(np.float16)
    with_names = Looks.of(np.concatenate([half, names], axis=1), shop.dims, shop.weights)
    np.testing.assert_array_equal(with_names.vector_NP, looks_of(shop).vector_NP)
