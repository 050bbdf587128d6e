"""What people say of answers: which of two releases answers a query better, and which results are good.

A judge's last word on the same matter replaces the earlier one. Judges without a name count as one.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Boolean, DateTime, Engine, Integer, String, Text, case, delete, distinct, func, select
from sqlalchemy.orm import Mapped, mapped_column

from enclip.database import Base, in_utc, put, read_only
from enclip.records import MAX_JUDGE


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """What was searched for: words, or a product to be like; the other one is empty."""

    text: str = ""
    like: str = ""

    @property
    def key(self) -> str:
        """Equal for queries that are the same but for case and surplus space."""
        words = " ".join(self.text.split()).casefold()
        return hashlib.sha256(f"{words}\n{self.like}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Standing:
    """How a release stands against an older one: judgements that found it better, equal and worse."""

    release: int
    against: int
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, slots=True)
class JudgedResult:
    """A result of a query in words, with how many judges found it good and bad; `text` as it was last spelled."""

    text: str
    product_id: str
    num_good: int
    num_bad: int
    last_at: datetime

    @property
    def is_good(self) -> bool:
        """Whether more judges found it good than bad; a draw is not good."""
        return self.num_good > self.num_bad


@dataclass(frozen=True, slots=True)
class Preference:
    """The better one of two releases; no winner: they are the same."""

    older: int
    newer: int
    winner: int | None


@dataclass(frozen=True, slots=True)
class Opinion:
    """Whether a product that a release found is a good result."""

    product_id: str
    release: int
    is_good: bool


@dataclass(frozen=True, slots=True)
class Said:
    """All that one judge said of one query."""

    preferences: tuple[Preference, ...]
    results: tuple[Opinion, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """Judged results: of queries in words, which can become qrels, and of products to be like, which cannot."""

    num_queries: int
    num_good: int
    num_bad: int
    num_like: int


class PreferenceRow(Base):
    """Which of two releases a judge found better for a query; no winner: the same."""

    __tablename__ = "preferences"

    by: Mapped[str] = mapped_column(String(MAX_JUDGE), primary_key=True)
    query_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    # The lower version first, so that it does not matter which of them was shown on the left.
    older_release: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    newer_release: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(Text)
    like_id: Mapped[str] = mapped_column(String(200))
    winner: Mapped[int | None] = mapped_column(Integer)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class ResultRow(Base):
    """Whether a judge found a product a good result of a query, whichever release showed it."""

    __tablename__ = "judged_results"

    by: Mapped[str] = mapped_column(String(MAX_JUDGE), primary_key=True)
    query_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    product_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    like_id: Mapped[str] = mapped_column(String(200))
    release: Mapped[int] = mapped_column(Integer)
    is_good: Mapped[bool] = mapped_column(Boolean)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


def prefer(engine: Engine, query: JudgedQuery, *, between: tuple[int, int], winner: int | None, by: str = "") -> None:
    """Store which of two different releases answers a query better; no winner: they are equally good."""
    older, newer = sorted(between)
    assert older != newer and winner in (None, older, newer)
    key = {"by": by, "query_key": query.key, "older_release": older, "newer_release": newer}
    put(engine, PreferenceRow, key, _said(query) | {"winner": winner})


def judge(engine: Engine, query: JudgedQuery, product_id: str, *, is_good: bool, release: int, by: str = "") -> None:
    """Store whether a product, found by a release, is a good result of a query."""
    key = {"by": by, "query_key": query.key, "product_id": product_id}
    put(engine, ResultRow, key, _said(query) | {"is_good": is_good, "release": release})


def take_back_preference(engine: Engine, query: JudgedQuery, *, between: tuple[int, int], by: str = "") -> None:
    """As if the judge had never compared the two; harmless where that is so."""
    older, newer = sorted(between)
    key = {"by": by, "query_key": query.key, "older_release": older, "newer_release": newer}
    _drop(engine, PreferenceRow, key)


def take_back_result(engine: Engine, query: JudgedQuery, product_id: str, *, by: str = "") -> None:
    """As if the judge had never judged the product; harmless where that is so."""
    _drop(engine, ResultRow, {"by": by, "query_key": query.key, "product_id": product_id})


def said_of(engine: Engine, query: JudgedQuery, *, by: str = "") -> Said:
    """What a judge said of a query's answers."""
    with read_only(engine) as connection:
        preferences, results = (
            connection.execute(
                select(table.__table__)
                .where(table.query_key == query.key, table.by == by)
                .order_by(*table.__mapper__.primary_key)
            ).all()
            for table in (PreferenceRow, ResultRow)
        )
    return Said(
        preferences=tuple(Preference(row.older_release, row.newer_release, row.winner) for row in preferences),
        results=tuple(Opinion(row.product_id, row.release, row.is_good) for row in results),
    )


def standings(engine: Engine) -> list[Standing]:
    """How every pair of releases that was compared stands; the newest first."""
    pair = (PreferenceRow.newer_release, PreferenceRow.older_release)
    counted = select(*pair, PreferenceRow.winner, func.count()).group_by(*pair, PreferenceRow.winner)
    counts: dict[tuple[int, int], dict[int | None, int]] = defaultdict(dict)
    with read_only(engine) as connection:
        for newer, older, winner, count in connection.execute(counted):
            counts[newer, older][winner] = count
    return [
        Standing(
            release=newer,
            against=older,
            wins=found.get(newer, 0),
            ties=found.get(None, 0),
            losses=found.get(older, 0),
        )
        for (newer, older), found in sorted(counts.items(), reverse=True)
    ]


def judged_results(engine: Engine) -> list[JudgedResult]:
    """Every result of a query in words that was judged, by query and product."""
    with read_only(engine) as connection:
        rows = connection.execute(
            select(ResultRow.__table__)
            .where(ResultRow.text != "")
            .order_by(ResultRow.query_key, ResultRow.product_id, ResultRow.at, ResultRow.by)
        ).all()
    spelled = {row.query_key: row.text for row in sorted(rows, key=lambda row: in_utc(row.at))}
    groups: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in rows:
        groups[row.query_key, row.product_id].append(row)
    results = [
        JudgedResult(
            text=spelled[query_key],
            product_id=product_id,
            num_good=sum(row.is_good for row in judged),
            num_bad=sum(not row.is_good for row in judged),
            last_at=in_utc(judged[-1].at),
        )
        for (query_key, product_id), judged in groups.items()
    ]
    return sorted(results, key=lambda result: (result.text.casefold(), result.product_id))


def count_results(engine: Engine) -> Counts:
    """How much was judged; cheap, whatever lies there."""
    opinion = func.sum(case((ResultRow.is_good, 1), else_=-1)).label("opinion")
    each = (
        select(ResultRow.query_key, func.min(ResultRow.text).label("text"), opinion)
        .group_by(ResultRow.query_key, ResultRow.product_id)
        .subquery()
    )
    in_words = each.c.text != ""
    counted = select(
        func.count(distinct(case((in_words, each.c.query_key)))),
        func.count(case((in_words & (each.c.opinion > 0), 1))),
        func.count(case((in_words & (each.c.opinion <= 0), 1))),
        func.count(case((each.c.text == "", 1))),
    )
    with read_only(engine) as connection:
        return Counts(*connection.execute(counted).one())


def _said(query: JudgedQuery) -> dict[str, Any]:
    return {"text": query.text, "like_id": query.like, "at": datetime.now(UTC)}


def _drop(engine: Engine, table: type[Base], key: dict[str, Any]) -> None:
    """The row of a key, if there is one."""
    with engine.begin() as connection:
        connection.execute(delete(table).filter_by(**key))
