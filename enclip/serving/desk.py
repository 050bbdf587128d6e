"""What every route asks for: the release that answers now, and a thread to search in."""

import os
from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio import to_thread
from fastapi import HTTPException

from enclip.serving.follow import Follower, Served

MAX_WAITING = 256

Answer = TypeVar("Answer")


class Desk:
    """Where requests get their release and wait for their turn.

    Args:
        follower: knows which release answers.
        num_searchers: searches that run at once; None: one a core.
        max_waiting: searches that may wait for their turn before new ones get 503.
    """

    def __init__(self, follower: Follower, *, num_searchers: int | None = None, max_waiting: int = MAX_WAITING) -> None:
        self.follower = follower
        self._searchers = anyio.CapacityLimiter(num_searchers or len(os.sched_getaffinity(0)))
        self._max_waiting = max_waiting

    def served(self) -> Served:
        """The release that answers now; a request takes it once. 503 while there is none."""
        served = self.follower.served
        if served is None:
            detail = self.follower.state.problem or "The first release is being loaded."
            raise HTTPException(503, detail, headers={"Retry-After": "2"})
        return served

    async def search(self, work: Callable[[], Answer]) -> Answer:
        """Run a search in a thread; refuse once so many wait that an answer would come too late."""
        if self._searchers.statistics().tasks_waiting >= self._max_waiting:
            raise HTTPException(503, "Too many searches are waiting.", headers={"Retry-After": "1"})
        return await to_thread.run_sync(work, limiter=self._searchers)
