"""Releases beside the served one: opened when a comparison asks for them, a few remembered, forgotten when idle.

The served release is the follower's. Opening another takes seconds and happens in a thread of its own,
one at a time; searches go on meanwhile. Everything here but that thread runs on the event loop.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from anyio import Lock, fail_after, to_thread
from fastapi import HTTPException

from enclip.errors import EnclipError
from enclip.serving.follow import OpenRelease, Served
from enclip.serving.memory import give_back_memory

if TYPE_CHECKING:
    from enclip.registry import Registry

logger = logging.getLogger(__name__)

NUM_REMEMBERED = 2  # each may take as much memory as the served one
MAX_WAITING = 32
OPEN_WAIT_S = 4.0  # a comparison waits for two; whoever asks waits for 10 s, and then asks again
IDLE_S = 900.0
GIVE_BACK_S = 5.0  # after which no request holds the release that was forgotten
LIST_AGE_S = 2.0
RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class ListedRelease:
    """A release that exists, as the registry lists it; `map_at_10` is None where it was not measured."""

    version: int
    aliases: tuple[str, ...]
    created_at: datetime
    kind: str
    map_at_10: float | None


def list_releases(registry: "Registry") -> list[ListedRelease]:
    """The registry's releases, newest first. Raises RegistryError where it does not answer."""
    aliases = registry.aliases()
    return [
        ListedRelease(
            version=release.version,
            aliases=tuple(sorted(alias for alias, version in aliases.items() if version == release.version)),
            created_at=datetime.fromtimestamp(release.created_at_ms / 1000, UTC),
            kind=release.tags.get("kind", ""),
            map_at_10=_figure(release.tags.get("map_at_10", "")),
        )
        for release in reversed(registry.releases())
    ]


@dataclass
class _Remembered:
    release: OpenRelease
    since: datetime
    used_at: float


