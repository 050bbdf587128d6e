"""What happened to the alias `champion`, and which snapshots training was attempted on.

MLflow keeps no history of an alias and offers no compare-and-set; these tables and their lock do. The
alias is the truth, the ledger is its audit: a move made elsewhere is entered as `external`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    CheckConstraint,
    Connection,
    DateTime,
    Engine,
    Float,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, mapped_column

from enclip.database import Base, in_utc, put, read_only

Action = Literal["promote", "rollback", "external"]
State = Literal["pending", "done", "dropped"]
YEAR_DAYS = 365  # how long a champion stays a measure for later ones
_ACTIONS = "action IN ('promote', 'rollback', 'external')"
_STATES = "state IN ('pending', 'done', 'dropped')"


class PromotionRow(Base):
    """A move of the alias: intended (pending), made (done), or given up (dropped)."""

    __tablename__ = "promotions"
    __table_args__ = (
        CheckConstraint(_ACTIONS, name="action"),
        CheckConstraint(_STATES, name="state"),
        UniqueConstraint("sequence"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    # Order of the moves that were made, given under the lock; clocks of several machines may disagree.
    sequence: Mapped[int | None] = mapped_column(Integer)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    action: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    from_release: Mapped[int | None] = mapped_column(Integer)
    to_release: Mapped[int | None] = mapped_column(Integer)
    expected_champion: Mapped[int | None] = mapped_column(Integer)
    by: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
    ensemble_key: Mapped[str] = mapped_column(String(64))
    map_at_10: Mapped[float | None] = mapped_column(Float)


class AttemptRow(Base):
    """A training that was started; a run that is started again keeps its row."""

    __tablename__ = "attempts"
    __table_args__ = (Index(None, "started_at"),)

    run_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    snapshot: Mapped[str] = mapped_column(String(64))
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    outcome: Mapped[str] = mapped_column(String(64))


class LockRow(Base):
    """A name to lock on Postgres; SQLite locks the whole file."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)


class Promotion(BaseModel):
    """A move of the alias `champion`. `to_release` is None where the alias was taken away."""

    model_config = ConfigDict(frozen=True)

    id: int
    at: datetime
    action: Action
    state: State
    from_release: int | None
    to_release: int | None
    expected_champion: int | None
    by: str
    reason: str
    ensemble_key: str
    map_at_10: float | None

    @property
    def summary(self) -> str:
        """One sentence."""
        verb = {"promote": "promoted", "rollback": "rolled back to", "external": "set outside ENCLIP"}[self.action]
        before = "no champion" if self.from_release is None else f"release {self.from_release}"
        after = "No release" if self.to_release is None else f"Release {self.to_release}"
        return f"{after} {verb}; before: {before}. {self.reason}".strip()


class Attempt(BaseModel):
    """A training that was started; `outcome` is "" until it ends."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    snapshot: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str


@contextmanager
def locked(engine: Engine, name: str) -> Iterator[Connection]:
    """A transaction that no other holder of the same lock runs beside; committed at the end.

    Postgres locks a row; on SQLite every transaction of ours begins IMMEDIATE, which locks the file.
    A process that dies gives the lock back.
    """
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(postgresql.insert(LockRow).values(name=name).on_conflict_do_nothing())
    with engine.begin() as connection:
        connection.execute(select(LockRow.name).where(LockRow.name == name).with_for_update())
        yield connection


def intend(
    engine: Engine,
    *,
    action: Action,
    to_release: int,
    expected_champion: int | None,
    by: str,
    reason: str,
    ensemble_key: str,
    map_at_10: float | None,
) -> int:
    """Enter a move before it is made, so that a crash half-way cannot hide who wanted it; the row's id."""
    with engine.begin() as connection:
        return enter(
            connection,
            action=action,
            state="pending",
            from_release=expected_champion,
            to_release=to_release,
            expected_champion=expected_champion,
            by=by,
            reason=reason,
            ensemble_key=ensemble_key,
            map_at_10=map_at_10,
        )


def enter(
    connection: Connection,
    *,
    action: Action,
    state: State,
    from_release: int | None,
    to_release: int | None,
    expected_champion: int | None,
    by: str,
    reason: str,
    ensemble_key: str,
    map_at_10: float | None,
) -> int:
    """Enter a row in an open transaction; its id."""
    row = connection.execute(
        insert(PromotionRow)
        .values(
            sequence=_next_sequence(connection) if state == "done" else None,
            at=_now(),
            action=action,
            state=state,
            from_release=from_release,
            to_release=to_release,
            expected_champion=expected_champion,
            by=by,
            reason=reason,
            ensemble_key=ensemble_key,
            map_at_10=map_at_10,
        )
        .returning(PromotionRow.id)
    )
    return int(row.scalar_one())


