"""Which members, with which weights: greedy forward selection on the scores of held-out queries.

Caruana et al., *Ensemble Selection from Libraries of Models* (ICML 2004): members are added one at a
time, with replacement, so that the count of a member becomes its weight.
"""

from collections.abc import Callable, Sequence

import numpy as np

from enclip.records import Floats

Objective = Callable[[Floats], float]


def greedy_weights(
    score_MQN: Sequence[Floats], objective: Objective, *, min_members: int, max_members: int, rounds: int | None = None
) -> tuple[Floats, float]:
    """Weights of M candidates that maximise the objective of their weighted sum of scores.

    Args:
        score_MQN: per candidate, its scores of Q queries over N products.
        objective: quality of one `score_QN`, higher is better.
        min_members: distinct members that the result has at least; must not exceed M.
        max_members: distinct members that it has at most.
        rounds: additions to try; default: twice max_members.

    Returns:
        `weight_M`, float32, zero for members left out, summing to 1; and the objective reached.

    Ties go to the candidate that comes first, so the result does not depend on chance.
    """
    total = np.zeros_like(score_MQN[0])
    counts = np.zeros(len(score_MQN), dtype=np.int64)
    best_counts, best_value = counts.copy(), -np.inf
    for step in range(1, (rounds or 2 * max_members) + 1):
        chosen = np.count_nonzero(counts)
        values = np.full(len(score_MQN), -np.inf)
        for candidate, score_QN in enumerate(score_MQN):
            is_new = counts[candidate] == 0
            if (is_new and chosen >= max_members) or (not is_new and chosen < min_members):
                continue
            values[candidate] = objective((total + score_QN) / np.float32(step))
        winner = int(values.argmax())
        counts[winner] += 1
        total = total + score_MQN[winner]
        if np.count_nonzero(counts) >= min_members and values[winner] > best_value:
            best_counts, best_value = counts.copy(), float(values[winner])
    return (best_counts / best_counts.sum()).astype(np.float32), best_value
