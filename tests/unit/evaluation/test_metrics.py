"""AP@10 by hand, against ir_measures where the definitions agree, and as properties."""

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclip.errors import EnclipError
from enclip.evaluation import metrics
from enclip.records import Hit, Query, QueryKind, Ranking


def query(relevant, query_id="q", kind=QueryKind.SPECIFIC, category="Shirts") -> Query:
    return Query(query_id, kind, query_id, category, frozenset(relevant))


def ranking(product_ids) -> Ranking:
    return Ranking(tuple(Hit(product_id, 1 - rank / 1000, 0) for rank, product_id in enumerate(product_ids)))


def test_ap_at_10_by_hand():
    """Relevant at ranks 1, 3 and 6 of R = 4: (1/1 + 2/3 + 3/6) over 4, 4 and 3."""
    result = metrics.measure(query("acfz"), list("abcdefgh"))
    assert result.ap_at_10 == pytest.approx((1 + 2 / 3 + 3 / 6) / 4)
    assert result.ap_at_10_r == pytest.approx(result.ap_at_10)
    assert result.ap_at_10_hits == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert (result.p_at_1, result.p_at_10) == (1, 0.3)
    assert (result.r_at_1, result.r_at_10) == (1 / 4, 3 / 4)
    assert result.rr == 1


def test_with_more_than_ten_relevant_a_perfect_answer_scores_one():
    """R = 20, ten hits: 10/10 by ours, 10/20 over R."""
    relevant = [f"p{number}" for number in range(20)]
    result = metrics.measure(query(relevant), relevant[:10])
    assert (result.ap_at_10, result.ap_at_10_r, result.ap_at_10_hits) == (1, 0.5, 1)


def test_an_eleventh_hit_does_not_count_except_for_mrr():
    result = metrics.measure(query("k"), list("abcdefghijk"))
    assert (result.ap_at_10, result.r_at_10, result.rr) == (0, 0, 1 / 11)


@pytest.mark.parametrize("answer", [[], ["x", "y"]])
def test_a_query_answered_with_nothing_relevant_scores_zero(answer):
    result = metrics.measure(query("ab"), answer)
    assert (result.ap_at_10, result.ap_at_10_r, result.ap_at_10_hits, result.p_at_10, result.rr) == (0, 0, 0, 0, 0)


def test_a_query_without_relevant_products_scores_zero():
    assert metrics.measure(query(""), ["a"]).ap_at_10 == 0


def test_a_repeated_product_counts_once():
    assert metrics.measure(query("ab"), ["a", "a", "b"]) == metrics.measure(query("ab"), ["a", "b"])


ANSWERS = st.lists(st.integers(0, 40), unique=True, max_size=30)
RELEVANT = st.sets(st.integers(0, 40), min_size=1, max_size=25)


@settings(max_examples=150, deadline=None)
@given(ANSWERS, RELEVANT)
def test_values_are_those_of_ir_measures_where_definitions_agree(answer, relevant):
    """trec_eval's AP@10 divides by R: our `ap_at_10_r` always, and ours as well where R ≤ 10."""
    ours = metrics.measure(query({f"p{number}" for number in relevant}), [f"p{number}" for number in answer])
    qrels = [ir_measures.Qrel("q", f"p{number}", 1) for number in relevant]
    run = [ir_measures.ScoredDoc("q", f"p{number}", 1000.0 - rank) for rank, number in enumerate(answer)]
    wanted = [ir_measures.parse_measure(name) for name in ("AP@10", "P@1", "P@10", "R@1", "R@10", "RR")]
    theirs = ir_measures.calc_aggregate(wanted, qrels, run) if run else dict.fromkeys(wanted, 0.0)
    mine = (ours.ap_at_10_r, ours.p_at_1, ours.p_at_10, ours.r_at_1, ours.r_at_10, ours.rr)
    np.testing.assert_allclose(mine, [theirs[name] for name in wanted], atol=1e-9)
    if len(relevant) <= 10:
        assert ours.ap_at_10 == pytest.approx(theirs[wanted[0]])
    assert 0 <= ours.ap_at_10_r <= ours.ap_at_10 <= 1
    assert ours.ap_at_10 <= ours.ap_at_10_hits + 1e-12 <= 1 + 2e-12


