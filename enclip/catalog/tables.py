"""The catalog's tables, and how they are read in parts."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TypeVar

from sqlalchemy import DateTime, Float, ForeignKey, Integer, LargeBinary, SmallInteger, String, Table, Text
from sqlalchemy.orm import Mapped, mapped_column

from enclip.database import Base
from enclip.records import ATTRIBUTES

IN_LIST = 500  # values per IN (…): far below SQLite's and Postgres' limits on parameters
Value = TypeVar("Value")


class ProductRow(Base):
    """One product. `group_id` "" means: not placed yet, and not in the live catalog."""

    __tablename__ = "products"

    product_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    image_sha256: Mapped[str] = mapped_column(ForeignKey("pictures.image_sha256"))
    gender: Mapped[str] = mapped_column(Text)
    master_category: Mapped[str] = mapped_column(Text)
    sub_category: Mapped[str] = mapped_column(Text)
    article_type: Mapped[str] = mapped_column(Text)
    base_colour: Mapped[str] = mapped_column(Text)
    season: Mapped[str] = mapped_column(Text)
    year: Mapped[str] = mapped_column(Text)
    usage: Mapped[str] = mapped_column(Text)
    content_hash: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(Text, index=True)
    group_id: Mapped[str] = mapped_column(String(16), index=True)
    split: Mapped[str] = mapped_column(String(8))
    first_seen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    withdrawn_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), index=True)
    price: Mapped[float | None] = mapped_column(Float(53))  # no part of the content: see `content_hash`


class PictureRow(Base):
    """What is known of a picture without its bytes, which lie in the blob store under its SHA-256."""

    __tablename__ = "pictures"

    image_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    thumb: Mapped[bytes] = mapped_column(LargeBinary)


class ProductKeyRow(Base):
    """Something that a product may share with others: see `enclip.catalog.groups.Key`."""

    __tablename__ = "product_keys"

    kind: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    value: Mapped[str] = mapped_column(String(32), primary_key=True)
    product_id: Mapped[str] = mapped_column(ForeignKey("products.product_id"), primary_key=True, index=True)


def _table(row: type[Base]) -> Table:
    table = row.__table__
    assert isinstance(table, Table)
    return table


PRODUCTS = _table(ProductRow)
PICTURES = _table(PictureRow)
KEYS = _table(ProductKeyRow)
CONTENT = ("name", "image_sha256", *ATTRIBUTES)
LIVE = PRODUCTS.c.withdrawn_at.is_(None) & (PRODUCTS.c.group_id != "")


def in_parts(values: Sequence[Value]) -> Iterator[list[Value]]:
    """The values in lists short enough for IN (…)."""
    rest = iter(values)
    while part := list(islice(rest, IN_LIST)):
        yield part
