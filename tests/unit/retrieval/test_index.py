"""The exact index against a plain sort, the others against the exact one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclip.errors import ReleaseError
from enclip.retrieval.clusters import Clusters
from enclip.retrieval.index import CellIndex, FlatIndex, GraphIndex, Index, load_index


def expected_rows(vectors, query, allowed, count):
    scores = vectors.astype(float) @ query.astype(float)
    scores[~allowed] = -np.inf
    return set(np.argsort(-scores)[: min(count, allowed.sum())])


@pytest.mark.parametrize("share", [1.0, 0.4, 0.02])
def test_rows_are_the_best_allowed_ones(shop, share):
    vectors = shop.blocks[0]
    allowed = np.random.default_rng(1).random(len(vectors)) < share
    found = FlatIndex.build(vectors).search(shop.queries[0], num_rows=15, allowed_N=allowed)
    for rows, query in zip(found, shop.queries[0], strict=True):
        assert set(rows) == expected_rows(vectors, query, allowed, 15)
        assert np.all(np.diff(vectors[rows] @ query) <= 1e-6)


def test_without_a_mask_every_row_may_answer(shop):
    everything = np.ones(len(shop.products), bool)
    index = FlatIndex.build(shop.blocks[0])
    for ours, masked in zip(
        index.search(shop.queries[0], num_rows=9),
        index.search(shop.queries[0], num_rows=9, allowed_N=everything),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, masked)


def test_more_rows_than_there_are_gives_all(shop):
    index = FlatIndex.build(shop.blocks[0][:5])
    assert [len(rows) for rows in index.search(shop.queries[0], num_rows=50)] == [5] * len(shop.queries[0])


def test_saved_and_loaded_it_holds_the_same_vectors(shop, tmp_path):
    FlatIndex.build(shop.blocks[0]).save(tmp_path / "index.faiss")
    loaded = load_index(tmp_path / "index.faiss")
    np.testing.assert_array_equal(loaded.vectors(), shop.blocks[0])
    assert loaded.num_bytes == shop.blocks[0].nbytes


@pytest.mark.parametrize("content", [None, b"", b"not an index at all"])
def test_a_damaged_file_is_one_clear_error(tmp_path, content):
    path = tmp_path / "index.faiss"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReleaseError, match=r"index\.faiss"):
        load_index(path)


def test_an_index_of_another_kind_is_refused(tmp_path):
    import faiss

    index = faiss.IndexFlatL2(3)
    index.add(np.eye(3, dtype=np.float32))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    with pytest.raises(ReleaseError, match="IndexFlatL2"):
        load_index(tmp_path / "index.faiss")


WIDTH, CELLS = 16, 20


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """2,000 vectors around 20 directions; lengths differ, as offsets make them."""
    chance = np.random.default_rng(3)
    centres = chance.standard_normal((CELLS, WIDTH))
    found = centres[chance.integers(CELLS, size=2_000)] + 1.2 * chance.standard_normal((2_000, WIDTH))
    return found.astype(np.float32)


@pytest.fixture(scope="module")
def clusters(vectors: np.ndarray) -> Clusters:
    return Clusters.fit(vectors, count=CELLS)


@pytest.fixture(scope="module")
def queries(vectors: np.ndarray) -> np.ndarray:
    chance = np.random.default_rng(4)
    return vectors[:40] + 0.2 * chance.standard_normal((40, WIDTH)).astype(np.float32)


def recall(index: Index, vectors: np.ndarray, queries: np.ndarray, allowed: np.ndarray | None = None) -> float:
    exact = FlatIndex.build(vectors).search(queries, num_rows=10, allowed_N=allowed)
    found = index.search(queries, num_rows=10, allowed_N=allowed)
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]))


def test_all_cells_find_what_an_exact_search_finds(vectors, clusters, queries):
    index = CellIndex.build(vectors, clusters, effort=CELLS)
    exact = FlatIndex.build(vectors).search(queries, num_rows=10)
    for ours, theirs in zip(index.search(queries, num_rows=10), exact, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_more_cells_find_more(vectors, clusters, queries):
    index = CellIndex.build(vectors, clusters, effort=1)
    found = [recall(index.with_effort(effort), vectors, queries) for effort in (1, 3, CELLS)]
    assert found[0] < found[1] < found[2] == 1
    assert index.effort == 1, "another effort is another index"
    assert index.with_effort(10_000).effort == CELLS, "there are no more"


@pytest.mark.parametrize("share", [0.5, 0.05, 0.002])
def test_a_filter_costs_no_recall(vectors, clusters, queries, share):
    allowed = np.random.default_rng(5).random(len(vectors)) < share
    few = CellIndex.build(vectors, clusters, effort=4)
    walk = GraphIndex.build(vectors, effort=64)
    for index in (few, walk):
        assert recall(index, vectors, queries, allowed) >= min(0.97, recall(index, vectors, queries))
        for rows in index.search(queries, num_rows=10, allowed_N=allowed):
            assert allowed[rows].all()


def test_nothing_allowed_is_nothing_found(vectors, clusters, queries):
    nothing = np.zeros(len(vectors), bool)
    for index in (CellIndex.build(vectors, clusters, effort=2), GraphIndex.build(vectors, effort=16)):
        assert [len(rows) for rows in index.search(queries, num_rows=10, allowed_N=nothing)] == [0] * len(queries)


def test_a_graph_finds_more_the_wider_its_view(vectors, queries):
    index = GraphIndex.build(vectors, effort=10)
    assert recall(index.with_effort(200), vectors, queries) >= max(0.99, recall(index, vectors, queries))


@pytest.mark.parametrize("kind", ["cells", "graph"])
def test_what_is_saved_searches_as_before(vectors, clusters, queries, tmp_path, kind):
    built = {"cells": CellIndex.build(vectors, clusters, effort=3), "graph": GraphIndex.build(vectors, effort=40)}[kind]
    built.with_effort(7)
    built.save(tmp_path / "index.faiss")
    loaded = load_index(tmp_path / "index.faiss")
    assert (loaded.kind, loaded.effort, loaded.num_bytes) == (kind, built.effort, built.num_bytes)
    np.testing.assert_array_equal(loaded.vectors(), vectors)
    for ours, theirs in zip(loaded.search(queries, num_rows=8), built.search(queries, num_rows=8), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_cell_without_products_is_passed_over(vectors, queries):
    nearest = Clusters.fit(vectors, count=CELLS)
    first = nearest.assignment_N == 0
    refreshed = Clusters(nearest.assignment_N[~first], nearest.centroid_CP)
    index = CellIndex.build(vectors[~first], refreshed, effort=CELLS)
    assert recall(index, vectors[~first], queries) == 1


@pytest.fixture(scope="module")
def indexes(vectors: np.ndarray, clusters: Clusters) -> dict[str, Index]:
    """One of each kind, with as little effort as there is."""
    return {
        "exact": FlatIndex.build(vectors),
        "cells": CellIndex.build(vectors, clusters, effort=1),
        "graph": GraphIndex.build(vectors, effort=4),
    }


@pytest.mark.parametrize("kind", ["exact", "cells", "graph"])
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), num_rows=st.integers(1, 400), far=st.booleans())
@settings(max_examples=40, deadline=None)
def test_as_many_come_back_as_are_allowed(indexes, vectors, clusters, queries, kind, seed, share, num_rows, far):
    """A category is a few clusters, and these may be far from what is asked for."""
    allowed, query = np.random.default_rng(seed).random(len(vectors)) < share, queries[:2]
    if far:
        allowed = np.isin(clusters.assignment_N, [seed % CELLS, (seed + 1) % CELLS])
        query = -vectors[allowed].mean(axis=0, keepdims=True)
    for rows in indexes[kind].search(query, num_rows=num_rows, allowed_N=allowed):
        assert len(rows) == len(set(rows.tolist())) == min(num_rows, allowed.sum())
        assert allowed[rows].all()
