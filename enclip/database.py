"""The database: one engine, one metadata, migrated on first use.

SQLite by default, Postgres by URL. The tables live where they are used: products in
`enclip.catalog.store`, promotions and training attempts in `enclip.ledger`, judgements in
`enclip.judgements`.
"""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, MetaData, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase

from enclip.errors import ConfigError, StoreError, first_line

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
SQLITE_BUSY_TIMEOUT_S = 30
# Any fixed number: names ENCLIP's migration among the advisory locks of a shared Postgres.
MIGRATION_LOCK = 241116096
READS_ONLY = "enclip_reads_only"
# A server that vanished without a word is given up after these, not after the system's hours (libpq's parameters).
POSTGRES_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
}
# What to try, by the beginning of SQLite's name for the error; what is not here is no fault of the outside.
SQLITE_REMEDIES = {
    "SQLITE_BUSY": "Wait for the process that writes to it, or end it, and run again.",
    "SQLITE_FULL": "Free space on its disk, and run again.",
    "SQLITE_IOERR": "Check its disk, free space on it, and run again.",
    "SQLITE_READONLY": "Make it and its folder writable, and run again.",
    "SQLITE_CANTOPEN": "Make it and its folder readable and writable, and run again.",
    "SQLITE_CORRUPT": "Restore it from a backup.",
    "SQLITE_NOTADB": "Restore it from a backup.",
}


class Base(DeclarativeBase):
    """Declarative base of every table of ENCLIP."""

    metadata = MetaData(naming_convention=NAMING)


def open_database(url: str) -> Engine:
    """An engine on a database that exists and is migrated to this version's schema.

    SQLite runs in WAL mode with foreign keys on, and every transaction that may write begins IMMEDIATE,
    so that two writers queue instead of failing half-way: for 30 s, or `?timeout=S` in the URL. Whatever
    befalls the database later, a server that went away or a disk that is full, is a StoreError.

    Raises:
        ConfigError: the URL is not understood or the database does not answer.
        StoreError: the SQLite file is locked, damaged or cannot be written.
    """
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        raise ConfigError(
            "The database's URL is not one.",  # which may hold a password in any place
            remedy="Set ENCLIP_DATABASE_URL to postgresql+psycopg2://USER:PASSWORD@HOST:PORT/NAME, or to none.",
        ) from error
    try:
        if parsed.get_backend_name() == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise ConfigError(f"Database {url!r} would be lost on exit.", remedy="Name a file.")
            path = Path(parsed.database)
            path.parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(
                parsed.update_query_dict({"timeout": str(SQLITE_BUSY_TIMEOUT_S)} | dict(parsed.query))
            )
            _prepare_sqlite(engine)
            event.listen(engine, "handle_error", _explained)
            with open(f"{path}.migrate", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                _migrate(engine)
        else:
            asked = {name: value for name, value in POSTGRES_PATIENCE.items() if name not in parsed.query}
            engine = create_engine(parsed, pool_pre_ping=True, connect_args=asked)
            with engine.connect() as guard:
                guard.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
                try:
                    _migrate(engine)
                finally:
                    guard.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
            event.listen(engine, "handle_error", _explained)
    except (SQLAlchemyError, OSError) as error:
        raise ConfigError(
            f"Database {parsed.render_as_string(hide_password=True)} cannot be used: {first_line(error)}.",
            remedy="Check ENCLIP_DATABASE_URL and that the server runs.",
        ) from error
    return engine


@contextmanager
def read_only(engine: Engine) -> Iterator[Connection]:
    """A connection whose transaction is always rolled back, and that no writer waits for."""
    with engine.connect().execution_options(**{READS_ONLY: True}) as connection:
        yield connection
        connection.rollback()


def put(
    engine: Engine,
    table: type[Base],
    key: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    over: Mapping[str, Any] | None = None,
) -> None:
    """Write a row, in one statement; one of the same key takes the values, or what `over` says in their place."""
    insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
    changed = dict(values if over is None else over)
    row = insert(table).values(**key, **values).on_conflict_do_update(index_elements=list(key), set_=changed)
    with engine.begin() as connection:
        connection.execute(row)


def in_utc(moment: datetime) -> datetime:
    """A moment as it was stored: in UTC, which SQLite forgets."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection, _record) -> None:  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # we emit BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        reads_only = connection.get_execution_options().get(READS_ONLY, False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def _explained(context: ExceptionContext) -> StoreError | None:
    """What the outside did to the database, in our words; None for what is ours to mend, and for a ping."""
    error, origin = context.sqlalchemy_exception, context.original_exception
    if context.is_pre_ping or context.engine is None or not isinstance(error, DatabaseError | InterfaceError):
        return None
    name = getattr(origin, "sqlite_errorname", "")
    if context.engine.dialect.name == "sqlite":
        remedy = next((remedy for start, remedy in SQLITE_REMEDIES.items() if name.startswith(start)), "")
    else:
        gone = context.is_disconnect or isinstance(error, OperationalError | InterfaceError)
        remedy = "Check that its server runs and has room, and run again." if gone else ""
    if not remedy:
        return None
    shown = context.engine.url.set(query={}).render_as_string(hide_password=True)
    return StoreError(f"Database {shown} cannot be used: {first_line(origin)}.", remedy=remedy)


def _migrate(engine: Engine) -> None:
    # Alembic is slow to import, and most calls find the schema in place.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with read_only(engine) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == ScriptDirectory.from_config(config).get_current_head():
        return
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
