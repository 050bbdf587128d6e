from dataclasses import replace
from itertools import pairwise

import pytest

from enclip.models.schedule import learning_rate, peak_learning_rate
from enclip.recipes import TrainRecipe

from .small_models import small_clip


def _rates(recipe: TrainRecipe, steps: int = 100) -> list[float]:
    return [learning_rate(recipe, 1.0, step=step, steps=steps) for step in range(steps)]


def test_cosine_rises_through_the_warmup_and_falls_to_nearly_nothing():
    rates = _rates(TrainRecipe(warmup=0.1))
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.505, abs=1e-6)  # half-way down, between 1 and its hundredth
    assert 0 < rates[-1] < 0.02


def test_cyclic_returns_to_the_peak_once_per_cycle():
    rates = _rates(TrainRecipe(warmup=0.1, schedule="cyclic", cycles=3))
    assert [step for step in range(10, 100) if rates[step] > 0.999] == [10, 40, 70]
    assert all(rates[step] < 0.02 for step in (39, 69, 99))


@pytest.mark.parametrize("schedule", ["cosine", "cyclic"])
def test_the_shortest_training_still_learns(schedule: str):
    assert _rates(TrainRecipe(schedule=schedule, warmup=0.5), steps=1) == [1.0]
    assert _rates(TrainRecipe(schedule=schedule, warmup=0.0), steps=1) == [1.0]


def test_the_peak_follows_from_where_the_weights_come_from():
    fresh = small_clip()
    assert peak_learning_rate(TrainRecipe(learning_rate=0.5), fresh) == 0.5
    from_nothing = peak_learning_rate(TrainRecipe(), fresh)
    from_own = peak_learning_rate(TrainRecipe(), replace(fresh, epochs_trained=3))
    from_pretrained = peak_learning_rate(TrainRecipe(), replace(fresh, from_scratch=False))
    assert from_nothing > from_own > from_pretrained == 1e-5
