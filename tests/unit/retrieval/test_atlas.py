"""The map: what looks alike lies together, equal input gives equal maps, a refresh moves nobody."""

from dataclasses import replace

import numpy as np
import pytest

from enclip.errors import ReleaseError
from enclip.retrieval.atlas import Atlas

NEAR = 10


def vectors(shop):
    return np.concatenate(shop.blocks, axis=1)


def agreement(position_N2, label_N):
    """Share of each point's ten nearest that have its label, by brute force."""
    distance_NN = np.linalg.norm(position_N2[:, None] - position_N2[None], axis=2)
    np.fill_diagonal(distance_NN, np.inf)
    nearest = np.argsort(distance_NN, axis=1)[:, :NEAR]
    return float(np.mean(label_N[nearest] == label_N[:, None]))


@pytest.fixture(scope="module")
def atlas(shop):
    return Atlas.fit(vectors(shop))


def test_looks_lie_together(shop, atlas):
    assert atlas.position_N2.shape == (400, 2) and atlas.position_N2.dtype == np.float32
    assert agreement(atlas.position_N2, shop.products.article_type) > 0.95
    assert np.abs(atlas.position_N2).max() == pytest.approx(1)


def test_those_beyond_the_sample_lie_among_those_like_them(shop):
    position_N2 = Atlas.fit(vectors(shop), laid_out=100).position_N2
    assert agreement(position_N2, shop.products.article_type) > 0.95
    assert len(np.unique(position_N2, axis=0)) > 390, "they are not stacked on those of the sample"
    assert np.abs(position_N2).max() <= 1


def test_equal_input_and_seed_give_equal_maps(shop, atlas):
    np.testing.assert_array_equal(Atlas.fit(vectors(shop)).position_N2, atlas.position_N2)
    some = Atlas.fit(vectors(shop), laid_out=100, seed=1)
    np.testing.assert_array_equal(Atlas.fit(vectors(shop), laid_out=100, seed=1).position_N2, some.position_N2)
    assert not np.array_equal(Atlas.fit(vectors(shop), laid_out=100, seed=2).position_N2, some.position_N2)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 9, 10, 11, 40])
def test_a_shop_of_any_size_has_a_map(shop, size):
    position_N2 = Atlas.fit(vectors(shop)[:size]).position_N2
    assert position_N2.shape == (size, 2)
    assert np.isfinite(position_N2).all() and (np.abs(position_N2) <= 1).all()
    if size > 1:
        assert len(np.unique(position_N2, axis=0)) == size


def test_products_that_all_look_equal_lie_on_one_spot():
    position_N2 = Atlas.fit(np.ones((50, 8), np.float32)).position_N2
    assert len(np.unique(position_N2, axis=0)) == 1 and np.isfinite(position_N2).all()


def test_vectors_of_one_number_have_a_map():
    assert Atlas.fit(np.array([[1.0], [-1.0], [1.0]], np.float32)).position_N2.shape == (3, 2)


def test_a_refresh_moves_nobody_and_puts_newcomers_among_those_like_them(shop):
    # Half of each of the six looks; newcomers lie between them, so that rows are not those from before.
    old = np.flatnonzero(np.arange(400) // 6 % 2 == 0)
    before = Atlas.fit(vectors(shop)[old])
    after = before.extended(shop.products.take(old), shop.products, vectors(shop))
    np.testing.assert_array_equal(after.position_N2[old], before.position_N2)
    assert agreement(after.position_N2, shop.products.article_type) > 0.95
    again = before.extended(shop.products.take(old), shop.products, vectors(shop))
    np.testing.assert_array_equal(after.position_N2, again.position_N2)


def test_what_is_gone_leaves_the_others_where_they_were(shop, atlas):
    rest = np.arange(100, 300)
    after = atlas.extended(shop.products, shop.products.take(rest), vectors(shop)[rest])
    np.testing.assert_array_equal(after.position_N2, atlas.position_N2[rest])


def test_a_product_with_another_picture_is_a_newcomer(shop, atlas):
    shirt, watch = 0, 4
    sha = shop.products.image_sha256.copy()
    sha[shirt] = "e" * 64
    vector_NP = vectors(shop)
    vector_NP[shirt] = vector_NP[watch]
    after = atlas.extended(shop.products, replace(shop.products, image_sha256=sha), vector_NP)
    np.testing.assert_allclose(after.position_N2[shirt], atlas.position_N2[watch], atol=1e-3)
    np.testing.assert_array_equal(after.position_N2[1:], atlas.position_N2[1:])


def test_where_nobody_stays_the_map_is_a_new_one(shop):
    old, new = np.arange(0, 50), np.arange(50, 400)
    after = Atlas.fit(vectors(shop)[old]).extended(shop.products.take(old), shop.products.take(new), vectors(shop)[new])
    np.testing.assert_array_equal(after.position_N2, Atlas.fit(vectors(shop)[new]).position_N2)


def test_one_product_that_stays_is_enough(shop):
    after = Atlas.fit(vectors(shop)[:1]).extended(
        shop.products.take(np.arange(1)), shop.products.take(np.arange(5)), vectors(shop)[:5]
    )
    assert np.isfinite(after.position_N2).all()


def test_a_sample_is_the_same_for_everybody_and_hardly_changes_with_what_is_withdrawn(atlas):
    whole = atlas.sample(100)
    np.testing.assert_array_equal(whole, atlas.sample(100))
    assert len(np.unique(whole)) == 100 and (np.diff(whole) > 0).all()
    allowed = np.ones(400, bool)
    allowed[whole[:3]] = False
    fewer = atlas.sample(100, allowed)
    assert len(fewer) == 100 and allowed[fewer].all()
    assert len(np.intersect1d(whole, fewer)) == 97
    assert len(atlas.sample(1000, allowed)) == 397


def test_it_is_read_as_it_was_written(atlas, tmp_path):
    atlas.save(tmp_path / "map.npz")
    np.testing.assert_array_equal(Atlas.load(tmp_path / "map.npz", num_products=400).position_N2, atlas.position_N2)


def test_a_map_of_another_catalog_or_without_sense_is_refused(atlas, tmp_path):
    atlas.save(tmp_path / "map.npz")
    with pytest.raises(ReleaseError, match="401"):
        Atlas.load(tmp_path / "map.npz", num_products=401)
    Atlas(np.full((400, 2), np.nan, np.float32)).save(tmp_path / "map.npz")
    with pytest.raises(ReleaseError, match=r"map\.npz"):
        Atlas.load(tmp_path / "map.npz", num_products=400)
    (tmp_path / "map.npz").write_bytes(b"garbage")
    with pytest.raises(ReleaseError, match="cannot be read"):
        Atlas.load(tmp_path / "map.npz", num_products=400)
