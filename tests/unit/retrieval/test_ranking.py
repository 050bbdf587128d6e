"""One rule for ties: equal to six decimals goes by product_id."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from enclip.retrieval import ranking


def test_ties_go_by_product_id_and_noise_below_six_decimals_is_a_tie():
    scores = np.array([[0.5, 0.7 - 3e-8, 0.7, 0.9]])
    answer = ranking.rank(scores, ["a", "b", "c", "d"], k=3)[0]
    assert answer.product_ids == ("d", "b", "c")
    assert answer.hits[0].score == 0.9
    assert answer.hits[0].cluster == -1


def test_minus_infinity_leaves_a_product_out():
    answer = ranking.rank(np.array([[-np.inf, 0.1, -np.inf]]), ["a", "b", "c"], k=3)[0]
    assert answer.product_ids == ("b",)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_the_order_is_that_of_a_plain_sort(values, k):
    scores = np.array(values, np.float32) / 3
    expected = sorted(range(len(values)), key=lambda row: (-values[row], row))[:k]
    assert ranking.top(scores, k).tolist() == expected
