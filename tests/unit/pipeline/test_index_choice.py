"""Which index a release gets: exact while that is quick enough, else what finds nearly the same."""

import numpy as np
import pytest

from enclip.pipeline.index import Words, with_index
from enclip.recipes import ReleaseRecipe
from enclip.records import Product, Products
from enclip.retrieval.searcher import Searcher

NUM, DIMS, KINDS = 3_000, (24, 16), 30


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    """Two members' view of 3,000 products of 30 kinds."""
    chance = np.random.default_rng(0)
    kind_N = chance.integers(KINDS, size=NUM)
    products = Products.from_rows([Product(f"{row:05d}", "", "") for row in range(NUM)])
    return Searcher.build(
        products, [seen(chance, kind_N, dim) for dim in DIMS], [0.5, 0.5], cluster_count=40, rescored=20
    )


def seen(chance: np.random.Generator, kind_N: np.ndarray, dim: int) -> np.ndarray:
    found = chance.standard_normal((KINDS, dim))[kind_N] + 0.5 * chance.standard_normal((len(kind_N), dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def words(searcher: Searcher) -> Words:
    """Texts: what a product looks like, away from where pictures lie."""
    rows = np.arange(0, NUM, 30)
    blocks = [np.asarray(searcher.block(member)[rows], np.float32) + 0.1 for member in range(2)]
    blocks = [block / np.linalg.norm(block, axis=1, keepdims=True) for block in blocks]
    return Words([f"text {row}" for row in rows], blocks)


def test_a_small_catalog_is_looked_at_whole_and_nothing_is_measured(searcher):
    def asked() -> Words:
        raise AssertionError("there is nothing to measure")

    same, settings = with_index(searcher, ReleaseRecipe(), asked)
    assert same is searcher
    assert (settings.kind, settings.ms, settings.text_recall) == ("exact", None, 1.0)
    assert "All of 3,000 products are looked at, up to 1,000,000." in settings.chosen_because


def test_an_exact_search_within_its_time_stays(searcher, words):
    same, settings = with_index(searcher, ReleaseRecipe(max_search_ms=10_000), lambda: words)
    assert same is searcher
    assert settings.kind == "exact"
    assert settings.ms == settings.exact_ms > 0
    assert "within 10000" in settings.chosen_because


def test_beyond_the_limit_cells_find_what_is_asked_of_them(searcher, words):
    found, settings = with_index(searcher, ReleaseRecipe(exact_up_to=100, min_recall=0.95), lambda: words)
    assert found.index.kind == settings.kind == "cells"
    assert found.index.effort == settings.effort < searcher.clusters.count
    assert min(settings.text_recall, settings.image_recall) >= 0.95
    assert recall_of(found, searcher, words) >= 0.95
    assert "cells take" in settings.chosen_because
    assert "graph" not in settings.chosen_because, "which takes minutes, and was not needed"
    assert (settings.exact_up_to, settings.min_recall) == (100, 0.95), "what a refresh keeps to"


def test_asked_for_all_of_them_it_looks_until_it_has_all(searcher, words):
    found, settings = with_index(searcher, ReleaseRecipe(exact_up_to=100, min_recall=1.0), lambda: words)
    assert recall_of(found, searcher, words) == 1.0
    assert settings.text_recall == 1.0


def recall_of(found: Searcher, exact: Searcher, words: Words) -> float:
    pairs = zip(
        found.search(words.block_TDs, k=10, texts=words.texts),
        exact.search(words.block_TDs, k=10, texts=words.texts),
        strict=True,
    )
    return float(np.mean([len(set(a.product_ids) & set(b.product_ids)) / 10 for a, b in pairs]))


def test_what_is_too_slow_is_tried_as_a_graph_where_memory_has_room(searcher, words):
    tight = ReleaseRecipe(exact_up_to=100, max_search_ms=1e-6, min_recall=0.9)
    _, settings = with_index(searcher, tight, lambda: words)
    assert "cells take" in settings.chosen_because and "graph take" in settings.chosen_because
    assert "None is within 1e-06 ms." in settings.chosen_because or "Exact search stays." in settings.chosen_because
    without_room = tight.model_copy(update={"max_memory_mb": 1e-3})
    assert "graph" not in with_index(searcher, without_room, lambda: words)[1].chosen_because


def test_a_catalog_without_queries_in_words_is_judged_by_pictures(searcher):
    empty = Words([], [np.zeros((0, dim), np.float32) for dim in DIMS])
    _, settings = with_index(searcher, ReleaseRecipe(exact_up_to=100), lambda: empty)
    assert (settings.kind, settings.text_recall) == ("cells", 1.0)
    assert settings.image_recall >= 0.99
