"""Query-bank calibration: the posterior by hand, hubs that stop crowding, and the search against its slow oracle."""

import numpy as np
import pytest

from enclip.errors import ReleaseError
from enclip.records import Floats, Product, Products
from enclip.retrieval.calibration import QueryBank
from enclip.retrieval.searcher import Searcher

DIMS = [16, 24]


def unit(rows: int, width: int, seed: int) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def products(count: int) -> Products:
    return Products.from_rows([Product(f"p{row:05d}", f"name {row}", f"{row:064x}") for row in range(count)])


def bank(count: int = 50) -> QueryBank:
    texts = [unit(count, dim, seed) for seed, dim in enumerate(DIMS, 100)]
    return QueryBank.of(texts, np.arange(1, count + 1), sharpness=12.0)


def searcher(count: int = 600, *, calibration: float = 0.8, pull: float = 0.0, rescored: int = 50) -> Searcher:
    return Searcher.build(
        products(count),
        [unit(count, dim, seed) for seed, dim in enumerate(DIMS)],
        [0.6, 0.4],
        cluster_count=8,
        pull=pull,
        rescored=rescored,
        bank=bank(),
        calibration=calibration,
    )


def test_the_score_ranks_products_by_the_posterior_of_the_query() -> None:
    text_JD, image_ND = unit(3, 16, 0), unit(5, 16, 1)
    counts = np.array([1, 4, 9])
    made = QueryBank.of([text_JD], counts, sharpness=7.0)
    bias_N = made.bias(image_ND.astype(np.float16), [16], [1.0])
    # By hand: softmax over the bank of 7·cosine + log √count, per product.
    joint_NJ = np.exp(7 * image_ND @ text_JD.T) * np.sqrt(counts)
    posterior_NJ = joint_NJ / joint_NJ.sum(axis=1, keepdims=True)
    for query in range(3):
        calibrated_N = image_ND @ text_JD[query] - bias_N
        expected_N = np.log(posterior_NJ[:, query] / np.sqrt(counts[query])) / 7
        np.testing.assert_allclose(calibrated_N, expected_N, atol=2e-3)


def test_a_product_that_resembles_every_query_no_longer_comes_first() -> None:
    query_QD = unit(30, 16, 0)
    own_ND = 0.5 * query_QD + 0.5 * unit(30, 16, 1)
    own_ND /= np.linalg.norm(own_ND, axis=1, keepdims=True)
    hub_1D = query_QD.sum(axis=0, keepdims=True)
    block_ND = np.concatenate([own_ND, np.repeat(hub_1D / np.linalg.norm(hub_1D), 5, axis=0)])
    block_ND[30:] = 0.9 * block_ND[30:] + 0.1 * unit(5, 16, 2)
    built = Searcher.build(
        products(35),
        [block_ND],
        [1.0],
        cluster_count=1,
        pull=0.0,
        bank=QueryBank.of([query_QD], np.ones(30, int), sharpness=20.0),
        calibration=0.0,
    )
    texts = ["words"] * 30

    def first_is_own(calibration: float) -> float:
        rankings = built.with_weights(calibration=calibration).search([query_QD], k=1, texts=texts)
        return float(np.mean([ranking.product_ids[0] == f"p{row:05d}" for row, ranking in enumerate(rankings)]))

    assert first_is_own(1.0) > first_is_own(0.0)


def test_search_agrees_with_scoring_everything() -> None:
    built = searcher(rescored=100)
    queries = [unit(20, dim, 7) for dim in DIMS]
    texts = ["words"] * 20
    score_QN = built.exact_scores(queries, texts=texts)
    expected = [{f"p{row:05d}" for row in np.argsort(-scores)[:10]} for scores in score_QN]
    found = [set(ranking.product_ids) for ranking in built.search(queries, k=10, texts=texts)]
    shared = np.mean([len(a & b) / 10 for a, b in zip(expected, found, strict=True)])
    assert shared > 0.95
    everyone = built.search(queries, k=600, texts=texts)
    for scores, ranking in zip(score_QN, everyone, strict=True):
        by_id = {hit.product_id: hit.score for hit in ranking.hits}
        np.testing.assert_allclose([by_id[f"p{row:05d}"] for row in range(600)], scores, atol=2e-5)


def test_the_pull_is_toward_the_mean_of_calibrated_scores() -> None:
    built = searcher(200, pull=0.4, rescored=200)
    queries = [unit(3, dim, 9) for dim in DIMS]
    score_QN = built.exact_scores(queries, texts=["a", "b", "c"])
    clusters = built.clusters.assignment_N
    for scores, ranking in zip(score_QN, built.search(queries, k=200, texts=["a", "b", "c"]), strict=True):
        means = np.array([scores[clusters == cluster].mean() for cluster in range(built.clusters.count)])
        expected = 0.6 * scores + 0.4 * means[clusters]
        by_id = {hit.product_id: hit.score for hit in ranking.hits}
        np.testing.assert_allclose([by_id[f"p{row:05d}"] for row in range(200)], expected, atol=1e-4)


def test_a_picture_is_searched_without_it() -> None:
    queries = [unit(4, dim, 11) for dim in DIMS]
    assert searcher().search(queries, k=10) == searcher(calibration=0.0).search(queries, k=10)
    assert searcher().search(queries, k=10) != searcher().search(queries, k=10, texts=["words"] * 4)


def test_a_member_alone_is_calibrated_by_its_own_part_of_the_bank() -> None:
    built = searcher()
    alone = built.member(1)
    assert alone.bias_N is not None and alone.bank is not None
    np.testing.assert_allclose(alone.bias_N, alone.bank.bias(built.block(1), [DIMS[1]], [1.0]), atol=1e-6)
    np.testing.assert_array_equal(alone.bank.text_JD, bank().text_JD[:, 16:])


def test_saved_and_opened_it_answers_alike(tmp_path) -> None:
    built = searcher()
    built.save(tmp_path)
    queries = [unit(4, dim, 13) for dim in DIMS]
    opened = Searcher.load(tmp_path)
    assert opened.search(queries, k=10, texts=["w"] * 4) == built.search(queries, k=10, texts=["w"] * 4)


def test_another_share_of_the_names_has_another_bias() -> None:
    named = Searcher.build(
        products(100),
        [unit(100, dim, seed) for seed, dim in enumerate(DIMS)],
        [0.6, 0.4],
        cluster_count=4,
        pull=0.0,
        name_block_NDs=[unit(100, dim, seed) for seed, dim in enumerate(DIMS, 50)],
        name_share=0.2,
        bank=bank(),
        calibration=1.0,
    )
    changed = named.with_weights(name_share=0.7)
    assert changed.bias_N is not None and named.bias_N is not None and changed.bank is not None
    expected_N = changed.bank.bias(named.embedding_ND, DIMS, [0.6, 0.4], name_share=0.7)
    np.testing.assert_allclose(changed.bias_N, expected_N)
    assert np.abs(changed.bias_N - named.bias_N).max() > 1e-3
    np.testing.assert_allclose(changed.index.vectors()[:, -1], expected_N)


def test_calibration_without_a_bank_is_refused() -> None:
    built = Searcher.build(products(30), [unit(30, 16, 0)], [1.0], cluster_count=2, pull=0.0)
    with pytest.raises(ReleaseError, match="no bank of queries"):
        built.with_weights(calibration=0.5)
