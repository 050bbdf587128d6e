"""Names in the gallery, against slow oracles: member by member, product by product, word by word."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from enclip.errors import ReleaseError
from enclip.records import Filters, Floats
from enclip.retrieval.files import SETTINGS
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.text import NAMES, NameIndex, words

SHARE, BM25 = 0.4, 0.3
NAMELESS = (4, 130, 391)


@pytest.fixture(scope="module")
def named_shop(shop):
    """The shop with three products that have no name."""
    names = shop.products.name.copy()
    names[list(NAMELESS)] = ("", "  ", "")
    return replace(shop, products=replace(shop.products, name=names))


@pytest.fixture(scope="module")
def name_blocks(named_shop) -> list[Floats]:
    """Per member, where its text tower puts each name: somewhere between the picture and nowhere."""
    chance = np.random.default_rng(5)
    noisy = [block + 0.5 * chance.normal(size=block.shape) for block in named_shop.blocks]
    return [(block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float32) for block in noisy]


def build(shop, name_blocks, *, bm25=False, share=SHARE, weight=BM25, pull=0.0, rescored=200, like=None) -> Searcher:
    return Searcher.build(
        shop.products,
        shop.blocks,
        shop.weights,
        cluster_count=6,
        mix=Mix(pull=pull, name_share=share, bm25_weight=weight if bm25 else 0.0),
        rescored=rescored,
        like=like,
        name_block_NDs=name_blocks,
        names=NameIndex(shop.products) if bm25 else None,
    )


@pytest.fixture(scope="module")
def by_name(named_shop, name_blocks) -> Searcher:
    return build(named_shop, name_blocks)


@pytest.fixture(scope="module")
def hybrid(named_shop, name_blocks) -> Searcher:
    return build(named_shop, name_blocks, bm25=True)


TEXTS = ["navy shirts", "Women Red Tops", "black casual shoe", "brown", "silver watches 28", "red scarf unheard-of"]


def slow_vectors(shop, name_blocks, query: int, *, share: float = SHARE) -> list[float]:
    """Each member's gallery vector is `(1 - share)·image + share·name`; without a name it is the image."""
    scores = []
    for row in range(len(shop.products)):
        score = 0.0
        for image_ND, name_ND, query_QD, weight in zip(
            shop.blocks, name_blocks, shop.queries, shop.weights, strict=True
        ):
            image, name = (block[row].astype(np.float16).astype(float) for block in (image_ND, name_ND))
            vector = image if row in NAMELESS else (1 - share) * image + share * name
            score += weight * float(np.dot(query_QD[query].astype(float), vector))
        scores.append(score)
    return scores


def slow_coverage(shop, text: str) -> list[float]:
    """BM25 by its formula (k1 0.5, b 0.3), over the sum of the words' idf."""
    names = [words(name) for name in shop.products.name]
    mean_length = sum(map(len, names)) / len(names)
    counts = {word: sum(word in name for name in names) for word in words(text)}
    known = [word for word in words(text) if counts[word]]
    idf = {word: math.log(1 + (len(names) - counts[word] + 0.5) / (counts[word] + 0.5)) for word in known}
    covered = []
    for name in names:
        score = sum(
            idf[word] * name.count(word) / (name.count(word) + 0.5 * (0.7 + 0.3 * len(name) / mean_length))
            for word in known
        )
        covered.append(score / sum(idf[word] for word in known))
    return covered


def slow_top(shop, scores, k, allowed=None):
    rows = [row for row in range(len(scores)) if allowed is None or allowed[row]]
    rows.sort(key=lambda row: (-round(scores[row], 6), shop.products.product_id[row]))
    return tuple(shop.products.product_id[row] for row in rows[:k])


def test_a_share_of_the_name_is_the_mix_of_both_vectors(named_shop, name_blocks, by_name):
    for query, answer in enumerate(by_name.search(named_shop.queries, k=10, texts=TEXTS)):
        scores = slow_vectors(named_shop, name_blocks, query)
        assert answer.product_ids == slow_top(named_shop, scores, 10)
        for hit in answer.hits:
            assert hit.score == pytest.approx(scores[int(hit.product_id[1:])], abs=3e-6)


def test_a_product_without_a_name_scores_by_its_picture_at_any_share(named_shop, by_name):
    own = [block[list(NAMELESS)] for block in named_shop.blocks]
    for row, answer in zip(NAMELESS, by_name.search(own, k=400, texts=["x"] * 3), strict=True):
        score = {hit.product_id: hit.score for hit in answer.hits}[f"p{row:05d}"]
        assert score == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("rescored", [200, 1000])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_vectors_and_bm25_give_the_exhaustive_answer(named_shop, name_blocks, share, rescored):
    searcher = build(named_shop, name_blocks, bm25=True, share=share, rescored=rescored)
    exact_QN = searcher.exact_scores(named_shop.queries, texts=TEXTS)
    for query, answer in enumerate(searcher.search(named_shop.queries, k=10, texts=TEXTS)):
        vectors, covered = (
            slow_vectors(named_shop, name_blocks, query, share=share),
            slow_coverage(named_shop, TEXTS[query]),
        )
        slow = [(1 - BM25) * vector + BM25 * match for vector, match in zip(vectors, covered, strict=True)]
        np.testing.assert_allclose(exact_QN[query], slow, atol=3e-6)
        assert answer.product_ids == slow_top(named_shop, exact_QN[query], 10)


