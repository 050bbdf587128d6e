"""A share of live searches, asked of the challenger too: off the request path, compared with the champion, added up.

Both releases are asked in one thread, one after the other, each encoding the words anew, so that their times compare.
The thread takes no turn from a live search: it begins only while one is free, and what it cannot keep up with is
dropped. Neither words nor pictures outlive the comparison.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from enclip.errors import EnclipError
from enclip.records import Ranking, ShadowTotals, overlap
from enclip.serving.follow import Follower, Served
from enclip.serving.schemas import SearchRequest

logger = logging.getLogger(__name__)

DEPTH = 10
MAX_WAITING = 8  # queries, of at most 5 MB of picture each
KEEP_EVERY_S = 15.0

Outcome = Literal["compared", "dropped", "failed"]
Pair = tuple[int, int]  # champion, challenger
_TENTHS = tuple(tenth / 10 for tenth in range(11))
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Shadow:
    """Asks the challenger what the champion was asked.

    Args:
        challenger: follows the alias of the challenger.
        share: of searches, 0 to 1, that are asked again.
        keep: adds what was seen of a champion and a challenger to what is kept of them. Raises where it cannot; it is
            called again then, with more.
        chance: a number from 0 to 1, a new one at each call.
        keep_every_s: seconds between two calls of `keep`.
    """

    def __init__(
        self,
        challenger: Follower,
        *,
        share: float,
        keep: Callable[[int, int, ShadowTotals], None],
        chance: Callable[[], float] = random.random,
        keep_every_s: float = KEEP_EVERY_S,
    ) -> None:
        self._challenger = challenger
        self._share = share
        self._keep = keep
        self._chance = chance
        self._keep_every_s = keep_every_s
        self._is_busy: Callable[[], bool] = lambda: False
        self._waiting: queue.Queue[tuple[Served, SearchRequest] | None] = queue.Queue(MAX_WAITING)
        self._unkept: dict[Pair, ShadowTotals] = {}
        self._keep_at = 0.0
        self._problem = ""
        self._num_asked = 0
        self._thread: threading.Thread | None = None
        self._stopping = False

    def attach(self, registry: CollectorRegistry, is_busy: Callable[[], bool]) -> None:
        """Where its metrics go, and what says that live searches need every thread there is."""
        self._is_busy = is_busy
        self._queries = Counter(
            "enclip_shadow_queries",
            "Searches to ask the challenger: compared, dropped for want of time, failed by the challenger alone.",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("compared", "dropped", "failed"):
            self._queries.labels(outcome)
        self._overlap = Histogram(
            "enclip_shadow_overlap",
            "Share of the champion's first 10 products among the challenger's.",
            ("challenger",),
            buckets=_TENTHS,
            registry=registry,
        )
        self._seconds = Histogram(
            "enclip_shadow_seconds",
            "Time that champion and challenger took for the same searches, in the shadow's thread.",
            ("challenger", "asked"),
            buckets=_SECONDS,
            registry=registry,
        )
        follower = self._challenger
        release = Gauge("enclip_challenger_release", "Release in the shadow; 0: none.", registry=registry)
        release.set_function(lambda: follower.served.version if follower.served else 0)
        problem = Gauge("enclip_challenger_problem", "1 while it cannot be followed.", registry=registry)
        problem.set_function(lambda: int(bool(follower.state.problem)))

    def start(self) -> None:
        """Follow the challenger and begin to compare, from threads of its own."""
        self._challenger.start()
        self._stopping, self._keep_at = False, time.monotonic() + self._keep_every_s
        self._thread = threading.Thread(target=self._work, name="enclip-shadow", daemon=True)
        self._thread.start()

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """End the comparison under way, keep what was seen, and end the threads; all within `timeout_s`."""
        self._stopping = True
        end = time.monotonic() + timeout_s
        with suppress(queue.Full):  # it looks up after each of them
            self._waiting.put_nowait(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._challenger.stop(timeout_s=max(0.0, end - time.monotonic()))

    async def offer(self, served: Served, request: SearchRequest) -> None:
        """A search that has been answered. Never waits and never raises; on the event loop, for it takes no time."""
        challenger = self._challenger.served
        if challenger is None or challenger.version == served.version or self._chance() >= self._share:
            return
        try:
            self._waiting.put_nowait((served, request))
        except queue.Full:
            self._queries.labels("dropped").inc()

    def _work(self) -> None:
        while not self._stopping:
            try:
                offered = self._waiting.get(timeout=max(0.0, self._keep_at - time.monotonic()))
            except queue.Empty:
                offered = None
            if offered is not None:
                outcome = self._compare(*offered)
                if outcome is not None:
                    self._queries.labels(outcome).inc()
            offered = None  # else the champion of the last search would stay in memory after a swap
            if time.monotonic() >= self._keep_at:
                self._keep_all()
        self._keep_all()

    def _compare(self, served: Served, request: SearchRequest) -> Outcome | None:
        other = self._challenger.served
        if other is None or other.version == served.version:
            return None  # it has gone since
        if self._is_busy():
            return "dropped"
        asked = request.model_copy(update={"k": DEPTH, "offset": 0})
        champion = replace(served, release=served.release.unremembered())
        challenger = replace(served, release=other.release.unremembered())
        # In turns, since whoever is asked second finds the picture's bytes and the libraries' code in the cache.
        self._num_asked += 1
        order = (champion, challenger) if self._num_asked % 2 else (challenger, champion)
        found = {release.version: self._asked(release, asked) for release in order}
        ours, theirs = found[champion.version], found[challenger.version]
        if ours is None:
            return None  # nobody's fault but the query's
        pair = (champion.version, challenger.version)
        if theirs is None:
            self._add(pair, ShadowTotals(num_failed=1))
            return "failed"
        shared = overlap(ours[0].product_ids, theirs[0].product_ids)
        self._overlap.labels(str(pair[1])).observe(shared)
        for who, seconds in (("champion", ours[1]), ("challenger", theirs[1])):
            self._seconds.labels(str(pair[1]), who).observe(seconds)
        self._add(pair, ShadowTotals(1, 0, shared, champion_s=ours[1], challenger_s=theirs[1]))
        return "compared"

    def _asked(self, served: Served, request: SearchRequest) -> tuple[Ranking, float] | None:
        """What a release finds, and in how many seconds; None where it cannot answer."""
        started = time.perf_counter()
        try:
            return served.search(request), time.perf_counter() - started
        except EnclipError as error:
            kind, trace = type(error).__name__, None  # its words may be those of the query
        except Exception as error:
            kind, trace = type(error).__name__, error
        logger.warning("Release %d failed a shadow query: %s", served.version, kind, exc_info=trace)
        return None

    def _add(self, pair: Pair, more: ShadowTotals) -> None:
        self._unkept[pair] = self._unkept.get(pair, ShadowTotals()) + more

    def _keep_all(self) -> None:
        self._keep_at = time.monotonic() + self._keep_every_s
        for pair, totals in list(self._unkept.items()):
            try:
                self._keep(*pair, totals)
            except Exception as error:
                if (problem := f"{type(error).__name__}: {error}") != self._problem:
                    logger.warning("What the shadow has seen cannot be kept yet: %s", problem)
                self._problem = problem
                return
            del self._unkept[pair]
            self._problem = ""
