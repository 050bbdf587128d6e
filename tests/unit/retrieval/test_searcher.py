"""The searcher against the slow oracle: the sum of member scores, sorted, one product at a time."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from enclip.errors import CatalogError, QueryError, ReleaseError
from enclip.records import Filters, Product, Products
from enclip.retrieval.files import EMBEDDINGS, MEANS, PRODUCTS, SETTINGS
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import CLUSTERS, INDEX, PROJECTION, Searcher

FILES = (PRODUCTS, EMBEDDINGS, PROJECTION, INDEX, CLUSTERS, MEANS, SETTINGS)


@pytest.fixture(scope="module")
def searcher(shop) -> Searcher:
    return build(shop)


def build(shop, *, pull=0.0, rescored=200, cluster_count=6, like=None) -> Searcher:
    return Searcher.build(
        shop.products,
        shop.blocks,
        shop.weights,
        cluster_count=cluster_count,
        mix=Mix(pull=pull),
        rescored=rescored,
        like=like,
    )


def slow_scores(shop, query: int) -> list[float]:
    """The weighted sum of cosines, member by member and product by product, from half precision."""
    return [
        sum(
            weight * float(np.dot(queries[query].astype(float), block[row].astype(np.float16).astype(float)))
            for block, queries, weight in zip(shop.blocks, shop.queries, shop.weights, strict=True)
        )
        for row in range(len(shop.products))
    ]


def slow_top(shop, scores, k, allowed=None):
    rows = [row for row in range(len(scores)) if allowed is None or allowed[row]]
    rows.sort(key=lambda row: (-round(scores[row], 6), shop.products.product_id[row]))
    return tuple(shop.products.product_id[row] for row in rows[:k])


def test_answers_are_those_of_the_sum_of_member_scores(shop, searcher):
    answers = searcher.search(shop.queries, k=10)
    for query, answer in enumerate(answers):
        scores = slow_scores(shop, query)
        assert answer.product_ids == slow_top(shop, scores, 10)
        for hit in answer.hits:
            assert hit.score == pytest.approx(
                scores[searcher.products.product_id.tolist().index(hit.product_id)], abs=2e-6
            )


def test_the_second_pass_repairs_the_order_of_the_first(shop):
    """With only k products rescored the projection's order shows; with 200 the exact one does."""
    exact = [slow_top(shop, slow_scores(shop, query), 10) for query in range(len(shop.queries[0]))]
    rough = [answer.product_ids for answer in build(shop, rescored=10).search(shop.queries, k=10)]
    fine = [answer.product_ids for answer in build(shop, rescored=200).search(shop.queries, k=10)]
    assert fine == exact
    assert rough != exact


@pytest.mark.parametrize("share", [0.7, 0.1, 0.0])
def test_only_allowed_products_answer_and_none_is_lost(shop, searcher, share):
    allowed = np.random.default_rng(2).random(len(shop.products)) < share
    for query, answer in enumerate(searcher.search(shop.queries, k=12, allowed=allowed)):
        assert answer.product_ids == slow_top(shop, slow_scores(shop, query), 12, allowed)


def test_filters_and_the_mask_hold_together(shop, searcher):
    allowed = np.arange(len(shop.products)) % 2 == 0
    filters = Filters(category=("apparel",), colour=("RED",))
    passing = allowed & (shop.products.master_category == "Apparel") & (shop.products.base_colour == "Red")
    answer = searcher.search(shop.queries, k=400, filters=filters, allowed=allowed)[0]
    assert set(answer.product_ids) == set(shop.products.product_id[passing])


def test_a_withdrawn_product_never_answers(shop, searcher):
    best = searcher.search(shop.queries, k=1)[0].product_ids[0]
    mask = searcher.mask_without(frozenset({best}))
    assert best not in searcher.search(shop.queries, k=400, allowed=mask)[0].product_ids


def test_k_beyond_the_catalog_gives_the_whole_catalog(shop, searcher):
    answer = searcher.search(shop.queries, k=10_000)[0]
    assert len(answer.product_ids) == len(shop.products) == len(set(answer.product_ids))