def test_what_only_its_words_find_is_found(named_shop, name_blocks):
    """The candidates of the vectors are far too few here; the name's words bring the product in."""
    searcher = build(named_shop, name_blocks, bm25=True, weight=0.9, rescored=10)
    away = [-block[17:18] for block in named_shop.blocks]
    assert "p00017" not in searcher.with_mix(bm25_weight=0).search(away, k=10, texts=["17"])[0].product_ids
    assert searcher.search(away, k=10, texts=["17"])[0].product_ids[0] == "p00017"


def test_filters_and_what_is_withdrawn_hold_for_words_too(named_shop, name_blocks):
    searcher = build(named_shop, name_blocks, bm25=True, weight=0.9, rescored=20)
    best = searcher.search(named_shop.queries, k=1, texts=["17"] * 6)[0].product_ids
    assert best == ("p00017",)
    mask = searcher.mask_without(frozenset(best))
    for answer in searcher.search(named_shop.queries, k=400, texts=["17"] * 6, allowed=mask):
        assert "p00017" not in answer.product_ids
        assert len(answer.hits) == 399
    watches = Filters(category=("Watches",))
    found = searcher.search(named_shop.queries, k=400, texts=["17"] * 6, filters=watches)[0].product_ids
    assert set(found) == set(named_shop.products.product_id[named_shop.products.article_type == "Watches"])


def test_a_filter_takes_products_out_and_moves_no_other_score(named_shop, hybrid):
    filters = Filters(gender=("women",))
    everything = hybrid.search(named_shop.queries, k=400, texts=TEXTS)
    for whole, part in zip(
        everything, hybrid.search(named_shop.queries, k=400, texts=TEXTS, filters=filters), strict=True
    ):
        women = [hit for hit in whole.hits if named_shop.products.gender[int(hit.product_id[1:])] == "Women"]
        assert [(hit.product_id, pytest.approx(hit.score, abs=2e-6)) for hit in women] == [
            (hit.product_id, hit.score) for hit in part.hits
        ]


def test_a_picture_is_held_against_pictures_whatever_names_weigh(named_shop, name_blocks, hybrid, shop):
    plain = Searcher.build(shop.products, shop.blocks, shop.weights, cluster_count=6)
    expected = plain.search(shop.queries, k=10)
    for texts in (None, [None] * 6, ["", " "] * 3):
        answers = hybrid.search(named_shop.queries, k=10, texts=texts)
        assert [answer.product_ids for answer in answers] == [answer.product_ids for answer in expected]
    mixed = hybrid.search(named_shop.queries, k=10, texts=[TEXTS[0], *[None] * 5])
    assert mixed[1:] == hybrid.search(named_shop.queries, k=10)[1:]
    assert mixed[0] == hybrid.search(named_shop.queries, k=10, texts=TEXTS)[0]
    assert hybrid.similar("p00010", k=9).product_ids == plain.similar("p00010", k=9).product_ids


def test_words_count_for_as_much_of_a_query_as_they_are(named_shop, hybrid):
    half = hybrid.search(named_shop.queries, k=10, texts=TEXTS, text_shares=[0.5] * 6)
    weaker = hybrid.with_mix(name_share=SHARE / 2, bm25_weight=BM25 / 2)
    assert half == weaker.search(named_shop.queries, k=10, texts=TEXTS)
    none = hybrid.search(named_shop.queries, k=10, texts=TEXTS, text_shares=[0] * 6)
    assert [answer.product_ids for answer in none] == [
        answer.product_ids for answer in hybrid.search(named_shop.queries, k=10)
    ]


def test_ties_go_by_product_id(named_shop, name_blocks):
    """Twins in picture and name, far apart in the catalog, with both passes at work."""
    twins = [8, 98, 200, 350]
    names = named_shop.products.name.copy()
    names[twins] = "Twin Acme Sock"
    products = replace(named_shop.products, name=names)
    blocks, mixed = ([block.copy() for block in blocks] for blocks in (named_shop.blocks, name_blocks))
    for block in [*blocks, *mixed]:
        block[twins] = block[8]
    searcher = build(replace(named_shop, products=products, blocks=blocks), mixed, bm25=True, rescored=10)
    answer = searcher.search([block[8:9] for block in blocks], k=4, texts=["twin sock"])[0]
    assert answer.product_ids == tuple(f"p{row:05d}" for row in twins)


