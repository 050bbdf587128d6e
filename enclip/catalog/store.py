"""The catalog in a database: what is live, and what is taken in.

Writers hold the ingest lock (`enclip.catalog.lock`); `withdraw` alone may run beside them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, Select, Table, bindparam, func, select

from enclip.catalog.groups import Key
from enclip.catalog.tables import CONTENT, KEYS, LIVE, PICTURES, PRODUCTS, in_parts
from enclip.database import in_utc, read_only
from enclip.records import Product, Products, Split

COLUMNS = tuple(PRODUCTS.c[name] for name in Products.column_names())


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """A picture that was decoded once, at ingest."""

    image_sha256: str
    width: int
    height: int
    thumb: bytes


@dataclass(frozen=True, slots=True)
class Arrival:
    """A new or changed product on its way into the store; its group and split are decided later."""

    product: Product
    picture: PictureFacts
    keys: tuple[Key, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Known:
    """What the store remembers of a product when its row comes again."""

    content_hash: str
    source: str
    withdrawn: bool
    price: float | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A product as the catalog has it, withdrawn or not, and when that was last written."""

    product: Product
    withdrawn: bool
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class CatalogCounts:
    """How many products the catalog holds."""

    live: int
    withdrawn: int
    by_split: Mapping[str, int]


def content_hash(product: Product) -> str:
    """Hex SHA-256 of name, picture and attributes: equal when there is nothing to learn again.

    The price is no part of it. Nothing is learnt from prices, so a new one needs neither a look at the picture nor
    another group; `CatalogDigest` has it beside the contents.
    """
    content = [getattr(product, name) for name in CONTENT]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


class CatalogDigest:
    """Running digest of a catalog: over id, content, group, split and price of its products, ids ascending.

    It has two parts, `CONTENTS-PRICES`, the second one only where a product has a price. An index follows the whole
    of it, so that a new price reaches the service; a training follows `without_prices` of it, so that a new price
    costs none. A catalog without prices has the digest that it had before there were any.
    """

    def __init__(self) -> None:
        self._contents = hashlib.sha256(b"enclip-catalog-1\n")
        self._prices = hashlib.sha256(b"enclip-prices-1\n")
        self._has_prices = False

    def add(self, product_id: str, content: str, group_id: str, split: str, price: float | None) -> None:
        self._contents.update(json.dumps([product_id, content, group_id, split]).encode())
        if price is not None:
            self._has_prices = True
            self._prices.update(json.dumps([product_id, price]).encode())

    def hexdigest(self) -> str:
        contents = self._contents.hexdigest()[:32]
        return f"{contents}-{self._prices.hexdigest()[:16]}" if self._has_prices else contents


def without_prices(digest: str) -> str:
    """The part of a catalog's digest that is over what a training learns from."""
    return digest.partition("-")[0]


