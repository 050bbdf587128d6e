"""What shadow queries have shown of a challenger beside a champion, added up over all replicas of the service."""

from datetime import UTC, datetime

from sqlalchemy import DateTime, Engine, Float, Integer, Table, select
from sqlalchemy.orm import Mapped, mapped_column

from enclip.database import Base, put, read_only
from enclip.records import ShadowTotals

FIGURES = ("num_compared", "num_failed", "overlap", "champion_s", "challenger_s")


class ShadowRow(Base):
    """Sums over the queries that both releases were asked; see `ShadowTotals`. No query is kept."""

    __tablename__ = "shadow_totals"

    champion: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    challenger: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    num_compared: Mapped[int] = mapped_column(Integer)
    num_failed: Mapped[int] = mapped_column(Integer)
    overlap: Mapped[float] = mapped_column(Float)
    champion_s: Mapped[float] = mapped_column(Float)
    challenger_s: Mapped[float] = mapped_column(Float)
    first_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    last_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


def add_shadow(engine: Engine, *, champion: int, challenger: int, more: ShadowTotals) -> None:
    """Add what a replica has seen since it last did, in one statement. Raises StoreError; nothing is added then."""
    table = ShadowRow.__table__
    assert isinstance(table, Table)
    now = datetime.now(UTC)
    values = {name: getattr(more, name) for name in FIGURES}
    added = {name: table.c[name] + value for name, value in values.items()}
    put(
        engine,
        ShadowRow,
        {"champion": champion, "challenger": challenger},
        {"first_at": now, "last_at": now, **values},
        over={**added, "last_at": now},
    )


def shadow_totals(engine: Engine, *, champion: int, challenger: int) -> ShadowTotals:
    """What all replicas have seen of these two; zeros where there was nothing."""
    columns = [getattr(ShadowRow, name) for name in FIGURES]
    where = (ShadowRow.champion == champion) & (ShadowRow.challenger == challenger)
    with read_only(engine) as connection:
        row = connection.execute(select(*columns).where(where)).mappings().one_or_none()
    return ShadowTotals(**row) if row else ShadowTotals()
