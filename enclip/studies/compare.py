"""Systems on the same queries of several folds → how sure their difference is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RESAMPLES = 4_000


@dataclass(frozen=True, slots=True)
class Gain:
    """A mean difference of mAP@10 with the bounds of a 95% interval, and over how many folds it was seen."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f}…{self.high:+.3f})"


def gain(
    per_query: pd.DataFrame, ours: str, theirs: str, *, kind: str = "specific", resamples: int = RESAMPLES
) -> Gain:
    """mAP@10 of one column of `per_query` minus another's: the mean over folds of the means over queries.

    Resampled twice: folds with replacement, and within each of them its queries, as pairs, anew for each time that
    the fold is drawn. With one fold the interval speaks of that fold's queries alone. Deviations over queries are
    widened as in `evaluation.intervals`. A fold that lacks one of the two does not count.
    """
    chosen = per_query[per_query["kind"] == kind].dropna(subset=[ours, theirs])
    folds = [(part[ours] - part[theirs]).to_numpy(float) for _, part in chosen.groupby("fold")]
    mean = float(np.mean([differences.mean() for differences in folds]))
    rng = np.random.default_rng(0)
    total_B = np.zeros(resamples)
    for _ in folds:
        resampled_FB = np.stack([_resampled_means(differences, resamples, rng) for differences in folds])
        total_B += resampled_FB[rng.integers(0, len(folds), resamples), np.arange(resamples)]
    low, high = np.quantile(total_B / len(folds), [0.025, 0.975])
    return Gain(mean, float(low), float(high), len(folds))


def means(per_query: pd.DataFrame, systems: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
    """System → kind of query → mAP@10, the mean over folds of the means over queries."""
    return {
        system: {
            str(kind): float(part.groupby("fold")[system].mean().mean()) for kind, part in per_query.groupby("kind")
        }
        for system in systems
    }


def _resampled_means(differences: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    count = len(differences)
    drawn = differences[rng.integers(0, count, (resamples, count))].mean(axis=1)
    mean, wider = differences.mean(), np.sqrt(count / max(1, count - 1))
    return np.asarray(mean + (drawn - mean) * wider)
