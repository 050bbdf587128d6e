"""Greedy selection against an exhaustive search over the same multisets."""

from itertools import combinations_with_replacement

import numpy as np
import pytest

from enclip.retrieval.selection import greedy_weights


def closeness(target):
    """An objective that is highest where the scores are the target's."""
    return lambda score_QN: -float(np.abs(score_QN - target).sum())


def test_the_weights_are_shares_of_how_often_a_member_was_added():
    scores = [np.array([[value]], np.float32) for value in (0.0, 1.0)]
    weights, value = greedy_weights(scores, closeness(0.25), min_members=1, max_members=2, rounds=4)
    np.testing.assert_allclose(weights, [0.75, 0.25])
    assert value == pytest.approx(0)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_no_better_than_exhaustive_search_and_no_worse_than_the_best_member(seed):
    chance = np.random.default_rng(seed)
    scores = [chance.normal(size=(3, 6)).astype(np.float32) for _ in range(4)]
    objective = closeness(chance.normal(size=(3, 6)) * 0.3)
    weights, value = greedy_weights(scores, objective, min_members=1, max_members=4, rounds=4)
    reached = objective(np.tensordot(weights, np.stack(scores), 1).astype(np.float32))
    best = max(
        objective(np.mean([scores[row] for row in rows], axis=0))
        for size in range(1, 5)
        for rows in combinations_with_replacement(range(4), size)
    )
    assert value == pytest.approx(reached, abs=1e-4)
    assert max(map(objective, scores)) - 1e-6 <= value <= best + 1e-5


@pytest.mark.parametrize(("least", "most"), [(1, 1), (2, 2), (2, 3), (3, 4)])
def test_the_number_of_members_stays_within_its_bounds(least, most):
    chance = np.random.default_rng(7)
    scores = [chance.normal(size=(2, 5)).astype(np.float32) for _ in range(6)]
    weights, _ = greedy_weights(scores, closeness(scores[3]), min_members=least, max_members=most)
    assert least <= np.count_nonzero(weights) <= most
    assert weights.sum() == pytest.approx(1)


def test_ties_go_to_the_candidate_that_comes_first():
    same = np.ones((1, 2), np.float32)
    weights, _ = greedy_weights([same, same, same], closeness(same), min_members=1, max_members=3)
    np.testing.assert_array_equal(weights, [1, 0, 0])
