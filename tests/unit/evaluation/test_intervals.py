"""The bootstrap covers what it promises; Holm by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclip.evaluation.intervals import holm, paired_bootstrap


def test_the_mean_lies_between_its_bounds_and_a_clear_gain_is_no_loss():
    chance = np.random.default_rng(0)
    theirs = chance.random(100) * 0.5
    interval = paired_bootstrap(theirs + 0.1 + 0.05 * chance.normal(size=100), theirs)
    assert interval.low < interval.mean < interval.high
    assert interval.low > 0.05
    assert interval.p_loss > 0.99
    assert interval.num_queries == 100


def test_a_clear_loss_has_a_small_p_and_a_margin_forgives_it():
    theirs = np.linspace(0.2, 0.8, 50)
    ours = theirs - np.linspace(0.03, 0.07, 50)
    assert paired_bootstrap(ours, theirs).p_loss < 0.001
    assert paired_bootstrap(ours, theirs, margin=0.1).p_loss > 0.99


def test_pairing_cancels_what_makes_queries_hard():
    """The same gain on very different queries is sure; unpaired, it would drown in their spread."""
    theirs = np.tile([0.0, 1.0], 30)
    ours = theirs + 0.02
    interval = paired_bootstrap(ours, theirs)
    assert (interval.low, interval.high) == pytest.approx((0.02, 0.02))


@pytest.mark.parametrize("num_queries", [0, 1])
def test_fewer_than_two_queries_are_no_evidence(num_queries):
    interval = paired_bootstrap(np.zeros(num_queries), np.ones(num_queries))
    assert (interval.low, interval.high, interval.p_loss, interval.num_queries) == (-1, 1, 1, num_queries)


def test_equal_input_and_seed_give_equal_intervals():
    chance = np.random.default_rng(1)
    ours, theirs = chance.random(40), chance.random(40)
    assert paired_bootstrap(ours, theirs, seed=5) == paired_bootstrap(ours, theirs, seed=5)
    assert paired_bootstrap(ours, theirs, seed=5) != paired_bootstrap(ours, theirs, seed=6)


def test_resampling_in_pieces_does_not_lose_resamples(monkeypatch):
    chance = np.random.default_rng(2)
    ours, theirs = chance.random(30), chance.random(30)
    monkeypatch.setattr("enclip.evaluation.intervals.CHUNK", 100)
    whole = paired_bootstrap(ours, theirs, resamples=500)
    assert whole.p_loss * 501 == pytest.approx(round(whole.p_loss * 501))


@pytest.mark.parametrize("num_queries", [20, 100])
def test_bounds_and_p_err_about_as_often_as_they_say(num_queries):
    """2,000 experiments without a true difference, on differences as AP makes them: many 0, some large."""
    chance = np.random.default_rng(3)
    alpha, above, rejected, experiments = 0.05, 0, 0, 2_000
    for experiment in range(experiments):
        noise = chance.normal(size=num_queries) * 0.2 * (chance.random(num_queries) < 0.6)
        interval = paired_bootstrap(noise, np.zeros(num_queries), alpha=alpha, resamples=300, seed=experiment)
        above += interval.low > 0
        rejected += interval.p_loss <= alpha
    assert above / experiments == pytest.approx(alpha, abs=0.025)
    assert rejected / experiments == pytest.approx(alpha, abs=0.025)


def test_holm_by_hand():
    """Sorted .01 .02 .03 .04 times 4 3 2 1, never falling: .04 .06 .06 .06."""
    assert holm({"a": 0.03, "b": 0.01, "c": 0.04, "d": 0.02}) == pytest.approx(
        {"a": 0.06, "b": 0.04, "c": 0.06, "d": 0.06}
    )
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_adjusted_p_values_only_grow_keep_their_order_and_stay_below_bonferroni(p_values):
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    for key, value in p_values.items():
        assert value <= adjusted[key] <= min(1.0, value * len(p_values)) + 1e-12 or adjusted[key] <= max(
            min(1.0, other * len(p_values)) for other in p_values.values()
        )
    by_value = sorted(p_values, key=lambda key: p_values[key])
    assert [adjusted[key] for key in by_value] == sorted(adjusted.values())