def test_k_beyond_rescored_is_still_exact(shop):
    answer = build(shop, rescored=10).search(shop.queries, k=300)[0]
    assert len(answer.hits) == 300
    assert [hit.score for hit in answer.hits] == sorted((hit.score for hit in answer.hits), reverse=True)


def test_equal_pictures_answer_in_the_order_of_their_ids_wherever_they_lie(shop):
    """The same embedding in many rows: a matrix product's last bits must not decide."""
    blocks = [block.copy() for block in shop.blocks]
    twins = [3, 57, 111, 222, 333, 399]
    for block in blocks:
        block[twins] = block[3]
    searcher = build(replace(shop, blocks=blocks))
    queries = [block[3:4] for block in blocks]
    assert searcher.search(queries, k=6)[0].product_ids == tuple(f"p{row:05d}" for row in twins)


def test_pull_moves_scores_toward_the_mean_of_the_cluster(shop):
    searcher = build(shop, pull=0.3)
    scores = np.array(slow_scores(shop, 1))
    clusters = searcher.clusters.assignment_N
    pulled = [
        0.7 * score + 0.3 * scores[clusters == cluster].mean() for score, cluster in zip(scores, clusters, strict=True)
    ]
    answer = searcher.search(shop.queries, k=20)[1]
    assert answer.product_ids == slow_top(shop, pulled, 20)
    assert answer.hits[0].score == pytest.approx(max(pulled), abs=1e-5)
    assert [hit.cluster for hit in answer.hits] == [clusters[int(product_id[1:])] for product_id in answer.product_ids]


def test_clusters_off_is_a_pull_of_zero(shop, searcher):
    pulled = build(shop, pull=0.6)
    assert pulled.search(shop.queries, k=10, use_clusters=False) == searcher.search(shop.queries, k=10)
    assert pulled.search(shop.queries, k=10) == pulled.search(shop.queries, k=10, use_clusters=True)
    assert pulled.search(shop.queries, k=10) != searcher.search(shop.queries, k=10)


def test_another_pull_shares_everything_else(shop, searcher):
    pulled = searcher.with_mix(pull=0.6)
    assert pulled.index is searcher.index
    assert searcher.mix.pull == 0
    assert pulled.search(shop.queries, k=10) == build(shop, pull=0.6).search(shop.queries, k=10)
    with pytest.raises(ReleaseError, match=r"1\.5"):
        searcher.with_mix(pull=1.5)


def test_a_product_alone_in_its_cluster_keeps_its_own_score(shop):
    """A rare product has nobody to be pulled toward: its score is its own."""
    blocks = [block.copy() for block in shop.blocks]
    for block in blocks:
        block[7] = -block.mean(axis=0) / np.linalg.norm(block.mean(axis=0))
    rare = build(replace(shop, blocks=blocks), pull=0.5, cluster_count=40)
    cluster = rare.clusters.assignment_N[7]
    if np.count_nonzero(rare.clusters.assignment_N == cluster) > 1:
        pytest.fail("the rare product is expected to have a cluster of its own")
    queries = [block[7:8] for block in blocks]
    top_hit = rare.search(queries, k=1)[0].hits[0]
    assert (top_hit.product_id, round(top_hit.score, 3)) == ("p00007", 1.0)


def test_similar_products_are_of_the_same_look_and_not_itself(shop, searcher):
    answer = searcher.similar("p00010", k=15)
    assert "p00010" not in answer.product_ids
    kinds = shop.products.article_type[[int(product_id[1:]) for product_id in answer.product_ids]]
    assert (kinds == shop.products.article_type[10]).mean() > 0.9
    only = searcher.similar("p00010", k=3, filters=Filters(gender=("women",)))
    assert all(shop.products.gender[int(product_id[1:])] == "Women" for product_id in only.product_ids)


def test_similar_to_an_unknown_product_is_a_query_error(searcher):
    with pytest.raises(QueryError, match="'nobody'"):
        searcher.similar("nobody", k=3)


