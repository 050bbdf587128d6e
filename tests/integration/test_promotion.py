"""Moving the alias: on a real registry and database, with processes that die at every statement."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from enclip import ledger
from enclip.database import open_database
from enclip.errors import PromotionConflict, RegistryError
from enclip.ledger import Promotion
from enclip.pipeline.promote import (
    FORSAKEN,
    previous_release,
    promote,
    promote_by_hand,
    reconcile,
    rollback,
    set_challenger,
)
from enclip.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from enclip.release import Manifest
from tests.children import CHILDREN, in_child

MakeRelease = Callable[..., tuple[str, Manifest]]


@dataclass(frozen=True)
class Place:
    """A platform as far as a promotion needs one."""

    database: Engine
    registry: Registry

    def done(self) -> list[tuple[str, int | None, int | None]]:
        return [(move.action, move.from_release, move.to_release) for move in ledger.history(self.database)]


def open_place(home: Path, database_url: str = "") -> Place:
    registry = Registry(f"sqlite:///{home}/mlflow.db", home / "art", home / "cache")
    return Place(open_database(database_url or f"sqlite:///{home}/catalog.db"), registry)


# Versions of the template: the letter is the ensemble.
A, A_REFRESHED, B, B_REFRESHED, C = 1, 2, 3, 4, 5


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, make_release: MakeRelease) -> Path:
    """A home with five releases and no champion. (A new MLflow database takes seconds, a copy does not.)"""
    home = tmp_path_factory.mktemp("template")
    place = open_place(home)
    for version, ensemble in ((A, "A"), (A_REFRESHED, "A"), (B, "B"), (B_REFRESHED, "B"), (C, "C")):
        folder = home / f"release-{version}"
        run, manifest = make_release(
            folder, place.registry, run_id=f"run-{version}", ensemble=ensemble, products=version
        )
        assert place.registry.log_release(run, folder, manifest) == version
    place.registry.report_release(A, tags={"map_at_10": "0.31"})
    place.registry.report_release(B, tags={"map_at_10": "0.42"})
    place.database.dispose()
    return home


def copy_of(home: Path, target: Path) -> Path:
    """Databases are copied; MLflow's artifacts stay where they are."""
    return Path(shutil.copytree(home, target, ignore=shutil.ignore_patterns("art", "release-*")))


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Iterator[Place]:
    place = open_place(copy_of(template, tmp_path / "home"))
    yield place
    place.database.dispose()


@pytest.fixture
def place_on_postgres(template: Path, tmp_path: Path, postgres_url: str) -> Iterator[Place]:
    place = open_place(copy_of(template, tmp_path / "home"), postgres_url)
    yield place
    place.database.dispose()


def move(place: Place, release: int, *, expected: int | None) -> Promotion:
    return promote(place, release, expected_champion=expected, by="test", reason="It is better.")


def test_promotions_are_accounted_for_and_previous_has_another_ensemble(place: Place) -> None:
    assert previous_release(place) is None

    assert move(place, A, expected=None).map_at_10 == 0.31
    assert place.registry.aliases() == {CHAMPION: A}
    move(place, A_REFRESHED, expected=A)
    assert place.registry.aliases() == {CHAMPION: A_REFRESHED}
    promotion = move(place, B, expected=A_REFRESHED)
    assert place.registry.aliases() == {CHAMPION: B, PREVIOUS: A_REFRESHED}
    assert (promotion.by, promotion.reason, promotion.from_release) == ("test", "It is better.", A_REFRESHED)
    assert place.done() == [
        ("promote", None, A),
        ("promote", A, A_REFRESHED),
        ("promote", A_REFRESHED, B),
    ]
    assert ledger.best_promoted_since(place.database, days=365) == B


def test_promoting_the_champion_again_changes_nothing(place: Place) -> None:
    done = move(place, A, expected=None)
    assert move(place, A, expected=None) == done
    assert move(place, A, expected=A) == done
    assert len(place.done()) == 1


def test_a_challenger_that_was_measured_against_another_champion_is_a_conflict(place: Place) -> None:
    move(place, A, expected=None)
    move(place, B, expected=A)
    with pytest.raises(PromotionConflict, match=f"champion now is release {B}"):
        move(place, C, expected=A)
    with pytest.raises(PromotionConflict, match="against no champion"):
        move(place, C, expected=None)
    assert place.registry.alias(CHAMPION) == B
    assert len(place.done()) == 2
    with place.database.connect() as connection:
        assert ledger.moves(connection, state="pending") == []
        assert [dropped.to_release for dropped in ledger.moves(connection, state="dropped")] == [C, C]