def test_attributes_never_enter(named_shop, name_blocks, hybrid):
    """Other attributes, same names: not one answer may change. The qrels are made of these fields."""
    swapped = {
        field: np.array(["swapped"] * len(named_shop.products), dtype=object)
        for field in ("gender", "master_category", "sub_category", "article_type", "base_colour", "season", "usage")
    }
    other = build(
        replace(named_shop, products=replace(named_shop.products, **swapped)), name_blocks, bm25=True, pull=0.2
    )
    same = build(named_shop, name_blocks, bm25=True, pull=0.2)
    asked = ["men", "women red tops", "swapped", "apparel", "watches", "topwear"]
    assert other.search(named_shop.queries, k=50, texts=asked) == same.search(named_shop.queries, k=50, texts=asked)


def test_clusters_pull_the_vectors_and_words_come_on_top(named_shop, name_blocks):
    searcher = build(named_shop, name_blocks, bm25=True, pull=0.3, rescored=400)
    vectors = np.array(slow_vectors(named_shop, name_blocks, 1))
    clusters = searcher.clusters.assignment_N
    means = np.array([vectors[clusters == cluster].mean() for cluster in clusters])
    slow = (1 - BM25) * (0.7 * vectors + 0.3 * means) + BM25 * np.array(slow_coverage(named_shop, TEXTS[1]))
    answer = searcher.search(named_shop.queries, k=20, texts=TEXTS)[1]
    assert [hit.score for hit in answer.hits] == pytest.approx(sorted(slow, reverse=True)[:20], abs=2e-5)


def test_saved_and_loaded_it_gives_the_same_answers_without_a_pickle(named_shop, hybrid, tmp_path):
    hybrid.save(tmp_path)
    for path in (path for path in tmp_path.rglob("*") if path.suffix in (".npy", ".npz")):
        np.load(path, allow_pickle=False)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {
        ".npy",
        ".npz",
        ".json",
        ".parquet",
        ".faiss",
    }
    loaded = Searcher.load(tmp_path)
    assert (loaded.mix.name_share, loaded.mix.bm25_weight, loaded.has_names) == (SHARE, BM25, True)
    assert loaded.search(named_shop.queries, k=30, texts=TEXTS) == hybrid.search(named_shop.queries, k=30, texts=TEXTS)
    np.testing.assert_array_equal(loaded.name_block(1)[NAMELESS[0]], loaded.block(1)[NAMELESS[0]])


def test_files_from_before_names_open(shop, tmp_path):
    plain = Searcher.build(shop.products, shop.blocks, shop.weights, cluster_count=6, mix=Mix(pull=0.2))
    plain.save(tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    (tmp_path / SETTINGS).write_text(
        json.dumps({name: settings[name] for name in ("dims", "weights", "pull", "rescored")})
    )
    loaded = Searcher.load(tmp_path)
    assert not loaded.has_names
    assert loaded.search(shop.queries, k=9, texts=TEXTS) == plain.search(shop.queries, k=9)


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage"])
@pytest.mark.parametrize("part", ["data.csc.index.npy", "params.index.json", "vocab.index.json"])
def test_a_damaged_bm25_index_is_one_clear_error(hybrid, tmp_path, part, damage):
    hybrid.save(tmp_path)
    path = tmp_path / NAMES / part
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"\x00garbage" * 10)
    with pytest.raises(ReleaseError, match="BM25"):
        Searcher.load(tmp_path)


def test_a_bm25_index_of_other_products_does_not_open(named_shop, hybrid, tmp_path):
    hybrid.save(tmp_path)
    NameIndex(named_shop.products.take(np.arange(50))).save(tmp_path / NAMES)
    with pytest.raises(ReleaseError, match="400 products"):
        Searcher.load(tmp_path)


def test_a_refresh_keeps_old_products_vectors_and_indexes_new_names(named_shop, name_blocks):
    rows = np.arange(300)
    early = replace(
        named_shop, products=named_shop.products.take(rows), blocks=[block[rows] for block in named_shop.blocks]
    )
    before = build(early, [block[rows] for block in name_blocks], bm25=True)
    after = build(named_shop, name_blocks, bm25=True, like=before)
    assert after.projection is before.projection
    np.testing.assert_array_equal(after.embedding_ND[:300], before.embedding_ND)
    assert after.search(named_shop.queries, k=1, texts=["399"] * 6)[0].hits
    with pytest.raises(ReleaseError, match="cannot be extended"):
        build(named_shop, [], share=0, like=before)


def test_one_member_alone_answers_as_the_release_does(named_shop, hybrid):
    single = hybrid.member(1)
    assert single.names is hybrid.names
    exact_QN = single.exact_scores([named_shop.queries[1]], texts=TEXTS)
    for query, answer in enumerate(single.search([named_shop.queries[1]], k=10, texts=TEXTS)):
        assert answer.product_ids == slow_top(named_shop, exact_QN[query], 10)


def test_weights_of_what_is_not_there_are_refused(shop, by_name):
    plain = Searcher.build(shop.products, shop.blocks, shop.weights, cluster_count=6)
    for searcher, weights in ((plain, {"name_share": 0.5}), (by_name, {"bm25_weight": 0.5})):
        with pytest.raises(ReleaseError, match="Names have a weight"):
            searcher.with_mix(**weights)
    with pytest.raises(ReleaseError, match=r"1\.5"):
        by_name.with_mix(name_share=1.5)
