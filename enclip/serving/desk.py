"""What every route asks for: the release that answers now, its words encoded, and a thread to search in."""

import math
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Annotated, Any, TypeVar

import anyio
from anyio import to_thread
from fastapi import Header, HTTPException
from pydantic import WithJsonSchema

from enclip.cores import available_cores
from enclip.serving.follow import Follower, Served
from enclip.serving.metrics import ServiceMetrics
from enclip.serving.passes import TextPasses
from enclip.serving.problems import described
from enclip.spans import span

MAX_WAITING = 256
MAX_WAIT_S = 5.0
MAX_TIMEOUT_MS = 600_000
# What a route that searches may answer instead; for FastAPI's `responses`.
REFUSALS: dict[int | str, dict[str, Any]] = {
    429: described("Too many searches wait already; ask again after Retry-After seconds.", retried=True),
    503: described(
        "No release answers yet, or a search waited too long for its turn and was not started (those of a batch "
        "before it are thrown away); "
        "ask again after Retry-After seconds.",
        retried=True,
    ),
}

Answer = TypeVar("Answer")

_begin_by: ContextVar[float] = ContextVar("begin_by", default=math.inf)  # on the event loop's clock


class Desk:
    """Where requests get their release and wait for their turn, first come, first served.

    Args:
        follower: knows which release answers.
        metrics: where waiting and refusals are counted.
        num_searchers: searches that run at once; None: one a core.
        max_waiting: searches that may wait for their turn before new ones get 429.
        max_wait_s: seconds that a search may wait for its turn before it gets 503.
    """

    def __init__(
        self,
        follower: Follower,
        metrics: ServiceMetrics,
        *,
        num_searchers: int | None = None,
        max_waiting: int = MAX_WAITING,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self.follower = follower
        self._metrics = metrics
        num_searchers = num_searchers or available_cores()
        self._turns = anyio.Semaphore(num_searchers)
        self._threads = anyio.CapacityLimiter(num_searchers)  # one for each turn, so that nobody waits for these
        self._passes = TextPasses(metrics.observe_pass)
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        metrics.watch_waiting(self._num_waiting)

    def served(self) -> Served:
        """The release that answers now; a request takes it once. 503 while there is none."""
        served = self.follower.served
        if served is None:
            detail = self.follower.state.problem or "The first release is being loaded."
            raise self._refusal(503, "release", detail, retry_after_s=2)
        return served

    def is_busy(self) -> bool:
        """Whether a search that came now would have to wait; may be asked from any thread."""
        return not self._turns.value

    async def search(
        self, work: Callable[[], Answer], *, served: Served | None = None, texts: Iterable[str] = ()
    ) -> Answer:
        """Run a search in a thread when its turn comes.

        Args:
            served, texts: words of the search that a release does not know yet; they are encoded on the way to its
                turn, together with those of others.

        Raises HTTPException, and has started nothing, where too many wait (429) or its turn does not come
        in time (503): a search that is refused can be asked again, here or of another replica.
        """
        with span("wait for turn"):
            await self._take_turn(served, list(texts))
        try:
            return await to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._turns.release()

    async def _take_turn(self, served: Served | None, texts: list[str]) -> None:
        if self._num_waiting() >= self._max_waiting + self._turns.value:
            raise self._refusal(429, "queue", "Too many searches are waiting.")
        came = anyio.current_time()
        try:
            with anyio.fail_after(min(self._max_wait_s, _begin_by.get() - came)):
                if served is not None and texts:
                    await self._passes.learn(served.release, texts)
                await self._turns.acquire()
        except TimeoutError:
            detail = "The search's turn did not come in time; it was not started."
            raise self._refusal(503, "deadline", detail) from None
        finally:
            self._metrics.observe_wait(anyio.current_time() - came)

    def _num_waiting(self) -> int:
        return self._turns.statistics().tasks_waiting + self._passes.num_waiting

    def _refusal(self, status: int, reason: str, detail: str, *, retry_after_s: int = 1) -> HTTPException:
        self._metrics.refuse(reason)
        return HTTPException(status, detail, headers={"Retry-After": str(retry_after_s)})


async def begin_in_time(
    x_request_timeout_ms: Annotated[
        int | None,
        Header(
            alias="X-Request-Timeout-Ms",
            ge=1,
            le=MAX_TIMEOUT_MS,
            description="Milliseconds within which the search has to begin, from when the request has been read, all "
            "searches of a batch; else 503. The service's own limit holds beside it.",
        ),
        WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS}),  # no header can hold null
    ] = None,
) -> None:
    """A dependency of routes that search: keeps for `Desk.search` by when the client wants it begun."""
    if x_request_timeout_ms is not None:
        # A context variable, since between here and the desk lie routes that need not know of time.
        _begin_by.set(anyio.current_time() + x_request_timeout_ms / 1000)
