"""One writer of the catalog at a time, so that two ingests cannot place the same newcomers differently."""

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from enclip.errors import CatalogBusy, StoreError

logger = logging.getLogger(__name__)
# Any fixed number: names ENCLIP's ingest among the advisory locks of a shared Postgres.
INGEST_LOCK = 241116097
POLL_S = 0.2
LONGEST_WAIT_S = 600.0


@contextmanager
def ingest_lock(engine: Engine, *, wait_s: float = LONGEST_WAIT_S) -> Iterator[None]:
    """Hold the catalog's ingest lock. It ends with the process or connection that holds it.

    Postgres: an advisory lock; SQLite, where everyone is on this machine: a lock on a file beside the database.

    Raises:
        CatalogBusy: another ingest held it for `wait_s` seconds.
        StoreError: it was lost to a restart of the database.
    """
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            key = {"key": INGEST_LOCK}
            # Each attempt ends its transaction: the lock belongs to the connection, not to it.
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            _wait(lambda: bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), key)), wait_s)
            try:
                yield
            finally:
                was_held = _let_go(connection)
            if not was_held:
                raise StoreError(
                    "The database went away during the ingest; another one may have run beside it since.",
                    remedy="Run it again: what came in stays in.",
                )
        return
    with open(Path(f"{engine.url.database}.ingest"), "a") as file:
        _wait(lambda: _lock_file(file.fileno()), wait_s)
        yield


def _let_go(connection: Connection) -> bool:
    """Give the lock back; whether it was still ours."""
    try:
        return bool(connection.scalar(text("SELECT pg_advisory_unlock(:key)"), {"key": INGEST_LOCK}))
    except StoreError:
        return False


def _lock_file(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(attempt: Callable[[], bool], wait_s: float) -> None:
    end = time.monotonic() + wait_s
    told = False
    while not attempt():
        if time.monotonic() >= end:
            raise CatalogBusy(
                f"Another ingest has held the catalog for {wait_s:g} s.", remedy="Wait for it to end, and run again."
            )
        if not told:
            logger.info("Waiting for another ingest to end")
            told = True
        time.sleep(POLL_S)
