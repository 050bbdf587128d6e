"""Tells whoever builds indexes that the catalog has changed: in the background, and once for many changes."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from enclip.errors import EnclipError

logger = logging.getLogger(__name__)

SETTLE_S = 5.0  # changes seldom come alone
EVERY_S = 600.0  # each builds a whole release; a shop may change prices all day
FIRST_RETRY_S, LONGEST_RETRY_S = 5.0, 300.0


@dataclass(frozen=True, slots=True)
class RefreshState:
    """Where telling stands. `problem` is empty unless the last attempt failed; it is made again then."""

    waiting: bool = False
    problem: str = ""
    num_told: int = 0
    num_failed: int = 0


class Refresher:
    """Triggers a refresh of the index after changes, at most every `every_s` seconds, from a thread of its own.

    A refresh looks at the catalog itself, so one that comes after the last change finds them all, and a change whose
    trigger is lost with this process is found by the next one, or by the daily run.

    Args:
        trigger: starts a refresh, or sees that one waits to start; slow, and may raise. None: there is nobody to tell.
        settle_s: seconds from a first change to the trigger, for more changes to come.
        every_s: seconds between two triggers.
        first_retry_s: after a first failure; doubles with each further one.
        clock: any clock in seconds that does not go back.
    """

    def __init__(
        self,
        trigger: Callable[[], None] | None,
        *,
        settle_s: float = SETTLE_S,
        every_s: float = EVERY_S,
        first_retry_s: float = FIRST_RETRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trigger = trigger
        self._settle_s = settle_s
        self._every_s = every_s
        self._first_retry_s = first_retry_s
        self._clock = clock
        self._condition = threading.Condition()
        self._due_at: float | None = None  # None: nothing to tell
        self._next_at = float("-inf")  # before that the last trigger is too young
        self._failures = 0
        self._stopping = False
        self._state = RefreshState()
        self._thread: threading.Thread | None = None

    @property
    def is_told_by_itself(self) -> bool:
        """Whether there is somebody to tell."""
        return self._trigger is not None

    @property
    def state(self) -> RefreshState:
        """Where telling stands."""
        with self._condition:
            state = self._state
            return RefreshState(self._due_at is not None, state.problem, state.num_told, state.num_failed)

    def ask(self) -> None:
        """The catalog has changed. Returns at once and never raises."""
        if self._trigger is None:
            return
        with self._condition:
            if self._due_at is None:
                self._due_at = max(self._clock() + self._settle_s, self._next_at)
                self._condition.notify_all()

    def start(self) -> None:
        """Tell from a thread of its own."""
        if self._trigger is None or self._thread is not None:
            return
        self._stopping = False
        # A daemon: an Airflow that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._repeat, name="enclip-refresh", daemon=True)
        self._thread.start()

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """End the thread; what is waiting to be told is told now, if that takes no longer."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            self._thread = None

    def _repeat(self) -> None:
        while self._wait_until_due():
            self._tell()
            if self._stopping:
                return

    def _wait_until_due(self) -> bool:
        """True when it is time to tell; False when there is nothing to tell and the thread is to end."""
        with self._condition:
            while not self._stopping:
                left = None if self._due_at is None else self._due_at - self._clock()
                if left is not None and left <= 0:
                    break
                self._condition.wait(left)
            return self._due_at is not None

    def _tell(self) -> None:
        assert self._trigger is not None
        with self._condition:
            self._due_at = None  # before the trigger: a change that comes meanwhile may come too late for it
        try:
            self._trigger()
        except Exception as error:
            self._note_failure(error)
            return
        with self._condition:
            self._failures = 0
            self._next_at = self._clock() + self._every_s
            self._state = RefreshState(num_told=self._state.num_told + 1, num_failed=self._state.num_failed)

    def _note_failure(self, error: Exception) -> None:
        reason = str(error) if isinstance(error, EnclipError) else f"{type(error).__name__}: {error}"
        problem = f"refresh_index could not be started: {reason}"
        if problem != self._state.problem:
            logger.warning("%s", problem)
        with self._condition:
            self._due_at = self._clock() + min(self._first_retry_s * 2 ** min(self._failures, 16), LONGEST_RETRY_S)
            self._failures += 1
            self._state = RefreshState(
                problem=problem, num_told=self._state.num_told, num_failed=self._state.num_failed + 1
            )
