"""What only separate processes on a real Postgres can show; the store's own tests run on it as well."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from enclip.blobs import FileBlobs
from enclip.catalog.ingest import ingest
from enclip.catalog.lock import ingest_lock
from enclip.catalog.read import open_source
from enclip.catalog.store import CatalogStore
from enclip.database import POSTGRES_PATIENCE, open_database

INGEST = """
import sys
from pathlib import Path
from enclip.blobs import FileBlobs
from enclip.catalog.ingest import ingest
from enclip.catalog.read import open_source
from enclip.catalog.store import CatalogStore
from enclip.database import open_database
url, folder, store = sys.argv[1:]
report = ingest(open_source(folder), CatalogStore(open_database(url)), FileBlobs(Path(store)))
print(report.accepted, report.unchanged)
"""
HOLD = """
import sys, time
from enclip.catalog.lock import ingest_lock
from enclip.database import open_database
with ingest_lock(open_database(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_processes_that_start_at_once_migrate_once_and_take_each_product_in_once(
    postgres_url: str, drawn_catalog: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", INGEST, postgres_url, str(drawn_catalog), str(tmp_path / "store")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = sorted(tuple(map(int, process.communicate(timeout=120)[0].split())) for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert counts == [(0, 120), (120, 0)]
    store = CatalogStore(open_database(postgres_url))
    assert len(store.products()) == 120
    store.engine.dispose()


def test_a_killed_ingest_lets_go_of_the_catalog(postgres_url: str) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, postgres_url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    engine = open_database(postgres_url)
    start = time.monotonic()
    with ingest_lock(engine, wait_s=20):
        assert time.monotonic() - start < 20
    engine.dispose()


def test_the_same_catalog_has_the_same_digest_on_sqlite_and_postgres(
    postgres_url: str, drawn_catalog: Path, tmp_path: Path
) -> None:
    digests = set()
    for url in (postgres_url, f"sqlite:///{tmp_path / 'catalog.db'}"):
        store = CatalogStore(open_database(url))
        ingest(open_source(str(drawn_catalog)), store, FileBlobs(tmp_path / "store"))
        digests.add(store.state_digest())
        store.engine.dispose()
    assert len(digests) == 1


def test_a_server_that_vanishes_is_given_up_as_the_url_says_or_by_defaults(postgres_url: str) -> None:
    with open_database(f"{postgres_url}?tcp_user_timeout=5000").connect() as connection:
        asked = connection.connection.dbapi_connection.info.dsn_parameters
    assert asked["tcp_user_timeout"] == "5000"
    assert {name: int(asked[name]) for name in ("connect_timeout", "keepalives_idle")} == {
        name: POSTGRES_PATIENCE[name] for name in ("connect_timeout", "keepalives_idle")
    }
