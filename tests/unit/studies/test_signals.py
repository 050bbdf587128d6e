"""What a query shows, on results whose signals are known."""

import numpy as np

from enclip.studies.signals import _overlap, rank_correlation


def test_a_signal_that_orders_queries_as_the_gain_does_correlates_fully() -> None:
    gain = np.array([0.0, 0.1, 0.2, 0.9])
    assert rank_correlation(np.array([1.0, 2.0, 3.0, 4.0]), gain) == 1.0
    assert rank_correlation(np.array([4.0, 3.0, 2.0, -50.0]), gain) == -1.0


def test_a_signal_or_gain_that_never_varies_says_nothing() -> None:
    assert rank_correlation(np.ones(4), np.arange(4.0)) == 0.0
    assert rank_correlation(np.arange(4.0), np.zeros(4)) == 0.0


def test_members_agree_by_the_results_they_share() -> None:
    first, second = np.arange(10), np.arange(5, 15)
    assert _overlap([first, second]) == 0.5
    assert _overlap([first, first, second]) == (1 + 0.5 + 0.5) / 3
    assert _overlap([first]) == 1.0
