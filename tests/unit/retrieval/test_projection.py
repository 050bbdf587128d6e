"""The projection keeps the order of scores, at a width that a member bounds."""

import numpy as np
import pytest

from enclip.errors import ReleaseError
from enclip.retrieval import fusion
from enclip.retrieval.projection import Projection


def test_several_members_are_narrower_than_the_widest(shop):
    embedding_ND = fusion.concatenate(shop.blocks)
    projection = Projection.fit(embedding_ND, shop.dims, shop.weights)
    assert projection.width == max(shop.dims) * 3 // 4
    assert projection.gallery(embedding_ND).shape == (len(shop.products), projection.width)


def test_one_member_is_left_as_it_is(shop):
    projection = Projection.fit(shop.blocks[0], [shop.dims[0]], [1.0])
    np.testing.assert_array_equal(projection.gallery(shop.blocks[0]), shop.blocks[0])
    np.testing.assert_array_equal(projection.query(shop.queries[0]), shop.queries[0])


def test_too_few_products_to_know_the_next_one_are_left_as_they_are(shop):
    embedding_ND = fusion.concatenate([block[:30] for block in shop.blocks])
    projection = Projection.fit(embedding_ND, shop.dims, shop.weights)
    np.testing.assert_array_equal(projection.gallery(embedding_ND), embedding_ND)


def test_projected_scores_differ_from_exact_ones_by_a_constant_per_query_when_nothing_is_cut(shop):
    """With as many components as the data has, only the mean's share is missing: `q·mean`."""
    blocks, dims = shop.blocks[:2], shop.dims[:2]
    few = [np.tile(block[:16], (4, 1)) for block in blocks]  # rank 16 < 18 components: everything fits
    embedding_ND = fusion.concatenate(few)
    query_QD = fusion.weight_query(shop.queries[:2], [0.7, 0.3])
    projection = Projection.fit(embedding_ND, dims, [0.7, 0.3])
    projected = projection.query(query_QD) @ projection.gallery(embedding_ND).T
    missing = query_QD @ embedding_ND.T - projected
    np.testing.assert_allclose(missing, np.broadcast_to(missing[:, :1], missing.shape), atol=1e-5)


def test_the_order_of_the_best_survives_the_cut(shop):
    embedding_ND = fusion.concatenate(shop.blocks)
    query_QD = fusion.weight_query(shop.queries, shop.weights)
    projection = Projection.fit(embedding_ND, shop.dims, shop.weights)
    exact = np.argsort(-(query_QD @ embedding_ND.T), axis=1)[:, :10]
    projected = np.argsort(-(projection.query(query_QD) @ projection.gallery(embedding_ND).T), axis=1)[:, :40]
    recall = np.mean([len(set(ours) & set(theirs)) / 10 for ours, theirs in zip(exact, projected, strict=True)])
    assert recall >= 0.95


def test_a_member_of_weight_zero_takes_no_component(shop):
    embedding_ND = fusion.concatenate(shop.blocks[:2])
    projection = Projection.fit(embedding_ND, shop.dims[:2], [1.0, 0.0])
    assert np.abs(projection.component_DP[shop.dims[0] :, : shop.dims[0]]).max() < 1e-6
    changed = embedding_ND.copy()
    changed[:, shop.dims[0] :] *= -1
    np.testing.assert_array_equal(projection.gallery(changed), projection.gallery(embedding_ND))


def test_half_precision_in_pieces_gives_the_same_vectors(shop, monkeypatch):
    embedding_ND = fusion.concatenate(shop.blocks).astype(np.float16)
    projection = Projection.fit(embedding_ND, shop.dims, shop.weights)
    whole = projection.gallery(embedding_ND)
    monkeypatch.setattr("enclip.retrieval.projection.CHUNK_ROWS", 37)
    np.testing.assert_allclose(projection.gallery(embedding_ND), whole, atol=1e-6)


@pytest.mark.parametrize("members", [1, 3])
def test_saved_and_loaded_it_is_the_same(shop, tmp_path, members):
    embedding_ND = fusion.concatenate(shop.blocks[:members])
    projection = Projection.fit(embedding_ND, shop.dims[:members], shop.weights[:members])
    projection.save(tmp_path / "projection.npz")
    loaded = Projection.load(tmp_path / "projection.npz")
    np.testing.assert_array_equal(loaded.gallery(embedding_ND), projection.gallery(embedding_ND))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 damaged"])
def test_a_damaged_file_is_one_clear_error(tmp_path, content):
    path = tmp_path / "projection.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReleaseError, match=r"projection\.npz"):
        Projection.load(path)
