"""The flat index against a plain sort."""

import numpy as np
import pytest

from enclip.errors import ReleaseError
from enclip.retrieval.index import FlatIndex


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
    loaded = FlatIndex.load(tmp_path / "index.faiss")
    np.testing.assert_array_equal(loaded.vectors(), shop.blocks[0])
    assert loaded.num_bytes == shop.blocks[0].nbytes


@pytest.mark.parametrize("content", [None, b"", b"not an index at all"])
def test_a_damaged_file_is_one_clear_error(tmp_path, content):
    path = tmp_path / "index.faiss"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReleaseError, match=r"index\.faiss"):
        FlatIndex.load(path)


def test_an_index_of_another_kind_is_refused(tmp_path):
    import faiss

    index = faiss.IndexFlatL2(3)
    index.add(np.eye(3, dtype=np.float32))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    with pytest.raises(ReleaseError, match="IndexFlatL2"):
        FlatIndex.load(tmp_path / "index.faiss")