class Releases:
    """Answers for any release by its version or alias.

    Args:
        known: every release that exists, newest first; may raise EnclipError, runs in a thread.
        load: opens a version; slow, runs in a thread.
        held: what others have in memory beside the served release; it is not opened a second time.
        num_remembered: releases kept in memory beside the served one.
        wait_s: seconds that a request waits for a release to be opened, or for the list, before it gets 503.
        max_waiting: requests that may wait for a release to be opened before new ones get 429.
        idle_s: seconds after which a release that nobody asks for leaves the memory.
        give_back: returns memory to the system, when a release has gone; runs in a thread.
        give_back_s: how long after.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        *,
        known: Callable[[], Sequence[ListedRelease]],
        load: Callable[[int], OpenRelease],
        held: Callable[[], Served | None] = lambda: None,
        num_remembered: int = NUM_REMEMBERED,
        wait_s: float = OPEN_WAIT_S,
        max_waiting: int = MAX_WAITING,
        idle_s: float = IDLE_S,
        give_back: Callable[[], None] = give_back_memory,
        give_back_s: float = GIVE_BACK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = known
        self._load = load
        self._held = held
        self._num_remembered = num_remembered
        self._wait_s = wait_s
        self._max_waiting = max_waiting
        self._idle_s = idle_s
        self._give_back = give_back
        self._give_back_s = give_back_s
        self._clock = clock
        self._looking = Lock()  # one at a time: a registry that hangs holds one thread, not all
        self._listed: tuple[float, tuple[ListedRelease, ...]] | None = None
        self._remembered: dict[int, _Remembered] = {}
        self._failed: dict[int, tuple[float, str]] = {}
        self._opening: asyncio.Future[None] | None = None
        self._num_waiting = 0
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def versions(self) -> tuple[int, ...]:
        """What is in memory beside the served release."""
        return tuple(self._remembered)

    async def listed(self) -> tuple[ListedRelease, ...]:
        """The releases that exist, newest first, as of at most `LIST_AGE_S` ago.

        Raises EnclipError, or HTTPException (503) where the registry keeps others waiting.
        """
        try:
            with fail_after(self._wait_s):
                await self._looking.acquire()
        except TimeoutError:
            raise HTTPException(503, "The registry does not answer.", headers={"Retry-After": "5"}) from None
        try:
            if self._listed is None or self._clock() - self._listed[0] > LIST_AGE_S:
                self._listed = (self._clock(), tuple(await to_thread.run_sync(self._known)))
            return self._listed[1]
        finally:
            self._looking.release()

    async def resolve(self, name: str) -> int:
        """The version that a version or an alias names. Raises HTTPException (404) naming what exists."""
        listed = await self.listed()
        for release in listed:
            if name == str(release.version) or name in release.aliases:
                return release.version
        aliases = ", ".join(sorted(alias for release in listed for alias in release.aliases))
        named = f"its aliases are {aliases}" if aliases else "no alias is set"
        newest = f"the newest is {listed[0].version}, {named}" if listed else "there is none yet"
        raise HTTPException(404, f"No release is called {name!r}: {newest}.")

    async def served(self, name: str, *, beside: Served) -> Served:
        """What answers for a release, opened if it must be; less what is withdrawn now.

        Args:
            name: a version or an alias.
            beside: what is served.

        Raises:
            HTTPException: there is no such release (404), it cannot be opened (409), is not open yet (503), or too many
                wait for one (429).
        """
        version = await self.resolve(name)
        for held in (beside, self._held()):
            if held is not None and held.version == version:
                if self._remembered.pop(version, None):  # promoted since it was opened
                    self._give_back_later()
                return held if held is beside else replace(held, withdrawn=beside.withdrawn)
        found = await self._opened(version)
        return Served(found.release, beside.withdrawn, found.since)

    async def _opened(self, version: int) -> _Remembered:
        until = self._clock() + self._wait_s
        while version not in self._remembered:
            self._refuse_broken(version)
            if self._num_waiting >= self._max_waiting:
                raise HTTPException(429, "Too many wait for a release to be opened.", headers={"Retry-After": "5"})
            opening = self._opening or self._start(version)
            self._num_waiting += 1
            try:
                # Opening goes on though this request is given up: the next one finds it open.
                await asyncio.wait([opening], timeout=max(0.0, until - self._clock()))
            finally:
                self._num_waiting -= 1
            if not opening.done():
                raise HTTPException(503, f"Release {version} is still being opened.", headers={"Retry-After": "5"})
        found = self._remembered.pop(version)
        self._remembered[version] = found  # last is the one used last
        found.used_at = self._clock()
        self._sweep_later()
        return found

    def _refuse_broken(self, version: int) -> None:
        retry_at, reason = self._failed.get(version, (0.0, ""))
        if self._clock() < retry_at:
            raise HTTPException(409, f"Release {version} cannot be opened: {reason}")

    def _start(self, version: int) -> "asyncio.Future[None]":
        """Open a version in a thread, in the place of the one that was used longest ago."""
        while len(self._remembered) >= self._num_remembered:
            del self._remembered[next(iter(self._remembered))]
        loop = asyncio.get_running_loop()
        self._opening = loop.create_future()

        def open_it() -> None:
            found = self._open(version)
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._finish, version, found)

        # A daemon: a load that hangs on a dead store must not keep the process from ending.
        threading.Thread(target=open_it, name=f"enclip-open-{version}", daemon=True).start()
        return self._opening

    def _open(self, version: int) -> OpenRelease | str:
        """The release, or what is wrong with it."""
        try:
            release = self._load(version)
            # The first search pays for lazy initialisation, and proves that the release answers at all.
            release.search(text="a product", image=None, weights=None, filters=None, k=1, withdrawn=frozenset())
        except Exception as error:
            known = isinstance(error, EnclipError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            logger.error("Release %d cannot be compared: %s", version, reason, exc_info=None if known else error)
            return reason
        return release

    def _finish(self, version: int, found: OpenRelease | str) -> None:
        if isinstance(found, str):
            self._failed[version] = (self._clock() + RETRY_S, found)
        else:
            self._failed.pop(version, None)
            self._remembered[version] = _Remembered(found, datetime.now(UTC), self._clock())
            logger.info("Release %d can be compared.", version)
            self._sweep_later()
        assert self._opening is not None
        self._opening.set_result(None)
        self._opening = None
        self._give_back_later()  # of what had to make room, and of what opening took

    def _sweep_later(self) -> None:
        if self._sweep is None and self._remembered:
            oldest = min(found.used_at for found in self._remembered.values())
            wait_s = max(0.0, oldest + self._idle_s - self._clock())
            self._sweep = asyncio.get_running_loop().call_later(wait_s, self._forget_idle)

    def _forget_idle(self) -> None:
        self._sweep = None
        now = self._clock()
        idle = [version for version, found in self._remembered.items() if now - found.used_at >= self._idle_s]
        for version in idle:
            del self._remembered[version]
            logger.info("Release %d is not compared any more.", version)
        if idle:
            self._give_back_later()
        self._sweep_later()

    def _give_back_later(self) -> None:
        timer = threading.Timer(self._give_back_s, self._give_back)
        timer.daemon = True
        timer.start()


def _figure(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