def test_a_release_that_does_not_exist_is_not_promoted(place: Place) -> None:
    with pytest.raises(RegistryError, match="no release 7"):
        move(place, 7, expected=None)
    assert place.registry.aliases() == {}


def test_a_challenger_is_named_until_it_is_champion(place: Place) -> None:
    move(place, A, expected=None)
    set_challenger(place, B)
    assert place.registry.alias(CHALLENGER) == B
    set_challenger(place, A)  # it is champion already
    assert place.registry.alias(CHALLENGER) == B
    move(place, B, expected=A)
    assert place.registry.aliases() == {CHAMPION: B, PREVIOUS: A}


def test_rollback_goes_to_the_last_other_ensemble_or_where_it_is_told(place: Place) -> None:
    with pytest.raises(RegistryError, match="rollback --to"):
        rollback(place)
    move(place, A, expected=None)
    with pytest.raises(RegistryError, match="another ensemble"):
        rollback(place)
    move(place, B, expected=A)
    move(place, B_REFRESHED, expected=B)
    back = rollback(place, by="ann", reason="Too many shoes.")
    assert (back.action, back.from_release, back.to_release, back.by) == ("rollback", B_REFRESHED, A, "ann")
    assert place.registry.aliases() == {CHAMPION: A, PREVIOUS: B_REFRESHED}
    assert rollback(place, to="previous").to_release == B_REFRESHED
    assert rollback(place, to=A).to_release == A
    assert promote_by_hand(place, str(B), reason="").to_release == B


def test_a_move_made_in_mlflow_is_entered_as_external(place: Place) -> None:
    move(place, A, expected=None)
    place.registry.set_alias(CHAMPION, B)
    with pytest.raises(PromotionConflict, match=f"release {B}"):
        move(place, C, expected=A)
    assert place.done()[-1] == ("external", A, B)
    assert place.registry.alias(PREVIOUS) == A
    assert reconcile(place) is None

    place.registry.drop_alias(CHAMPION)
    entered = reconcile(place)
    assert entered is not None
    assert (entered.action, entered.to_release) == ("external", None)
    assert place.registry.aliases() == {}
    move(place, C, expected=None)
    assert place.registry.aliases() == {CHAMPION: C, PREVIOUS: B}


def test_previous_skips_a_release_that_was_deleted(place: Place) -> None:
    for release, before in ((A, None), (B, A), (C, B)):
        move(place, release, expected=before)
    place.registry._connection.client.delete_model_version("enclip", str(B))
    assert previous_release(place) == A
    assert rollback(place).to_release == A


def test_an_intention_whose_process_died_long_ago_is_dropped(place: Place) -> None:
    facts = {"by": "", "reason": "", "ensemble_key": "a", "map_at_10": None}
    ledger.intend(place.database, action="promote", to_release=A, expected_champion=None, **facts)
    reconcile(place)
    with place.database.begin() as connection:
        assert len(ledger.moves(connection, state="pending")) == 1  # it may be waiting for the lock
        long_ago = ledger.moves(connection, state="pending")[0].at - FORSAKEN - timedelta(minutes=1)
        connection.execute(text("UPDATE promotions SET at = :at"), {"at": long_ago})
    reconcile(place)
    with place.database.connect() as connection:
        assert ledger.moves(connection, state="pending") == []


class Dying:
    """Kills this process at the n-th statement or registry write, before or after it takes effect."""

    def __init__(self, at: int) -> None:
        self._left = at

    def step(self, *_: Any) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            self.step()
            result = call(*args)
            self.step()
            return result

        return wrapped


def act_and_die(home: Path, act: str, release: int, expected: int | None, at: int) -> None:
    place = open_place(home)
    dying = Dying(at)
    for moment in ("before_cursor_execute", "commit"):
        event.listen(place.database, moment, dying.step)
    for name in ("set_alias", "drop_alias"):
        setattr(place.registry, name, dying.around(getattr(place.registry, name)))
    if act == "promote":
        move(place, release, expected=expected)
    else:
        rollback(place)


