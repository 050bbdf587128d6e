"""How many cores this process may use, which in a container may be fewer than its machine has."""

import os


def available_cores() -> int:
    """At least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