def test_asking_for_similar_ones_does_not_forget_the_withdrawn(searcher):
    withdrawn = frozenset({"p00001"})
    mask = searcher.mask_without(withdrawn)
    searcher.similar("p00010", k=3)
    assert searcher.mask_without(withdrawn) is mask


def test_a_single_member_answers_by_its_own_cosines(shop, searcher):
    single = searcher.member(1)
    scores = shop.queries[1] @ shop.blocks[1].astype(np.float16).astype(np.float32).T
    for row, answer in enumerate(single.search([shop.queries[1]], k=10)):
        assert answer.product_ids == slow_top(shop, scores[row].tolist(), 10)
    assert single.num_bytes < searcher.num_bytes


def test_the_ensemble_s_exact_scores_are_the_sum(shop, searcher):
    exact = searcher.exact_scores(shop.queries)
    np.testing.assert_allclose(exact[2], slow_scores(shop, 2), atol=2e-6)


def test_one_member_needs_no_projection(shop):
    single = Searcher.build(shop.products, shop.blocks[:1], [1.0], cluster_count=3, mix=Mix(pull=0.1))
    assert single.projection.component_DP is None
    assert len(single.search(shop.queries[:1], k=5)[0].hits) == 5


@pytest.mark.parametrize("num_products", [1, 2, 3])
def test_a_tiny_catalog_works(shop, num_products):
    rows = np.arange(num_products)
    tiny = replace(shop, products=shop.products.take(rows), blocks=[block[rows] for block in shop.blocks])
    searcher = build(tiny, pull=0.2)
    assert len(searcher.search(shop.queries, k=10)[0].hits) == num_products
    assert len(searcher.similar("p00000", k=10).hits) == num_products - 1


def test_saved_and_loaded_it_gives_the_same_answers_from_files_alone(shop, tmp_path):
    searcher = build(shop, pull=0.25, rescored=50)
    searcher.save(tmp_path / "release")
    assert {path.name for path in (tmp_path / "release").iterdir()} == set(FILES)
    loaded = Searcher.load(tmp_path / "release")
    assert loaded.search(shop.queries, k=30) == searcher.search(shop.queries, k=30)
    assert loaded.similar("p00002", k=5) == searcher.similar("p00002", k=5)
    assert list(loaded.products) == list(searcher.products)
    assert isinstance(loaded.embedding_ND, np.memmap), "replicas share the embeddings on disk"
    assert (loaded.mix.pull, loaded.rescored, loaded.weights) == (0.25, 50, shop.weights)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage"])
def test_a_damaged_release_is_one_clear_error(shop, searcher, tmp_path, name, damage):
    searcher.save(tmp_path)
    path = tmp_path / name
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"\x00garbage" * 10)
    with pytest.raises(ReleaseError):
        Searcher.load(tmp_path)


def test_parts_of_two_releases_do_not_open_together(shop, searcher, tmp_path):
    rows = np.arange(100)
    other = replace(shop, products=shop.products.take(rows), blocks=[block[rows] for block in shop.blocks])
    searcher.save(tmp_path / "a")
    build(other).save(tmp_path / "b")
    shutil.copy(tmp_path / "b" / INDEX, tmp_path / "a" / INDEX)
    with pytest.raises(ReleaseError, match="do not fit"):
        Searcher.load(tmp_path / "a")


