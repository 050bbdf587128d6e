"""The last line of every program here: one comparison as JSON."""

import json
import resource
from typing import Literal


def print_result(
    bench: str,
    *,
    ours: float,
    peer: float,
    peer_name: str,
    ratio: float,
    better: Literal["higher", "lower"],
    goal: float,
    peak_memory_mb: float | None = None,
) -> None:
    """Print `{"bench", "ours", "peer", "peer_name", "ratio", "better", "goal", "peak_memory_mb"}`.

    `ratio` is what the goal is about: ours over the peer's, paired within the run. Peak memory is this
    process's where none is given.
    """
    peak = peak_memory_mb or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "bench": bench,
                "ours": round(ours, 4),
                "peer": round(peer, 4),
                "peer_name": peer_name,
                "ratio": round(ratio, 3),
                "better": better,
                "goal": goal,
                "peak_memory_mb": round(peak, 1),
            }
        )
    )