@pytest.mark.parametrize("act", ["promote", "rollback"])
def test_a_move_survives_death_at_every_statement(place: Place, tmp_path: Path, act: str) -> None:
    move(place, A, expected=None)
    if act == "rollback":
        move(place, B, expected=A)
    before, after = (A, B) if act == "promote" else (B, A)
    place.database.dispose()
    for engine_file in ("catalog.db-wal", "catalog.db-shm"):
        assert not (tmp_path / "home" / engine_file).exists()

    outcomes: set[int | None] = set()
    at = 0
    while True:
        at += 1
        home = tmp_path / f"home-{at}"
        copy_of(tmp_path / "home", home)
        exitcode = in_child(act_and_die, home, act, after, before, at)
        assert exitcode in (0, -signal.SIGKILL)
        survivor = open_place(home)
        champion = survivor.registry.alias(CHAMPION)
        outcomes.add(champion)
        assert champion in (before, after)
        if at % 2:
            reconcile(survivor)
            made = survivor.done()
            assert made[-1][2] == champion
            assert "external" not in {action for action, _, _ in made}
            assert survivor.registry.alias(PREVIOUS) == previous_release(survivor)

        # The same command again: the move is made once, and the ledger knows who wanted it.
        if act == "promote":
            move(survivor, after, expected=before)
        elif (act, before, after) not in survivor.done():
            rollback(survivor)
        assert survivor.registry.alias(CHAMPION) == after
        assert survivor.registry.alias(PREVIOUS) == before
        made = survivor.done()
        assert made.count((act, before, after)) == 1
        assert len(made) == len(set(made))
        assert ledger.history(survivor.database)[-1].by == ("test" if act == "promote" else "a person")
        survivor.database.dispose()
        shutil.rmtree(home)
        if exitcode == 0:
            break
    assert outcomes == {before, after}
    assert at > 15


def test_a_rollback_that_died_is_finished_not_repeated(place: Place, tmp_path: Path) -> None:
    move(place, A, expected=None)
    move(place, B, expected=A)

    def die_after_the_alias(name: str, version: int) -> None:
        Registry.set_alias(place.registry, name, version)
        raise KeyboardInterrupt

    place.registry.set_alias = die_after_the_alias  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        rollback(place)
    del place.registry.set_alias  # type: ignore[method-assign]
    assert place.registry.alias(CHAMPION) == A
    assert rollback(place).to_release == A
    assert place.registry.alias(CHAMPION) == A


def race(home: Path, database_url: str, release: int, expected: int, start: Any, answers: Any) -> None:
    place = open_place(home, database_url)
    start.wait()
    try:
        answers.put(("moved", move(place, release, expected=expected).to_release))
    except PromotionConflict:
        answers.put(("conflict", release))


@pytest.mark.parametrize("which", ["place", "place_on_postgres"])
def test_of_two_challengers_at_once_one_wins_and_one_is_told(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place: Place = request.getfixturevalue(which)
    url = place.database.url.render_as_string(hide_password=False)
    move(place, A, expected=None)
    start, answers = CHILDREN.Barrier(2), CHILDREN.Queue()
    running = [
        CHILDREN.Process(target=race, args=(tmp_path / "home", url, release, A, start, answers)) for release in (B, C)
    ]
    for process in running:
        process.start()
    got = dict(answers.get(timeout=60) for _ in running)
    for process in running:
        process.join(60)
    assert set(got) == {"moved", "conflict"}
    assert place.registry.alias(CHAMPION) == got["moved"]
    assert place.done() == [("promote", None, A), ("promote", A, got["moved"])]


def test_on_postgres_a_move_survives_the_death_of_its_process(place_on_postgres: Place, tmp_path: Path) -> None:
    """Death right after the alias has moved, the one moment at which ledger and alias differ."""
    place = place_on_postgres
    url = place.database.url.render_as_string(hide_password=False)
    move(place, A, expected=None)
    assert in_child(move_and_die, tmp_path / "home", url, B, A) == -signal.SIGKILL
    assert place.registry.alias(CHAMPION) == B
    assert place.done() == [("promote", None, A)]
    assert move(place, B, expected=A).by == "test"
    assert place.done() == [("promote", None, A), ("promote", A, B)]
    assert rollback(place).to_release == A
    ledger.start_attempt(place.database, run_id="run", snapshot="one")
    ledger.start_attempt(place.database, run_id="run", snapshot="two")
    last = ledger.last_attempt(place.database)
    assert last is not None
    assert last.snapshot == "two"


def move_and_die(home: Path, database_url: str, release: int, expected: int) -> None:
    place = open_place(home, database_url)

    def die(name: str, version: int) -> None:
        Registry.set_alias(place.registry, name, version)
        os.kill(os.getpid(), signal.SIGKILL)

    place.registry.set_alias = die  # type: ignore[method-assign]
    move(place, release, expected=expected)
