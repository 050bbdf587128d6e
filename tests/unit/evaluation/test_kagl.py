"""The leaderboard's figures by hand, and against our own where definitions agree."""

import numpy as np
import pytest

from enclip.evaluation import kagl
from enclip.evaluation.metrics import measure
from enclip.records import Hit, Query, QueryKind, Ranking
from enclip.retrieval.ranking import rank


def query(relevant, query_id="q") -> Query:
    return Query(query_id, QueryKind.NAME, query_id, "", frozenset(relevant))


def ranking(product_ids) -> Ranking:
    return Ranking(tuple(Hit(product_id, 1 - rank / 1000, 0) for rank, product_id in enumerate(product_ids)))


def values_of(relevant, answer) -> dict[str, float]:
    return dict(zip(kagl.VALUES, kagl.values([query(relevant)], [ranking(answer)])[0], strict=True))


def test_names_are_asked_as_they_are_spelled_and_categories_whatever_their_size(gallery):
    """Ours would make one query of "Acme Navy Shirt" and "Acme  navy shirt", and add product 12 by its picture."""
    names = kagl.task_queries(gallery, kagl.TEXT_TO_IMAGE)
    assert {query.text: query.relevant for query in names}["Acme Navy Shirt"] == {"10"}
    assert len(names) == 7  # one product has no name
    subs = kagl.task_queries(gallery, kagl.SUB_CATEGORY)
    assert [(query.text, len(query.relevant)) for query in subs] == [("Shoes", 3), ("Topwear", 5)]
    types = kagl.task_queries(gallery, kagl.ARTICLE_TYPE)
    assert [(query.text, len(query.relevant)) for query in types] == [("Heels", 3), ("Shirts", 5)]


def test_a_column_that_is_empty_gives_no_query(without):
    assert kagl.task_queries(without("sub_category"), kagl.SUB_CATEGORY) == ()


def test_each_figure_by_hand():
    """Relevant at ranks 2, 3 and 6 of R = 4: the sum of precisions is 1/2 + 2/3 + 3/6."""
    found = values_of("bcfz", "abcdefgh")
    total = 1 / 2 + 2 / 3 + 3 / 6
    assert found == pytest.approx(
        {
            "r_at_1": 0,
            "r_at_10": 3 / 4,
            "p_at_1": 0,
            "p_at_10": 3 / 10,
            "mrr_at_10": 1 / 2,
            "map_at_10_r": total / 4,
            "map_at_10": total / 4,
            "map_at_10_hits": total / 3,
        }
    )


def test_a_perfect_page_of_a_large_category():
    """R = 20, ten hits: AP@10 is 10/20 over R, 10/10 over min(10, R) and over hits; R@10 cannot exceed one half."""
    products = [f"p{number:02d}" for number in range(20)]
    found = values_of(products, products)
    assert (found["p_at_1"], found["p_at_10"], found["r_at_1"], found["r_at_10"]) == (1, 1, 1 / 20, 1 / 2)
    assert (found["map_at_10_r"], found["map_at_10"], found["map_at_10_hits"]) == (0.5, 1, 1)


def test_a_category_of_one_product_has_at_most_a_tenth_of_precision():
    assert values_of("a", "abcdefghij")["p_at_10"] == pytest.approx(0.1)


@pytest.mark.parametrize("answer", [list("abcdefghijk"), list("xy"), []])
def test_what_is_not_among_the_first_ten_counts_nowhere(answer):
    """Not even in MRR, where ours looks deeper."""
    assert set(values_of("k", answer).values()) == {0.0}


def test_means_and_their_averages():
    queries = [query("a", "1"), query("bc", "2")]
    value_QV = kagl.values(queries, [ranking("ab"), ranking("ab")])
    found = kagl.figures(queries, value_QV)
    assert (found.num_queries, found.num_relevant) == (2, 3)
    assert (found.r_at_1, found.r_at_10, found.avg_recall) == (0.5, 0.75, 0.625)
    assert (found.p_at_1, found.p_at_10, found.avg_precision) == (0.5, 0.1, 0.3)
    assert found.mrr_at_10 == 0.75
    assert found.as_dict().keys() == set(kagl.Figures.__slots__)


def test_figures_of_no_query_are_zero():
    found = kagl.figures([], kagl.values([], []))
    assert set(found.as_dict().values()) == {0}


@pytest.fixture(scope="module")
def tied() -> tuple[list[Query], list[Ranking]]:
    """Answers in which many products tie."""
    chance = np.random.default_rng(0)
    ids = np.array([f"p{number:02d}" for number in range(40)], dtype=object)
    queries = [query(map(str, chance.choice(ids, 1 + number % 14, False)), f"q{number}") for number in range(30)]
    return queries, rank(chance.integers(0, 5, (30, len(ids))) / 4, ids, k=10)


def test_with_ties_the_figures_are_those_of_our_own_definitions(tied):
    queries, rankings = tied
    ours = [measure(query, ranking.product_ids) for query, ranking in zip(queries, rankings, strict=True)]
    fields = ("r_at_1", "r_at_10", "p_at_1", "p_at_10", "rr", "ap_at_10_r", "ap_at_10", "ap_at_10_hits")
    expected = [[getattr(result, field) for field in fields] for result in ours]
    np.testing.assert_allclose(kagl.values(queries, rankings), expected, atol=1e-9)


def test_a_smaller_gallery_and_seen_products_are_said_in_plain_words():
    size, seen = kagl.cautions(1_600, num_seen=12, whole=False)
    assert "1,600 products are searched here, 44,434" in size and "easier" in size and "--catalog" in size
    assert "learnt from 12 of these" in seen


def test_the_whole_data_set_unseen_needs_no_caution():
    assert list(kagl.cautions(44_072, num_seen=0, whole=True)) == []
