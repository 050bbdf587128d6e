"""Two releases' values on the same queries → how sure their difference is.

Queries are resampled as pairs, so that hard queries cancel out. They are taken as independent, which
queries over one gallery are only roughly: two may share relevant products.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
CHUNK = 4_000_000  # drawn indices at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference, ours minus theirs; each bound is exceeded with probability alpha.

    `p_loss` is the one-sided p-value against "we lose no more than the margin": small means evidence of
    a loss beyond it. `low` above -margin means evidence of no such loss.
    """

    mean: float
    low: float
    high: float
    p_loss: float
    num_queries: int


def paired_bootstrap(
    ours_Q: NDArray[np.float64],
    theirs_Q: NDArray[np.float64],
    *,
    margin: float = 0.0,
    alpha: float = 0.05,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean difference with percentile bounds of a paired bootstrap.

    Deviations are widened by √(n/(n-1)): the plain bootstrap of n values underestimates their variance
    by that factor (Hesterberg, *What Teachers Should Know About the Bootstrap*, 2015). Fewer than two
    queries are no evidence of anything: the bounds are -1 and 1, the most that an AP can differ, and
    p_loss is 1.
    """
    differences = np.asarray(ours_Q, float) - np.asarray(theirs_Q, float)
    count = len(differences)
    mean = float(differences.mean()) if count else 0.0
    if count < 2:
        return Interval(mean, -1.0, 1.0, 1.0, count)
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // count)
    resampled = np.concatenate(
        [
            differences[rng.integers(0, count, (min(step, resamples - start), count))].mean(axis=1)
            for start in range(0, resamples, step)
        ]
    )
    widened = mean + (resampled - mean) * np.sqrt(count / (count - 1))
    low, high = np.quantile(widened, [alpha, 1 - alpha])
    # The observed sample counts as one resample, so that p is never 0 (Davison and Hinkley, 1997).
    p_loss = (1 + int((widened >= -margin - 1e-12).sum())) / (resamples + 1)
    return Interval(mean, float(low), float(high), p_loss, count)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment: reject where the adjusted p is at most alpha, and the chance of any
    false rejection stays at most alpha (Holm, 1979). Keys keep their order.
    """
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = running
    return {key: adjusted[key] for key in p_values}