def finish(connection: Connection, promotion_id: int, *, from_release: int | None) -> None:
    """The move has been made, from the release that the alias named until then."""
    connection.execute(
        update(PromotionRow)
        .where(PromotionRow.id == promotion_id)
        .values(state="done", sequence=_next_sequence(connection), from_release=from_release, at=_now())
    )


def drop_pending(connection: Connection, promotion_id: int) -> None:
    """The move has not been made and will not be; one that is done stays done."""
    connection.execute(
        update(PromotionRow)
        .where(PromotionRow.id == promotion_id, PromotionRow.state == "pending")
        .values(state="dropped")
    )


def moves(connection: Connection, *, state: State = "done") -> list[Promotion]:
    """Moves in that state, oldest first: in the order in which they were made, or meant."""
    columns = [column for column in PromotionRow.__table__.columns if column.name != "sequence"]
    rows = connection.execute(
        select(*columns).where(PromotionRow.state == state).order_by(PromotionRow.sequence, PromotionRow.id)
    ).mappings()
    return [_promotion(dict(row)) for row in rows]


def history(engine: Engine) -> list[Promotion]:
    """Every move that was made, oldest first."""
    with read_only(engine) as connection:
        return moves(connection)


def last_promotion_to(engine: Engine, release: int) -> Promotion | None:
    """The last move that made a release champion, or None."""
    return next((move for move in reversed(history(engine)) if move.to_release == release), None)


def previous_of(made: Sequence[Promotion]) -> list[int]:
    """Releases to roll back to, best first: those that served, with another ensemble than the last (D1).

    Versions that are no release of ours, which only an external move can name, are left out.
    """
    if not made or made[-1].to_release is None:
        return []
    current = made[-1].ensemble_key
    others = [move for move in reversed(made) if move.ensemble_key not in ("", current)]
    return list(dict.fromkeys(move.to_release for move in others if move.to_release is not None))


def best_promoted_since(engine: Engine, *, days: float, among: Collection[int] | None = None) -> int | None:
    """The release that became champion in the last days with the highest mAP@10; of equals the newest.

    A release whose mAP@10 is unknown is left out. None where there is no other.

    Args:
        among: releases that still exist; one that was deleted must not stop every later evaluation.
    """
    return next(iter(unsurpassed_since(engine, days=days, among=among)), None)


def unsurpassed_since(engine: Engine, *, days: float, among: Collection[int] | None = None) -> list[int]:
    """Champions of the last days that none after them equalled, best first: with time, each becomes the best."""
    since = _now() - timedelta(days=days)
    found: list[int] = []
    highest = -1.0
    for move in reversed(history(engine)):
        if move.to_release is None or move.map_at_10 is None or move.at < since:
            continue
        if move.map_at_10 > highest and (among is None or move.to_release in among):
            highest = move.map_at_10
            found.insert(0, move.to_release)
    return found


def start_attempt(engine: Engine, *, run_id: str, snapshot: str) -> None:
    """A training of that snapshot begins, or begins again."""
    values = {"snapshot": snapshot, "started_at": _now(), "finished_at": None, "outcome": ""}
    put(engine, AttemptRow, {"run_id": run_id}, values)


def finish_attempt(engine: Engine, *, run_id: str, outcome: str) -> None:
    """The training has ended with that outcome."""
    with engine.begin() as connection:
        connection.execute(
            update(AttemptRow).where(AttemptRow.run_id == run_id).values(finished_at=_now(), outcome=outcome)
        )


def last_attempt(engine: Engine) -> Attempt | None:
    """The training that was started last, whatever became of it."""
    with read_only(engine) as connection:
        row = (
            connection.execute(
                select(AttemptRow.__table__).order_by(AttemptRow.started_at.desc(), AttemptRow.run_id.desc()).limit(1)
            )
            .mappings()
            .one_or_none()
        )
    if row is None:
        return None
    values = dict(row)
    values["started_at"] = in_utc(values["started_at"])
    values["finished_at"] = in_utc(values["finished_at"]) if values["finished_at"] else None
    return Attempt(**values)


def _next_sequence(connection: Connection) -> int:
    return 1 + (connection.execute(select(func.max(PromotionRow.sequence))).scalar_one() or 0)


def _promotion(row: Mapping[str, Any]) -> Promotion:
    return Promotion.model_validate({**row, "at": in_utc(row["at"])})


def _now() -> datetime:
    return datetime.now(UTC)
