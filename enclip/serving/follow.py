"""Alias → release in memory: polled, loaded beside what serves, swapped by one assignment.

A request takes `Follower.served` once and answers from it alone, so that no answer mixes two
releases, however the alias moves meanwhile. A release that cannot be loaded, or cannot answer, never
replaces one that can: the old one goes on serving, and the problem shows in `Follower.state`.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from enclip.errors import EnclipError
from enclip.records import Filters, Floats, Product, Products, Ranking
from enclip.release import Manifest
from enclip.retrieval.atlas import Atlas
from enclip.retrieval.audit import Suspect
from enclip.retrieval.explain import Explanation
from enclip.retrieval.profiles import Profile, Profiles
from enclip.serving.memory import give_back_memory
from enclip.serving.overview import Overview, describe_catalog
from enclip.serving.schemas import SearchRequest

logger = logging.getLogger(__name__)

POLL_S = 2.0
FIRST_POLL_S = 0.1  # while the two threads wait for each other at the start
LONGEST_RETRY_S = 60.0
STALE_S = 60.0  # a registry that hangs raises nothing
CALM = 2  # looks without a change after which no request holds the release before: the first comes at once


class OpenRelease(Protocol):
    """A release in memory that answers searches; safe to call from several threads at once."""

    @property
    def version(self) -> int: ...

    @property
    def manifest(self) -> Manifest: ...

    @property
    def products(self) -> Products: ...

    def row(self, product_id: str) -> int | None:
        """A product's row in `products`; None where the release does not hold it."""
        ...

    @property
    def atlas(self) -> Atlas | None:
        """The map of its products; None for a release from before there were any."""
        ...

    @property
    def suspects(self) -> tuple[Suspect, ...] | None:
        """Labels to look at; None for a release from before they were stored."""
        ...

    @property
    def profiles(self) -> Profiles:
        """What its clusters hold."""
        ...

    def live(self, withdrawn: frozenset[str]) -> NDArray[np.bool_] | None:
        """`[N]`: the products that are not withdrawn; None where that is all."""
        ...

    def search(
        self,
        *,
        text: str | None,
        image: bytes | None,
        like: str | None = None,
        without: str | None = None,
        weights: Mapping[str, float] | None,
        filters: Filters | None,
        k: int,
        offset: int = 0,
        withdrawn: frozenset[str],
        spread: bool = False,
    ) -> Ranking:
        """The k best products behind the first `offset` that are not withdrawn. Raises QueryError or ImageError."""
        ...

    def similar(self, product_id: str, *, k: int, filters: Filters | None, withdrawn: frozenset[str]) -> Ranking:
        """The k products nearest to one of the release, itself left out. Raises QueryError."""
        ...

    def unknown_texts(self, *, text: str | None, like: str | None, without: str | None) -> list[str]:
        """What a search for these would have to encode. Raises QueryError."""
        ...

    def learn_texts(self, texts: Sequence[str]) -> None:
        """Encode the words of several searches in one pass, so that these find them known."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> list[Floats]:
        """Per member `embedding_QD` of the texts; by the student, where there is one."""
        ...

    def encode_picture(self, image: bytes) -> list[Floats]:
        """Per member `embedding_1D` of a picture. Raises QueryError where it cannot be read."""
        ...

    def counts(self, filters: Filters | None, *, withdrawn: frozenset[str]) -> dict[str, dict[str, int]]:
        """Field → value → products that have it and pass the other filters."""
        ...

    def explain(
        self,
        product_id: str,
        *,
        text: str | None,
        image: bytes | None,
        like: str | None,
        without: str | None,
        weights: Mapping[str, float] | None,
        withdrawn: frozenset[str],
    ) -> tuple[Explanation, dict[str, float]]:
        """Why a search gives a product its score; cosines with each part of what was asked. Raises QueryError."""
        ...

    def unremembered(self) -> "OpenRelease":
        """The same release, which has encoded no text yet."""
        ...


@dataclass(frozen=True, eq=False)
class Served:
    """All that one request may look at: a release, and the products withdrawn since it was built."""

    release: OpenRelease
    withdrawn: frozenset[str]
    since: datetime

    @property
    def version(self) -> int:
        """The release's name."""
        return self.release.version

    def product(self, product_id: str) -> Product | None:
        """A product that the release sells; None where it never held it or it is withdrawn since."""
        row = self.release.row(product_id)
        return None if row is None or product_id in self.withdrawn else self.release.products.row(row)

    def search(self, request: SearchRequest) -> Ranking:
        """What the release finds for a request, without what is withdrawn. Raises QueryError."""
        return self.release.search(
            text=request.text,
            image=request.image,
            like=request.like,
            without=request.without,
            weights=request.given_weights() if request.weights else None,
            filters=request.filters.to_filters() if request.filters else None,
            k=request.k,
            offset=request.offset,
            withdrawn=self.withdrawn,
            spread=request.spread,
        )

    @cached_property
    def overview(self) -> Overview:
        """What the catalog holds; counted on first use, once for each release and set of withdrawals."""
        return describe_catalog(self.release.products, withdrawn=self.withdrawn, seed=self.version)

    @cached_property
    def clusters(self) -> tuple[Profile, ...]:
        """What each cluster holds that is not withdrawn; likewise."""
        return self.release.profiles.of(self.release.live(self.withdrawn))


