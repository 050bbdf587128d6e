"""The concatenation's inner product is the weighted sum of cosines; other fusions by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclip.errors import QueryError, ReleaseError
from enclip.retrieval import fusion


def unit(chance: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = chance.normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    dims=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    num_products=st.integers(1, 30),
    num_queries=st.integers(1, 5),
)
def test_inner_product_with_the_concatenation_is_the_weighted_sum_of_cosines(seed, dims, num_products, num_queries):
    chance = np.random.default_rng(seed)
    blocks = [unit(chance, num_products, dim) for dim in dims]
    queries = [unit(chance, num_queries, dim) for dim in dims]
    weights = chance.dirichlet(np.ones(len(dims)))
    fast = fusion.weight_query(queries, weights) @ fusion.concatenate(blocks).T
    slow = np.zeros((num_queries, num_products))
    for block, query, weight in zip(blocks, queries, weights, strict=True):
        for i in range(num_queries):
            for j in range(num_products):
                slow[i, j] += weight * float(np.dot(query[i].astype(float), block[j].astype(float)))
    np.testing.assert_allclose(fast, slow, atol=2e-6)


def test_members_that_embedded_different_numbers_of_products_are_refused():
    with pytest.raises(ReleaseError, match=r"\[3, 4\]"):
        fusion.concatenate([np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)])


def test_a_query_needs_one_embedding_per_member():
    with pytest.raises(QueryError, match="1 embeddings for an ensemble of 2"):
        fusion.weight_query([np.ones((1, 2), np.float32)], [0.5, 0.5])


def test_mixing_words_and_a_picture_gives_unit_norm_and_a_negative_weight_pushes_away():
    words, picture = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    np.testing.assert_allclose(fusion.mix_queries([words, picture], [1, 1]), [[0.5**0.5, 0.5**0.5]], rtol=1e-6)
    assert fusion.mix_queries([words, picture], [1, -1])[0, 1] < 0
    np.testing.assert_array_equal(fusion.mix_queries([words, words], [1, -1]), [[0, 0]])


def test_reciprocal_rank_fusion_by_hand():
    first = np.array([[0.9, 0.5, 0.1]], np.float32)  # ranks 1, 2, 3
    second = np.array([[0.2, 0.8, 0.2]], np.float32)  # ranks 2, 1, 3: the tie goes to the first row
    expected = [[1 / 61 + 1 / 62, 1 / 62 + 1 / 61, 1 / 63 + 1 / 63]]
    np.testing.assert_allclose(fusion.reciprocal_rank_fusion([first, second]), expected, rtol=1e-6)
