"""What was searched for and found, one JSON line a search: for judging, and for learning what people want.

Kept only where an operator asks for it. A line has neither pictures nor keys nor addresses of clients.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from queue import Queue
from time import monotonic
from typing import Any, TypeVar

from enclip.errors import ConfigError
from enclip.serving.logs import request_id
from enclip.serving.schemas import SearchAnswer, SearchRequest

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_FILES = 8
MAX_QUEUED = 10_000  # lines of some hundred bytes
NUM_IDS = 10
STOP_S = 5.0
SILENCE_S = 60.0

AnswerT = TypeVar("AnswerT", bound=SearchAnswer)


@dataclass
class Note:
    """One search of a request, filled in as it is answered."""

    release: int
    search: dict[str, Any]
    took_ms: float | None = None
    product_ids: tuple[str, ...] = ()

    def line(self) -> dict[str, Any]:
        """Its fields in the log."""
        return {
            "release": self.release,
            **self.search,
            "product_ids": self.product_ids,
            "took_ms": self.took_ms,
        }

    def answered(self, answer: AnswerT) -> AnswerT:
        """The answer, which the note has now too."""
        self.took_ms = answer.took_ms
        self.product_ids = tuple(hit.product_id for hit in answer.results[:NUM_IDS])
        return answer


_notes: ContextVar[list[Note] | None] = ContextVar("notes", default=None)  # None: no log is kept


def noted(release: int, request: SearchRequest) -> Note:
    """A note of a search that begins, for the log of the request that it is part of."""
    notes = _notes.get()
    if notes is None:
        return Note(release, {})
    search = request.model_dump(exclude={"image", "product_id"}) | {"image": request.image is not None}
    note = Note(release, search)
    notes.append(note)
    return note


class QueryLog:
    """A file of JSON lines; at 64 MB it becomes `NAME.1`, and so on up to `NAME.8`, then the oldest go.

    A thread writes it, so that no search waits for a disk. A line that cannot be written is counted and gone; the
    service's log says so, once a minute at most.

    Args:
        path: the file; made if need be, readable by its owner alone.
        max_bytes: of one file.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        try:
            self._file = _File(path, max_bytes=max_bytes, tell=self._tell)
        except OSError as error:
            raise ConfigError(
                f"ENCLIP_QUERY_LOG {path} cannot be written: {error.strerror}.",
                remedy="Name a file in a folder that exists and that you can write to.",
            ) from error
        queue: Queue[logging.LogRecord] = Queue(MAX_QUEUED)
        self._queued = _Queued(queue, tell=self._tell)
        self._listener = _Listener(queue, self._file)
        self._count: Callable[[str], None] = lambda _outcome: None
        self._silent_until = 0.0  # on the monotonic clock

    def start(self, count: Callable[[str], None]) -> None:
        """Write from a thread of its own; `count` gets "written" or "lost" for each line."""
        self._count = count
        self._listener.start()

    def stop(self, *, timeout_s: float = STOP_S) -> None:
        """Write what waits, and close the file; a disk that hangs is waited for no longer than `timeout_s`."""
        ending = threading.Thread(target=self._end, daemon=True)
        ending.start()
        ending.join(timeout_s)

    @staticmethod
    def begin() -> list[Note]:
        """Where the notes of the request that begins here are collected."""
        notes: list[Note] = []
        _notes.set(notes)
        return notes

    def write(self, notes: list[Note], *, route: str, status: int) -> None:
        """A line for each search of the request that ends here."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        for note in notes:
            about = {"time": time, "request_id": request_id.get(), "route": route, "status": status}
            self._queued.emit(logging.makeLogRecord({"msg": json.dumps(about | note.line())}))

    def _end(self) -> None:
        self._listener.stop()
        self._file.close()

    def _tell(self, error: BaseException | None) -> None:
        self._count("lost" if error else "written")
        if error and monotonic() >= self._silent_until:
            self._silent_until = monotonic() + SILENCE_S
            reason = (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
            logger.error("The query log cannot be written: %s. Searches go on, their lines are lost.", reason)


class _Queued(QueueHandler):
    """Puts lines into the queue; tells of those that find it full."""

    def __init__(self, queue: "Queue[logging.LogRecord]", *, tell: Callable[[BaseException | None], None]) -> None:
        super().__init__(queue)
        self._tell = tell

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        self._tell(sys.exc_info()[1])


class _Listener(QueueListener):
    """Ends when all that is queued is written, if the queue is full too."""

    def enqueue_sentinel(self) -> None:
        self.queue.put(None)  # type: ignore[attr-defined]  # it is a Queue


class _File(RotatingFileHandler):
    """Tells of each line whether it is written, and opens the file anew after one that is not."""

    def __init__(self, path: Path, *, max_bytes: int, tell: Callable[[BaseException | None], None]) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=MAX_FILES, encoding="utf-8")
        self._tell = tell
        self._error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self._error = None
        super().emit(record)
        self._tell(self._error)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        self._error = sys.exc_info()[1]
        broken, self.stream = self.stream, None  # as `close` leaves it
        with suppress(OSError):
            if broken:
                broken.close()

    def _open(self) -> TextIOWrapper:
        # What people search for is theirs and the operator's.
        opened = open(self.baseFilename, self.mode, encoding=self.encoding, opener=_for_its_owner)  # noqa: SIM115
        assert isinstance(opened, TextIOWrapper)
        return opened


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
