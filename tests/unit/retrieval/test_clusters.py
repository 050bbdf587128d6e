"""Clusters find looks, keep their numbers, and say how pure they are."""

import numpy as np
import pytest

from enclip.errors import ReleaseError
from enclip.retrieval.clusters import Clusters, cluster_grid, cluster_means, purity, silhouette


def test_well_separated_looks_become_clusters(shop):
    clusters = Clusters.fit(shop.blocks[0], count=6)
    assert clusters.count == 6
    assert purity(clusters.assignment_N, shop.products.article_type) > 0.95
    assert silhouette(shop.blocks[0], clusters) > 0.2


def test_every_product_is_in_the_cluster_whose_unit_centroid_is_nearest(shop):
    clusters = Clusters.fit(shop.blocks[0], count=9)
    np.testing.assert_allclose(np.linalg.norm(clusters.centroid_CP, axis=1), 1, rtol=1e-5)
    for row, vector in enumerate(shop.blocks[0]):
        cosines = [float(vector @ centroid) for centroid in clusters.centroid_CP]
        assert cosines[clusters.assignment_N[row]] >= max(cosines) - 1e-6
    assert set(clusters.assignment_N) == set(range(clusters.count)), "no cluster is empty"


def test_length_does_not_matter_only_direction(shop):
    stretched = shop.blocks[0] * np.linspace(0.1, 9, len(shop.products), dtype=np.float32)[:, None]
    np.testing.assert_array_equal(
        Clusters.fit(stretched, count=6).assignment_N, Clusters.fit(shop.blocks[0], count=6).assignment_N
    )


def test_equal_seeds_give_equal_clusters(shop):
    first, second = (Clusters.fit(shop.blocks[0], count=11, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.assignment_N, second.assignment_N)


@pytest.mark.parametrize(("num_distinct", "asked", "got"), [(1, 5, 1), (3, 10, 3), (7, 2, 2)])
def test_there_are_no_more_clusters_than_distinct_vectors(num_distinct, asked, got):
    vectors = np.eye(8, dtype=np.float32)[np.arange(14) % num_distinct]
    assert Clusters.fit(vectors, count=asked).count == got


def test_newcomers_join_and_old_clusters_keep_their_numbers(shop):
    clusters = Clusters.fit(shop.blocks[0][:300], count=6)
    grown = clusters.assigned(shop.blocks[0])
    np.testing.assert_array_equal(grown.assignment_N[:300], clusters.assignment_N)
    newcomers = purity(grown.assignment_N[300:], shop.products.article_type[300:])
    assert newcomers > 0.9


def test_a_query_s_score_of_a_cluster_is_the_mean_of_its_products_scores(shop):
    clusters = Clusters.fit(shop.blocks[0], count=6)
    half = shop.blocks[0].astype(np.float16)
    score_QC = shop.queries[0] @ cluster_means(half, clusters).T
    for cluster in range(clusters.count):
        members = half[clusters.assignment_N == cluster].astype(float)
        np.testing.assert_allclose(score_QC[:, cluster], (shop.queries[0] @ members.T).mean(axis=1), atol=1e-5)


def test_a_cluster_left_without_products_has_a_mean_of_zero(shop):
    clusters = Clusters.fit(shop.blocks[0], count=6)
    only = clusters.assigned(shop.blocks[0][clusters.assignment_N == 2])
    means = cluster_means(shop.blocks[0][clusters.assignment_N == 2], only)
    assert np.flatnonzero(np.abs(means).sum(axis=1)).tolist() == [2]


def test_purity_by_hand_leaves_unlabelled_products_out():
    labels = np.array(["a", "a", "b", "c", "c", ""], dtype=object)
    assert purity(np.array([0, 0, 0, 1, 1, 1], np.int32), labels) == pytest.approx(4 / 5)
    assert purity(np.array([0, 1], np.int32), np.array(["", ""], dtype=object)) == 0


def test_silhouette_is_zero_where_it_is_undefined(shop):
    assert silhouette(shop.blocks[0], Clusters.fit(shop.blocks[0], count=1)) == 0


@pytest.mark.parametrize("num_products", [1, 2, 5, 30, 300, 9_468, 1_000_000])
def test_the_grid_follows_the_catalog(num_products):
    grid = cluster_grid(num_products)
    assert grid == tuple(sorted(set(grid)))
    assert all(1 <= count <= max(1, num_products) for count in grid)
    if num_products >= 300:
        assert len(grid) == 5


def test_saved_and_loaded_they_are_the_same(shop, tmp_path):
    clusters = Clusters.fit(shop.blocks[0], count=4)
    clusters.save(tmp_path / "clusters.npz")
    loaded = Clusters.load(tmp_path / "clusters.npz")
    np.testing.assert_array_equal(loaded.assignment_N, clusters.assignment_N)
    (tmp_path / "clusters.npz").write_bytes(b"nothing")
    with pytest.raises(ReleaseError, match=r"clusters\.npz"):
        Clusters.load(tmp_path / "clusters.npz")
