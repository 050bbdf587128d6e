"""Scores → an order. One rule for ties, used offline and online."""

import numpy as np
from numpy.typing import NDArray

DECIMALS = 6  # below what half precision resolves; equal pictures must tie whatever the summation order


def order(score_C: NDArray[np.floating], row_C: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of C candidates by score descending; ties, equal to 6 decimals, by row ascending.

    Rows count products sorted by product_id, so row ascending is product_id ascending.
    """
    return np.lexsort((row_C, -np.round(np.asarray(score_C, np.float64), DECIMALS)))


def top(score_N: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """The best k rows of a full row of scores, in the order above; -inf marks rows to leave out."""
    rows = np.flatnonzero(score_N > -np.inf)
    return rows[order(score_N[rows], rows)[:k]]