class CatalogStore:
    """The catalog in a database. All reads of products are of the live ones unless they say otherwise."""

    def __init__(self, engine: Engine, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.engine = engine
        self._now = now

    # -- what is live ---------------------------------------------------------------------------

    def products(self) -> Products:
        """The live catalog."""
        with read_only(self.engine) as connection:
            return Products.from_rows([_product(row) for row in _stream(connection, select(*COLUMNS).where(LIVE))])

    def get(self, product_id: str) -> Product | None:
        """One live product."""
        query = select(*COLUMNS).where(LIVE, PRODUCTS.c.product_id == product_id)
        with read_only(self.engine) as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _product(row)

    def entry(self, product_id: str) -> Entry | None:
        """What the catalog has of a product, withdrawn ones included; None where the id was never seen."""
        if "\0" in product_id:
            return None  # no id holds one, and Postgres cannot even be asked
        query = select(*COLUMNS, PRODUCTS.c.updated_at, PRODUCTS.c.withdrawn_at)
        with read_only(self.engine) as connection:
            row = connection.execute(query.where(PRODUCTS.c.product_id == product_id)).mappings().first()
        if row is None:
            return None
        written = max(in_utc(moment) for moment in (row["updated_at"], row["withdrawn_at"]) if moment is not None)
        return Entry(_product(row), withdrawn=row["withdrawn_at"] is not None, updated_at=written)

    def image_sha256(self, product_id: str) -> str | None:
        """The picture of a product, withdrawn ones included; None where the id was never seen."""
        with read_only(self.engine) as connection:
            return connection.scalar(select(PRODUCTS.c.image_sha256).where(PRODUCTS.c.product_id == product_id))

    def withdrawn_ids(self) -> frozenset[str]:
        """Products that are gone from the shop: a live filter over every release (D13)."""
        query = select(PRODUCTS.c.product_id).where(PRODUCTS.c.withdrawn_at.is_not(None))
        with read_only(self.engine) as connection:
            return frozenset(connection.scalars(query))

    def state_digest(self) -> str:
        """The digest a snapshot taken now would have; reads five short columns of the live catalog."""
        names = ("product_id", "content_hash", "group_id", "split", "price")
        query = select(*(PRODUCTS.c[name] for name in names)).where(LIVE)
        with read_only(self.engine) as connection:
            rows = connection.execute(query).tuples().all()
        digest = CatalogDigest()
        for row in sorted(rows, key=lambda row: str(row[0])):  # sorted here: databases differ in how they collate
            digest.add(*row)
        return digest.hexdigest()

    def counts(self) -> CatalogCounts:
        """Live and withdrawn products, and the live ones by split."""
        query = select(PRODUCTS.c.split, func.count()).where(LIVE).group_by(PRODUCTS.c.split)
        with read_only(self.engine) as connection:
            by_split: dict[str, int] = dict(connection.execute(query).tuples().all())
            gone = connection.scalar(select(func.count()).where(PRODUCTS.c.withdrawn_at.is_not(None)))
        return CatalogCounts(live=sum(by_split.values()), withdrawn=int(gone or 0), by_split=by_split)

    # -- taking in ------------------------------------------------------------------------------

    def known(self, product_ids: Sequence[str]) -> dict[str, Known]:
        """What is remembered of these products, withdrawn ones included."""
        names = ("product_id", "content_hash", "source", "withdrawn_at", "price")
        query = select(*(PRODUCTS.c[name] for name in names))
        found = {}
        with read_only(self.engine) as connection:
            for part in in_parts(product_ids):
                for row in connection.execute(query.where(PRODUCTS.c.product_id.in_(part))):
                    withdrawn = row.withdrawn_at is not None
                    found[row.product_id] = Known(row.content_hash, row.source, withdrawn, row.price)
        return found

    def upsert(self, arrivals: Sequence[Arrival]) -> None:
        """Write new and changed products, in one transaction; a withdrawn one is live again.

        Group and split of a product that was seen before stay as they are.
        """
        if not arrivals:
            return
        now = self._now()
        pictures = {arrival.picture.image_sha256: arrival.picture for arrival in arrivals}
        ids = [arrival.product.product_id for arrival in arrivals]
        known = self.known(ids)
        rows = [self._row(arrival, now) for arrival in arrivals]
        with self.engine.begin() as connection:
            there = _known_pictures(connection, list(pictures))
            _insert(connection, PICTURES, [asdict(facts) for sha, facts in pictures.items() if sha not in there])
            new = [
                {**row, "first_seen_at": now, "group_id": "", "split": Split.ASIDE.value}
                for row in rows
                if row["product_id"] not in known
            ]
            _insert(connection, PRODUCTS, new)
            changed = [{"key_id": row.pop("product_id"), **row} for row in rows if row["product_id"] in known]
            if changed:
                connection.execute(PRODUCTS.update().where(PRODUCTS.c.product_id == bindparam("key_id")), changed)
            for part in in_parts(list(known)):
                connection.execute(KEYS.delete().where(KEYS.c.product_id.in_(part)))
            keys = [
                {"kind": int(key.kind), "value": key.value, "product_id": arrival.product.product_id}
                for arrival in arrivals
                for key in dict.fromkeys(arrival.keys)
            ]
            _insert(connection, KEYS, keys)

    def claim(self, product_ids: Sequence[str], source: str) -> None:
        """Note that a source carries these (unchanged) products, and that they are live."""
        with self.engine.begin() as connection:
            for part in in_parts(product_ids):
                connection.execute(
                    PRODUCTS.update().where(PRODUCTS.c.product_id.in_(part)).values(source=source, withdrawn_at=None)
                )

    def reprice(self, prices: Mapping[str, float | None], source: str) -> None:
        """Note new prices of products that are otherwise as they were, and claim them for the source."""
        if not prices:
            return
        rows = [{"key_id": product_id, "to_price": price} for product_id, price in prices.items()]
        with self.engine.begin() as connection:
            connection.execute(
                PRODUCTS.update()
                .where(PRODUCTS.c.product_id == bindparam("key_id"))
                .values(price=bindparam("to_price"), source=source, updated_at=self._now(), withdrawn_at=None),
                rows,
            )

    def withdraw(self, product_ids: Iterable[str]) -> int:
        """Mark products as gone; how many of them were live."""
        gone = 0
        with self.engine.begin() as connection:
            for part in in_parts(list(product_ids)):
                result = connection.execute(
                    PRODUCTS.update()
                    .where(PRODUCTS.c.product_id.in_(part), PRODUCTS.c.withdrawn_at.is_(None))
                    .values(withdrawn_at=self._now())
                )
                gone += result.rowcount
        return gone

    def carried_by(self, source: str) -> Iterator[Product]:
        """The live products that a source carried last."""
        with read_only(self.engine) as connection:
            rows = _stream(connection, select(*COLUMNS).where(LIVE, PRODUCTS.c.source == source))
            yield from (_product(row) for row in rows)

    def _row(self, arrival: Arrival, now: datetime) -> dict[str, object]:
        product = arrival.product
        return {
            "product_id": product.product_id,
            **{name: getattr(product, name) for name in CONTENT},
            "price": product.price,
            "content_hash": content_hash(product),
            "source": arrival.source,
            "updated_at": now,
            "withdrawn_at": None,
        }


def _product(row: RowMapping) -> Product:
    values: dict[str, Any] = {name: row[name] for name in Products.column_names()}
    return Product(**{**values, "split": Split(row["split"])})


def _stream(connection: Connection, query: Select[Any]) -> Iterator[RowMapping]:
    """Rows as they come, without a copy of the whole result on this side."""
    yield from connection.execution_options(yield_per=2000).execute(query).mappings()


def _insert(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        connection.execute(table.insert(), list(rows))


def _known_pictures(connection: Connection, image_sha256s: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for part in in_parts(image_sha256s):
        found.update(connection.scalars(select(PICTURES.c.image_sha256).where(PICTURES.c.image_sha256.in_(part))))
    return found
