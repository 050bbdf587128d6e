"""The ledger on a real SQLite file. (On Postgres: tests/integration/test_promotion.py.)"""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from enclip import ledger
from enclip.database import open_database


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(f"sqlite:///{tmp_path}/catalog.db")


def move(engine: Engine, release: int | None, ensemble: str, *, map_at_10: float | None = None) -> None:
    with ledger.locked(engine, "champion") as connection:
        made = ledger.moves(connection)
        ledger.enter(
            connection,
            action="promote",
            state="done",
            from_release=made[-1].to_release if made else None,
            to_release=release,
            expected_champion=None,
            by="test",
            reason="",
            ensemble_key=ensemble,
            map_at_10=map_at_10,
        )


def test_an_intention_is_no_history_until_it_is_done(engine: Engine) -> None:
    intention = ledger.intend(
        engine,
        action="promote",
        to_release=2,
        expected_champion=1,
        by="ann",
        reason="better",
        ensemble_key="b",
        map_at_10=0.4,
    )
    assert ledger.history(engine) == []
    with ledger.locked(engine, "champion") as connection:
        assert [move.id for move in ledger.moves(connection, state="pending")] == [intention]
        ledger.finish(connection, intention, from_release=1)
        ledger.drop_pending(connection, intention)  # what is done stays done
    (done,) = ledger.history(engine)
    assert (done.from_release, done.to_release, done.by, done.reason) == (1, 2, "ann", "better")
    assert done.at.tzinfo is not None
    assert "Release 2 promoted; before: release 1. better" in done.summary
    assert ledger.last_promotion_to(engine, 2) == done
    assert ledger.last_promotion_to(engine, 1) is None


def test_history_is_the_order_in_which_moves_were_made_not_meant(engine: Engine) -> None:
    facts = {"by": "", "reason": "", "ensemble_key": "a", "map_at_10": None, "expected_champion": None}
    slow = ledger.intend(engine, action="promote", to_release=1, **facts)
    quick = ledger.intend(engine, action="promote", to_release=2, **facts)
    with ledger.locked(engine, "champion") as connection:
        ledger.finish(connection, quick, from_release=None)
        ledger.finish(connection, slow, from_release=2)
    assert [move.to_release for move in ledger.history(engine)] == [2, 1]


def test_previous_is_the_last_champion_with_another_ensemble(engine: Engine) -> None:
    def previous() -> list[int]:
        return ledger.previous_of(ledger.history(engine))

    assert previous() == []
    move(engine, 1, "a")
    assert previous() == []
    move(engine, 2, "b")
    assert previous() == [1]
    move(engine, 3, "b")  # a refreshed index of the same ensemble
    assert previous() == [1]
    move(engine, 4, "c")
    assert previous() == [3, 2, 1]
    move(engine, 3, "b")  # rolled back
    assert previous() == [4, 1]
    move(engine, None, "")  # the alias was deleted
    assert previous() == []


def test_the_best_of_the_year_forgets_what_is_older(engine: Engine) -> None:
    assert ledger.best_promoted_since(engine, days=365) is None
    move(engine, 1, "a", map_at_10=0.9)
    move(engine, 2, "b", map_at_10=0.5)
    move(engine, 3, "c", map_at_10=0.6)
    move(engine, 4, "d", map_at_10=0.6)
    move(engine, 5, "e")
    with engine.begin() as connection:
        long_ago = datetime.now(UTC) - timedelta(days=400)
        connection.execute(text("UPDATE promotions SET at = :at WHERE to_release = 1"), {"at": long_ago})
    assert ledger.best_promoted_since(engine, days=365) == 4
    assert ledger.best_promoted_since(engine, days=500) == 1
    assert ledger.best_promoted_since(engine, days=365, among={1, 2, 3}) == 3
    assert ledger.best_promoted_since(engine, days=365, among=set()) is None
    assert ledger.unsurpassed_since(engine, days=500) == [1, 4]


def test_reading_does_not_wait_for_a_promotion_in_progress(engine: Engine) -> None:
    move(engine, 1, "a")
    with ledger.locked(engine, "champion"):
        assert [made.to_release for made in ledger.history(engine)] == [1]
        assert ledger.last_attempt(engine) is None


def test_the_last_attempt_counts_whatever_became_of_it(engine: Engine) -> None:
    assert ledger.last_attempt(engine) is None
    ledger.start_attempt(engine, run_id="a", snapshot="one")
    ledger.finish_attempt(engine, run_id="a", outcome="not promoted")
    ledger.start_attempt(engine, run_id="b", snapshot="two")
    last = ledger.last_attempt(engine)
    assert last is not None
    assert (last.run_id, last.snapshot, last.outcome, last.finished_at) == ("b", "two", "", None)
    ledger.start_attempt(engine, run_id="a", snapshot="one")  # its task was cleared
    last = ledger.last_attempt(engine)
    assert last is not None
    assert (last.run_id, last.outcome, last.finished_at) == ("a", "", None)


def test_the_lock_is_held_by_one_at_a_time(engine: Engine) -> None:
    inside: list[int] = []
    most: list[int] = []

    def hold(number: int) -> None:
        for _ in range(10):
            with ledger.locked(engine, "champion"):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 40
    assert max(most) == 1