@given(ANSWERS, RELEVANT, st.data())
def test_moving_a_relevant_product_up_never_hurts(answer, relevant, data):
    hits = [rank for rank, number in enumerate(answer) if number in relevant and rank > 0]
    if not hits:
        return
    rank = data.draw(st.sampled_from(hits))
    better = answer[:]
    better[rank - 1], better[rank] = better[rank], better[rank - 1]
    before, after = (
        metrics.measure(query({str(number) for number in relevant}), [str(number) for number in ranked])
        for ranked in (answer, better)
    )
    assert after.ap_at_10 >= before.ap_at_10 - 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 40))
def test_the_fast_path_over_scores_is_the_slow_one(seed, num_queries, num_products):
    chance = np.random.default_rng(seed)
    scores = chance.integers(0, 6, (num_queries, num_products)).astype(np.float32) / 7  # many ties
    ids = [f"p{number:02d}" for number in range(num_products)]
    queries = [
        query({product_id for product_id in ids if chance.random() < 0.4}, query_id=f"q{number}")
        for number in range(num_queries)
    ]
    relevant = metrics.relevance(queries, ids)
    slow = []
    for row, asked in zip(scores, queries, strict=True):
        answer = sorted(range(num_products), key=lambda column, row=row: (-row[column], ids[column]))
        slow.append(metrics.measure(asked, [ids[column] for column in answer]).ap_at_10)
    np.testing.assert_allclose(metrics.ap_at_10_of_scores(scores, relevant), slow, atol=1e-12)


def test_relevance_leaves_out_what_the_gallery_does_not_hold():
    relevant = metrics.relevance([query("az"), query("b")], ["a", "b"])
    np.testing.assert_array_equal(relevant, [[True, False], [False, True]])


@pytest.fixture
def evaluation() -> metrics.Evaluation:
    queries = [
        query("ab", "q1", category="Shirts"),
        query("c", "q2", category="Shirts"),
        query("d", "q3", category="Shoes"),
        query("abcde", "t1", QueryKind.TYPE, "Shirts"),
    ]
    answers = [ranking("ab"), ranking("xc"), ranking("x"), ranking("abcde")]
    return metrics.evaluate(queries, answers)


def test_means_come_after_values_per_query(evaluation):
    assert evaluation.headline is QueryKind.SPECIFIC
    assert evaluation.map_at_10 == pytest.approx((1 + 0.5 + 0) / 3)
    assert evaluation.of_kind(QueryKind.TYPE).map_at_10 == 1
    assert evaluation.of_kind(QueryKind.NAME).num_queries == 0


def test_categories_carry_their_numbers_of_queries_and_relevant_products(evaluation):
    categories = evaluation.by_category()
    assert list(categories) == ["Shirts", "Shoes"]
    shirts = categories["Shirts"]
    assert (shirts.map_at_10, shirts.num_queries, shirts.num_relevant) == (0.75, 2, 3)
    assert evaluation.by_category(QueryKind.TYPE)["Shirts"].num_queries == 1
    assert evaluation.category_spread() == 0.75


def test_the_summary_is_plain_json(evaluation):
    import json

    summary = json.loads(json.dumps(evaluation.summary()))
    assert summary["map_at_10"] == pytest.approx(0.5)
    assert (
        summary["by_category"]["Shoes"] | {"map_at_10": 0.0, "num_queries": 1, "num_relevant": 1}
        == (summary["by_category"]["Shoes"])
    )
    assert set(summary["by_kind"]) == {"specific", "type"}


def test_evaluating_nothing_is_zero_and_not_an_error():
    empty = metrics.evaluate([], [])
    assert (empty.map_at_10, empty.by_category(), empty.category_spread()) == (0, {}, 0)


def test_rankings_that_do_not_fit_the_queries_are_refused():
    with pytest.raises(EnclipError, match="1 rankings for 2 queries"):
        metrics.evaluate([query("a", "1"), query("a", "2")], [ranking("a")])
    with pytest.raises(EnclipError, match="same id"):
        metrics.evaluate([query("a"), query("b")], [ranking("a")] * 2)
