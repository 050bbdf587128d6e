"""What shadow queries showed is added up, on both databases."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from enclip.database import open_database
from enclip.records import ShadowTotals
from enclip.shadow import add_shadow, shadow_totals

SEEN = ShadowTotals(num_compared=4, num_failed=1, overlap=3.0, champion_s=0.2, challenger_s=0.3)


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    is_sqlite = request.param == "sqlite"
    opened = open_database(f"sqlite:///{tmp_path}/catalog.db" if is_sqlite else request.getfixturevalue("postgres_url"))
    yield opened
    opened.dispose()


def test_nothing_was_seen_of_two_that_never_met(engine: Engine) -> None:
    add_shadow(engine, champion=1, challenger=3, more=SEEN)
    nothing = shadow_totals(engine, champion=1, challenger=2)
    assert (nothing, nothing.mean_overlap, nothing.latency_ratio) == (ShadowTotals(), None, None)


def test_what_replicas_see_at_once_adds_up(engine: Engine) -> None:
    def replica() -> None:
        for _ in range(10):
            add_shadow(engine, champion=1, challenger=2, more=SEEN)

    threads = [threading.Thread(target=replica) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = shadow_totals(engine, champion=1, challenger=2)
    assert (total.num_compared, total.num_failed) == (160, 40)
    assert total.mean_overlap == pytest.approx(3 / 5)
    assert total.latency_ratio == pytest.approx(1.5)
    assert shadow_totals(engine, champion=2, challenger=1) == ShadowTotals()
