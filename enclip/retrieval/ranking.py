"""Scores → an order. One rule for ties, used offline and online."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enclip.records import Hit, Ranking

DECIMALS = 6  # below what half precision resolves; equal pictures must tie whatever the summation order
NO_CLUSTER = -1


def order(score_C: NDArray[np.floating], row_C: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of C candidates by score descending; ties, equal to 6 decimals, by row ascending.

    Rows count products sorted by product_id, so row ascending is product_id ascending.
    """
    return np.lexsort((row_C, -np.round(np.asarray(score_C, np.float64), DECIMALS)))


def top(score_N: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """The best k rows of a full row of scores, in the order above; -inf marks rows to leave out."""
    rows = np.flatnonzero(score_N > -np.inf)
    if len(rows) > k:
        # Sorting a few instead of all; whatever ties with the last of them stays in.
        rounded = np.round(np.asarray(score_N[rows], np.float64), DECIMALS)
        rows = rows[rounded >= np.partition(rounded, len(rows) - k)[len(rows) - k]]
    return rows[order(score_N[rows], rows)[:k]]


def of_candidates(
    score_C: NDArray[np.floating],
    row_C: NDArray[np.int64],
    product_ids: NDArray[np.object_],
    *,
    k: int,
    cluster_N: NDArray[np.int32],
) -> Ranking:
    """The best k of C candidates, in the order above, each with its cluster."""
    best = order(score_C, row_C)[:k]
    return Ranking(
        tuple(
            Hit(str(product_ids[row]), round(float(score), DECIMALS), int(cluster_N[row]))
            for row, score in zip(row_C[best], score_C[best], strict=True)
        )
    )


def rank(score_QN: NDArray[np.floating], product_ids: Sequence[str] | NDArray[np.object_], *, k: int) -> list[Ranking]:
    """The best k products per row of exact scores, without an index: candidates on *select*, baselines.

    `product_ids` name the columns, ascending. -inf leaves a product out. The hits name no cluster.
    """
    return [
        Ranking(
            tuple(
                Hit(str(product_ids[row]), round(float(score_N[row]), DECIMALS), NO_CLUSTER) for row in top(score_N, k)
            )
        )
        for score_N in score_QN
    ]
