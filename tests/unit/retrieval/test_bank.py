"""Query-bank calibration: the posterior by hand, hubs that stop crowding, and the search against its slow oracle."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from enclip.errors import ReleaseError
from enclip.pipeline.gallery import without_bank
from enclip.records import Filters, Floats, Product, Products
from enclip.retrieval.bank import BANK, QueryBank
from enclip.retrieval.clusters import Clusters, firm
from enclip.retrieval.index import CellIndex, GraphIndex
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import Searcher

DIMS, WEIGHTS = [16, 24], [0.6, 0.4]


def unit(rows: int, width: int, seed: int) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def products(count: int) -> Products:
    return Products.from_rows(
        [
            Product(f"p{row:05d}", f"name {row}", f"{row:064x}", gender="" if row % 7 else "Women")
            for row in range(count)
        ]
    )


def bank(count: int = 50) -> QueryBank:
    texts = [unit(count, dim, seed) for seed, dim in enumerate(DIMS, 100)]
    pictures = [0.3 * unit(count, dim, seed) for seed, dim in enumerate(DIMS, 200)]
    return QueryBank.of(texts, pictures, np.arange(1, count + 1), weights=WEIGHTS, sharpness=12.0)


def searcher(
    count: int = 600, *, calibration: float = 0.8, pull: float = 0.0, rescored: int = 50, **parts: float
) -> Searcher:
    return Searcher.build(
        products(count),
        [unit(count, dim, seed) for seed, dim in enumerate(DIMS)],
        WEIGHTS,
        cluster_count=8,
        mix=Mix(pull=pull, calibration=calibration, **parts),
        rescored=rescored,
        bank=bank(),
    )


def test_the_score_ranks_products_by_the_posterior_of_the_query() -> None:
    text_JD, image_ND = unit(3, 16, 0), unit(5, 16, 1)
    counts = np.array([1, 4, 9])
    made = QueryBank.of([text_JD], [text_JD], counts, weights=[1.0], sharpness=7.0)
    bias_N = made.bias(image_ND.astype(np.float16))
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
        bank=QueryBank.of([query_QD], [query_QD], np.ones(30, int), weights=[1.0], sharpness=20.0),
    )
    texts = ["words"] * 30

    def first_is_own(calibration: float) -> float:
        rankings = built.with_mix(calibration=calibration).search([query_QD], k=1, texts=texts)
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
        pulled = 0.6 * scores + 0.4 * means[clusters]
        is_firm = firm(built.clusters, built.cluster_mean_CD)[clusters]
        expected = np.where(is_firm, pulled, np.maximum(scores, pulled))
        by_id = {hit.product_id: hit.score for hit in ranking.hits}
        np.testing.assert_allclose([by_id[f"p{row:05d}"] for row in range(200)], expected, atol=1e-4)


def test_a_picture_is_searched_without_it() -> None:
    queries = [unit(4, dim, 11) for dim in DIMS]
    assert searcher().search(queries, k=10) == searcher(calibration=0.0).search(queries, k=10)
    assert searcher().search(queries, k=10) != searcher().search(queries, k=10, texts=["words"] * 4)


def test_a_member_alone_is_calibrated_by_its_own_part_of_the_bank() -> None:
    built = searcher()
    alone = built.member(1)
    assert alone.bank is not None
    np.testing.assert_allclose(alone.wording.offset_NE[:, 0], alone.bank.bias(built.block(1)), atol=1e-6)
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
        WEIGHTS,
        cluster_count=4,
        mix=Mix(name_share=0.2, calibration=1.0),
        name_block_NDs=[unit(100, dim, seed) for seed, dim in enumerate(DIMS, 50)],
        bank=bank(),
    )
    changed = named.with_mix(name_share=0.7)
    assert changed.bank is not None
    expected_N = changed.bank.bias(named.embedding_ND, name_share=0.7)
    np.testing.assert_allclose(changed.wording.offset_NE[:, 0], expected_N)
    assert np.abs(changed.wording.offset_NE[:, 0] - named.wording.offset_NE[:, 0]).max() > 1e-3
    np.testing.assert_allclose(changed.index.vectors()[:, -1], expected_N)


def test_calibration_without_a_bank_is_refused() -> None:
    built = Searcher.build(products(30), [unit(30, 16, 0)], [1.0], cluster_count=2)
    with pytest.raises(ReleaseError, match="no bank of queries"):
        built.with_mix(calibration=0.5)


def test_words_move_toward_the_pictures_they_are_meant_by() -> None:
    made = bank()
    own_Q = [block[:5].astype(np.float32) for block in np.split(made.text_JD, [16], axis=1)]
    moved = made.enrich(own_Q, np.array([0.0, 0.5, 0.5, 0.5, 1.0], np.float32), made.near(own_Q))
    for before, after, exemplars in zip(own_Q, moved, np.split(made.exemplar_JD, [16], axis=1), strict=True):
        np.testing.assert_array_equal(after[0], before[0])  # a picture, or no share
        np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-3)
        toward = np.einsum("qd,qd->q", after, exemplars[:5].astype(np.float32))
        was = np.einsum("qd,qd->q", before, exemplars[:5].astype(np.float32))
        assert (toward[1:] > was[1:]).all()
    sharp = replace(made, sharpness=1_000.0)
    whole = sharp.enrich(own_Q, np.ones(5, np.float32), sharp.near(own_Q))
    np.testing.assert_allclose(whole[0], made.exemplar_JD[:5, :16].astype(np.float32), atol=2e-2)


def test_many_queries_take_the_memory_of_a_few_exemplars() -> None:
    """An evaluation asks thousands at once."""
    made = bank(400)
    queries = [unit(3_000, dim, seed) for seed, dim in enumerate(DIMS, 300)]
    near, shares = made.near(queries), np.full(3_000, 0.4, np.float32)
    tracemalloc.start()
    moved = made.enrich(queries, shares, near)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3_000 * 64 * sum(DIMS) * 4 / 4, "a quarter of all queries' exemplars"
    few = made.enrich([block[500:520] for block in queries], shares[:20], made.near([b[500:520] for b in queries]))
    for one, other in zip(few, moved, strict=True):
        np.testing.assert_allclose(one, other[500:520], atol=1e-5)


def test_captions_beyond_the_nearest_ones_hardly_move_a_query() -> None:
    made = replace(bank(400), sharpness=30.0)
    queries = [unit(20, dim, seed) for seed, dim in enumerate(DIMS, 300)]
    moved = made.enrich(queries, np.full(20, 0.4, np.float32), made.near(queries))
    # All captions, by hand.
    score_QJ = sum(
        weight * query @ text.T.astype(np.float32)
        for weight, query, text in zip(WEIGHTS, queries, np.split(made.text_JD, [DIMS[0]], axis=1), strict=True)
    )
    like_QJ = np.exp(2 * 30.0 * score_QJ)
    like_QJ /= like_QJ.sum(axis=1, keepdims=True)
    for query_QD, moved_QD, exemplar_JD in zip(
        queries, moved, np.split(made.exemplar_JD.astype(np.float32), [DIMS[0]], axis=1), strict=True
    ):
        known_QD = like_QJ @ exemplar_JD
        expected_QD = 0.6 * query_QD + 0.4 * known_QD / np.linalg.norm(known_QD, axis=1, keepdims=True)
        expected_QD /= np.linalg.norm(expected_QD, axis=1, keepdims=True)
        assert (expected_QD * moved_QD).sum(axis=1).min() > 0.999


def test_a_bank_makes_no_index_wider() -> None:
    # Wider, a query costs half as much again (`bench/search_ensemble.py`).
    assert searcher().index.width == max(DIMS) * 3 // 4
    assert searcher().member(0).index.width == DIMS[0]


def test_a_text_true_of_many_products_is_broad() -> None:
    sharp = replace(bank(), sharpness=1_000.0)
    blocks = [block.astype(np.float32) for block in np.split(sharp.text_JD, [16], axis=1)]
    breadth_J = sharp.breadth(sharp.near(blocks))
    np.testing.assert_allclose(breadth_J, np.log1p(np.arange(1, 51)) / np.log1p(50), atol=1e-2)


def test_the_pull_spares_narrow_queries() -> None:
    built = searcher(200, pull=0.5, rescored=200, narrowing=1.0)
    assert built.bank is not None
    queries = [unit(6, dim, 21) for dim in DIMS]
    texts = ["w"] * 6
    breadth_Q = built.bank.breadth(built.bank.near(queries))
    for query, ranking in enumerate(built.search(queries, k=200, texts=texts)):
        alike = built.with_mix(narrowing=0.0, pull=0.5 * float(breadth_Q[query]))
        expected = alike.search([block[query : query + 1] for block in queries], k=200, texts=["w"])[0]
        assert [hit.score for hit in ranking.hits] == pytest.approx([hit.score for hit in expected.hits], abs=1e-4)


def test_a_broad_query_turns_toward_the_clusters_of_its_first_results() -> None:
    built = searcher(500, rescored=500, feedback=0.5)
    assert built.bank is not None
    queries = [unit(3, dim, 21) for dim in DIMS]
    texts = ["w"] * 3
    clusters, breadth_Q = built.clusters.assignment_N, built.bank.breadth(built.bank.near(queries))
    weight_D = np.repeat(np.float32(WEIGHTS), DIMS)
    embedding_ND = built.embedding_ND.astype(np.float32)
    for query, ranking in enumerate(built.search(queries, k=500, texts=texts)):
        own_N = built.exact_scores([block[query : query + 1] for block in queries], texts=["w"])[0]
        first = clusters[np.argsort(-own_N)[:20]]  # one in 25
        mean_D = np.mean([embedding_ND[clusters == cluster].mean(axis=0) for cluster in first], axis=0)
        strength = 0.5 * 40 / built.bank.sharpness * breadth_Q[query]
        expected_N = own_N + strength * embedding_ND @ (weight_D * mean_D)
        by_id = {hit.product_id: hit.score for hit in ranking.hits}
        np.testing.assert_allclose([by_id[f"p{row:05d}"] for row in range(500)], expected_N, atol=1e-4)
    without = built.search(queries, k=9, texts=texts, use_clusters=False)
    assert without == built.with_mix(feedback=0).search(queries, k=9, texts=texts)
    assert without != built.search(queries, k=9, texts=texts)


def test_what_is_filtered_out_still_says_what_words_mean() -> None:
    built = searcher(500, rescored=500, feedback=0.5)
    queries = [unit(2, dim, 22) for dim in DIMS]
    everyone = built.search(queries, k=500, texts=["w"] * 2)
    some = Filters(gender=("Women",))
    for whole, few in zip(everyone, built.search(queries, k=500, texts=["w"] * 2, filters=some), strict=True):
        score_of = {hit.product_id: hit.score for hit in whole.hits}
        assert len(few.hits) == 72 and all(hit.score == score_of[hit.product_id] for hit in few.hits)


def test_how_many_are_shown_changes_no_score() -> None:
    built = searcher(500, rescored=100, feedback=0.5)
    queries = [unit(4, dim, 22) for dim in DIMS]
    for few, many in zip(
        built.search(queries, k=20, texts=["w"] * 4), built.search(queries, k=400, texts=["w"] * 4), strict=True
    ):
        score_of = {hit.product_id: hit.score for hit in many.hits}
        assert all(hit.score == score_of[hit.product_id] for hit in few.hits)


def test_without_its_bank_no_query_is_broad() -> None:
    bare = without_bank(searcher(300, feedback=0.5, calibration=1.0, exemplar_share=0.3, pull=0.2, narrowing=0.5))
    assert bare.mix == Mix(pull=0.2)


@pytest.mark.parametrize("kind", ["cells", "graph"])
def test_another_mix_and_a_member_alone_search_by_the_same_kind_of_index(kind: str) -> None:
    built = searcher(500, calibration=1.0)
    vector_NP = built.index.vectors()
    built.index = {
        "cells": CellIndex.build(vector_NP, built.clusters, effort=2),
        "graph": GraphIndex.build(vector_NP, effort=30),
    }[kind]
    for other in (built.with_mix(exemplar_share=0.4), built.member(1)):
        assert (other.index.kind, other.index.effort) == (kind, built.index.effort)
    same = built.with_mix(exemplar_share=0.4).with_mix(exemplar_share=0.0)
    np.testing.assert_array_equal(same.index.vectors(), vector_NP)


def test_a_picture_and_a_member_alone_do_not_turn() -> None:
    built = searcher(300, feedback=0.5)
    queries = [unit(3, dim, 23) for dim in DIMS]
    assert built.search(queries, k=9) == built.with_mix(feedback=0).search(queries, k=9)
    assert built.member(0).mix.feedback == 0


def test_feedback_needs_a_bank() -> None:
    with pytest.raises(ReleaseError, match="no bank of queries"):
        Searcher.build(products(50), [unit(50, 16, 0)], [1.0], cluster_count=3, mix=Mix(feedback=0.5))


def test_a_small_or_loose_cluster_pushes_none_of_its_products_down() -> None:
    centre_CD, noise_ND = unit(3, 16, 0), unit(90, 16, 1)
    cluster_N = np.repeat([0, 1, 2], [60, 27, 3])  # tight, loose, small
    block_ND = np.array([1.0, 0.15, 1.0])[cluster_N, None] * centre_CD[cluster_N] + 0.5 * noise_ND
    block_ND = (block_ND / np.linalg.norm(block_ND, axis=1, keepdims=True)).astype(np.float32)
    built = Searcher.build(products(90), [block_ND], [1.0], cluster_count=3)
    pulled = Searcher(
        built.products,
        built.embedding_ND,
        dims=built.dims,
        weights=built.weights,
        projection=built.projection,
        index=built.index,
        clusters=Clusters(cluster_N.astype(np.int32), built.clusters.centroid_CP),
        mix=Mix(pull=0.6),
        rescored=90,
    )
    assert firm(pulled.clusters, pulled.cluster_mean_CD).tolist() == [True, False, False]
    queries = [unit(20, 16, 2)]
    own_QN = pulled.exact_scores(queries)
    change_QN = (
        np.array(
            [
                [{hit.product_id: hit.score for hit in ranking.hits}[f"p{row:05d}"] for row in range(90)]
                for ranking in pulled.search(queries, k=90)
            ]
        )
        - own_QN
    )
    assert change_QN[:, cluster_N > 0].min() > -1e-5
    assert change_QN[:, cluster_N > 0].max() > 0.01
    assert change_QN[:, cluster_N == 0].min() < -0.01


@pytest.mark.parametrize("content", [b"", b"\x00garbage" * 10])
def test_a_damaged_bank_is_one_clear_error(tmp_path, content) -> None:
    searcher().save(tmp_path)
    (tmp_path / BANK).write_bytes(content)
    with pytest.raises(ReleaseError, match="bank"):
        Searcher.load(tmp_path)
