"""The database: one engine, one metadata, migrated on first use.

SQLite by default, Postgres by URL. The tables live where they are used: products in
`enclip.catalog.store`, promotions and training attempts in `enclip.ledger`.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase

from enclip.errors import ConfigError

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
SQLITE_BUSY_TIMEOUT_MS = 30_000
# Any fixed number: names ENCLIP's migration among the advisory locks of a shared Postgres.
MIGRATION_LOCK = 241116096
READS_ONLY = "enclip_reads_only"


class Base(DeclarativeBase):
    """Declarative base of every table of ENCLIP."""

    metadata = MetaData(naming_convention=NAMING)


def open_database(url: str) -> Engine:
    """An engine on a database that exists and is migrated to this version's schema.

    SQLite runs in WAL mode with foreign keys on, and every transaction that may write begins IMMEDIATE,
    so that two writers queue instead of failing half-way.

    Raises:
        ConfigError: the URL is not understood or the database does not answer.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise ConfigError(f"Database {url!r} would be lost on exit.", remedy="Name a file.")
            path = Path(parsed.database)
            path.parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(parsed, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_MS / 1000})
            _prepare_sqlite(engine)
            with open(f"{path}.migrate", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                _migrate(engine)
        else:
            engine = create_engine(parsed, pool_pre_ping=True)
            with engine.connect() as guard:
                guard.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
                try:
                    _migrate(engine)
                finally:
                    guard.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
    except (SQLAlchemyError, OSError) as error:
        shown = url if "@" not in url else make_url(url).render_as_string(hide_password=True)
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"Database {shown} cannot be used: {reason}.",
            remedy="Check ENCLIP_DATABASE_URL and that the server runs.",
        ) from error
    return engine


@contextmanager
def read_only(engine: Engine) -> Iterator[Connection]:
    """A connection whose transaction is always rolled back, and that no writer waits for."""
    with engine.connect().execution_options(**{READS_ONLY: True}) as connection:
        yield connection
        connection.rollback()


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection, _record) -> None:  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # we emit BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        reads_only = connection.get_execution_options().get(READS_ONLY, False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def _migrate(engine: Engine) -> None:
    # Alembic is slow to import, and most calls find the schema in place.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        connection.rollback()
    if current == ScriptDirectory.from_config(config).get_current_head():
        return
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