@dataclass(frozen=True, slots=True)
class FollowState:
    """Where following stands. `problem` is empty while all is well; `checked_at` is Unix time in seconds, 0: never."""

    alias: int | None
    problem: str
    checked_at: float
    num_swaps: int
    num_failed_loads: int


class Follower:
    """Keeps the release that the alias names in memory.

    Alias and withdrawals are polled by a thread each, since a database that is busy with an ingest
    must not delay a promotion. Neither thread ends on an error.

    Args:
        current: the version the alias names now, None where there is no such alias.
        load: opens a version; slow, runs in a thread of the follower.
        withdrawn: ids of products that no release may show any more. Until they have been read once
            nothing is served, so that a start with a dead database sells nothing that is gone.
        poll_s: seconds between two looks.
        clock: Unix time in seconds.
        purpose: what its release does, for the log.
        give_back: returns memory to the system, when a release has gone.
        optional: whether the alias may be absent; nothing is kept in memory then, and nothing is wrong.
    """

    def __init__(
        self,
        *,
        current: Callable[[], int | None],
        load: Callable[[int], OpenRelease],
        withdrawn: Callable[[], frozenset[str]],
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.time,
        purpose: str = "answers searches",
        give_back: Callable[[], None] = give_back_memory,
        optional: bool = False,
    ) -> None:
        self._current = current
        self._load = load
        self._read_withdrawn = withdrawn
        self._poll_s = poll_s
        self._clock = clock
        self._purpose = purpose
        self._give_back = give_back
        self._optional = optional
        self._num_calm = CALM
        self._swap_lock = threading.Lock()  # between the two threads; no request ever waits for it
        self._look_lock = threading.Lock()  # so that what was read first never replaces what was read later
        self._served: Served | None = None
        self._withdrawn: frozenset[str] | None = None
        self._withdrawn_problem = ""
        self._withdrawn_at = 0.0
        self._alias: int | None = None
        self._alias_problem = ""
        self._checked_at = 0.0
        self._num_swaps = 0
        self._num_failed_loads = 0
        self._failed_version: int | None = None
        self._load_problem = ""
        self._failures = 0
        self._retry_at = 0.0
        self._stopping = threading.Event()
        self._threads: tuple[threading.Thread, ...] = ()

    @property
    def served(self) -> Served | None:
        """What answers now; take it once a request. None until a first release is loaded."""
        return self._served

    @property
    def state(self) -> FollowState:
        """Where following stands."""
        problems = (
            self._alias_problem,
            self._withdrawn_problem,
            self._stale("The alias was", self._checked_at),
            self._stale("Withdrawn products were", self._withdrawn_at),
        )
        return FollowState(
            alias=self._alias,
            problem=" ".join(filter(None, problems)),
            checked_at=self._checked_at,
            num_swaps=self._num_swaps,
            num_failed_loads=self._num_failed_loads,
        )

    def start(self) -> None:
        """Follow from threads of its own; the first release is loaded there too."""
        if self._threads:
            return
        self._stopping.clear()
        # Daemons: a load that hangs on a dead store must not keep the process from ending.
        self._threads = tuple(
            threading.Thread(target=self._repeat, args=(look,), name=f"enclip-{look.__name__}", daemon=True)
            for look in (self.check_withdrawn, self.check_alias)
        )
        for thread in self._threads:
            thread.start()

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """End the threads; what is served stays. One that hangs is left after `timeout_s`, whatever their number."""
        self._stopping.set()
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._threads = ()

    def check_withdrawn(self, *, timeout_s: float = -1) -> bool:
        """Look once at what is withdrawn; True where that has changed. Never raises: the last set stays.

        The follower's own thread does so again and again; whoever has just withdrawn a product need not wait for it.

        Args:
            timeout_s: to wait for a look that is under way, which may hang with its database; below 0: as long as
                it takes. Beyond it nothing is looked at.
        """
        if not self._look_lock.acquire(timeout=timeout_s):
            return False
        try:
            return self._look_at_withdrawn()
        finally:
            self._look_lock.release()

    def check_alias(self) -> bool:
        """Look once at the alias and load what it names; True where another release answers now.

        Never raises: what fails is logged, shows in `state`, and leaves in place what is served.
        """
        try:
            self._alias = self._current()
            self._checked_at = self._clock()
        except Exception as error:
            self._alias_problem = _noted(f"The alias cannot be read: {_reason(error)}", self._alias_problem)
            return False
        served = self._served
        if self._alias is None and self._optional:
            with self._swap_lock:
                self._served = None
            if served is not None:
                self._num_calm = 0
            return self._nothing_new()
        if self._alias is None:
            self._alias_problem = "The alias is gone." if served else "No release is promoted yet."
            return False
        if served is not None and served.version == self._alias:
            return self._nothing_new()
        if self._withdrawn is None:
            return False  # the other thread has not read them yet, or says why it cannot
        if self._alias == self._failed_version and self._clock() < self._retry_at:
            self._alias_problem = self._load_problem
            return False
        return self._swap_to(self._alias)

    def _look_at_withdrawn(self) -> bool:
        try:
            latest = self._read_withdrawn()
        except Exception as error:
            self._withdrawn_problem = _noted(
                f"Withdrawn products cannot be read: {_reason(error)}", self._withdrawn_problem
            )
            return False
        self._withdrawn_problem, self._withdrawn_at = "", self._clock()
        with self._swap_lock:
            if latest == self._withdrawn:
                return False
            self._withdrawn = latest
            if self._served is not None:
                self._served = replace(self._served, withdrawn=latest)
        return True

    def _stale(self, what: str, read_at: float) -> str:
        """A sentence where something was read once, and not for long: what hangs raises nothing."""
        age_s = self._clock() - read_at
        return f"{what} last read {age_s:.0f} s ago." if read_at and age_s > STALE_S else ""

    def _nothing_new(self) -> Literal[False]:
        self._alias_problem, self._failed_version = "", None
        self._num_calm += 1
        if self._num_calm == CALM:
            self._give_back()
        return False

    def _repeat(self, look: Callable[[], bool]) -> None:
        while not self._stopping.is_set():
            # After a change look at once: a load takes seconds, and the alias may have moved meanwhile.
            if not look():
                waits_for_other = self._withdrawn is None and not self.state.problem
                self._stopping.wait(FIRST_POLL_S if waits_for_other else self._poll_s)

    def _swap_to(self, version: int) -> bool:
        try:
            release = self._load(version)
            # The first search pays for lazy initialisation, and proves that the release answers at all.
            release.search(text="a product", image=None, weights=None, filters=None, k=1, withdrawn=frozenset())
        except Exception as error:
            self._note_failure(version, error)
            return False
        with self._swap_lock:
            withdrawn = self._withdrawn or frozenset()
            self._served = Served(release, withdrawn, datetime.fromtimestamp(self._clock(), UTC))
        self._alias_problem, self._failed_version = "", None
        self._num_swaps += 1
        self._num_calm = 0
        logger.info("Release %d %s over %d products.", release.version, self._purpose, len(release.products))
        return True

    def _note_failure(self, version: int, error: Exception) -> None:
        self._failures = self._failures + 1 if version == self._failed_version else 1
        self._failed_version = version
        self._retry_at = self._clock() + min(self._poll_s * 2**self._failures, LONGEST_RETRY_S)
        self._num_failed_loads += 1
        self._num_calm = 0  # what it had loaded is gone too
        problem = f"Release {version} cannot be served: {_reason(error)}"
        # Our own errors say what is wrong and where; of any other, where it came from is all there is to go by.
        logger.error("%s", problem, exc_info=None if isinstance(error, EnclipError) else error)
        self._load_problem = self._alias_problem = problem  # last: what a replica says of itself stands in its log


def _noted(problem: str, last: str) -> str:
    """The problem, logged unless it was the last one too."""
    if problem != last:
        logger.warning("%s", problem)
    return problem


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, EnclipError) else f"{type(error).__name__}: {error}"