def test_settings_without_a_field_are_refused(searcher, tmp_path):
    searcher.save(tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    del settings["weights"]
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    with pytest.raises(ReleaseError, match="weights"):
        Searcher.load(tmp_path)


def test_a_refresh_keeps_cluster_numbers_and_the_scores_of_old_products(shop):
    rows = np.arange(300)
    before = build(
        replace(shop, products=shop.products.take(rows), blocks=[block[rows] for block in shop.blocks]), pull=0.0
    )
    after = build(shop, like=before)
    assert after.projection is before.projection
    np.testing.assert_array_equal(after.clusters.assignment_N[:300], before.clusters.assignment_N)
    allowed = np.isin(after.products.product_id.astype(str), before.products.product_id.astype(str))
    assert after.search(shop.queries, k=10, allowed=allowed) == before.search(shop.queries, k=10)


def test_closeness_is_the_cosine_with_the_own_centre(shop, searcher):
    for row, closeness in enumerate(searcher.closeness().tolist()):
        vector = searcher.projection.gallery(searcher.embedding_ND[row : row + 1])[0]
        centre = searcher.clusters.centroid_CP[searcher.clusters.assignment_N[row]]
        assert closeness == pytest.approx(vector @ centre / np.linalg.norm(vector) / np.linalg.norm(centre), abs=1e-5)


def test_a_refresh_with_another_ensemble_is_refused(shop, searcher):
    with pytest.raises(ReleaseError, match="cannot be extended"):
        Searcher.build(shop.products, shop.blocks[:2], [0.5, 0.5], cluster_count=3, like=searcher)


def test_many_threads_get_the_answers_of_one(shop, searcher):
    expected = searcher.search(shop.queries, k=10)

    def ask(number: int) -> bool:
        mask = searcher.mask_without(frozenset({f"p{number:05d}"}))
        alone = searcher.search([block[:1] for block in shop.queries], k=400, allowed=mask)[0]
        return searcher.search(shop.queries, k=10) == expected and f"p{number:05d}" not in alone.product_ids

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(64)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"allowed": np.ones(3, bool)}, "mask"),
        (
            {
                "query_QDs": [
                    np.full((1, 24), np.nan, np.float32),
                    np.ones((1, 16), np.float32),
                    np.ones((1, 32), np.float32),
                ]
            },
            "finite",
        ),
        ({"query_QDs": [np.ones((1, 24), np.float32)]}, "width"),
        ({"query_QDs": []}, "width"),
        ({"query_QDs": [np.ones((n, dim), np.float32) for n, dim in ((1, 24), (2, 16), (1, 32))]}, "embeddings"),
        ({"without": ["red"]}, "words to turn from"),
        ({"query_QDs": [np.ones((1, dim), np.float32) for dim in (24, 16, 31)]}, "width"),
    ],
    ids=["k", "mask", "nan", "members", "nothing", "counts", "without", "width"],
)
def test_a_request_that_cannot_be_answered_says_why(shop, searcher, change, message):
    request = {"query_QDs": shop.queries, "k": 5, **change}
    with pytest.raises(QueryError, match=message):
        searcher.search(request.pop("query_QDs"), **request)


def test_swapped_members_of_equal_total_width_are_refused(shop, searcher):
    """24 + 16 + 32 is 16 + 24 + 32: the sum alone would let a swap through."""
    first, second, third = shop.queries
    with pytest.raises(QueryError, match="width"):
        searcher.search([second, first, third], k=3)


def test_embeddings_that_cannot_be_served_are_refused_by_name(shop):
    broken = shop.blocks[1].copy()
    broken[17, 3] = np.nan
    with pytest.raises(ReleaseError, match=r"Member 1 .*p00017"):
        Searcher.build(shop.products, [shop.blocks[0], broken], [0.5, 0.5], cluster_count=2)
    with pytest.raises(ReleaseError, match="399 of 400"):
        Searcher.build(shop.products, [shop.blocks[0][1:]], [1.0], cluster_count=2)
    with pytest.raises(ReleaseError, match="Weights"):
        Searcher.build(shop.products, shop.blocks[:2], [1.5, -0.5], cluster_count=2)


def test_no_products_and_products_out_of_order_are_refused(shop):
    empty = Products.from_rows([])
    with pytest.raises(CatalogError, match="no product"):
        Searcher.build(empty, [np.zeros((0, 4), np.float32)], [1.0], cluster_count=2)
    backwards = Products.from_rows([Product("a", "", ""), Product("b", "", "")]).take(np.array([1, 0]))
    with pytest.raises(CatalogError, match="order"):
        Searcher.build(backwards, [np.eye(2, dtype=np.float32)], [1.0], cluster_count=1)
