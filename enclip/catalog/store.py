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
from enclip.database import read_only
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


@dataclass(frozen=True, slots=True)
class CatalogCounts:
    """How many products the catalog holds."""

    live: int
    withdrawn: int
    by_split: Mapping[str, int]


def content_hash(product: Product) -> str:
    """Hex SHA-256 of name, picture and attributes: equal when there is nothing to take in again."""
    content = [getattr(product, name) for name in CONTENT]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


class CatalogDigest:
    """Running digest of a catalog: over id, content, group and split of its products, ids ascending."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"enclip-catalog-1\n")

    def add(self, product_id: str, content: str, group_id: str, split: str) -> None:
        self._hash.update(json.dumps([product_id, content, group_id, split]).encode())

    def hexdigest(self) -> str:
        return self._hash.hexdigest()[:32]


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
        """The digest a snapshot taken now would have; reads four short columns of the live catalog."""
        columns = PRODUCTS.c.product_id, PRODUCTS.c.content_hash, PRODUCTS.c.group_id, PRODUCTS.c.split
        with read_only(self.engine) as connection:
            rows = [tuple(map(str, row)) for row in connection.execute(select(*columns).where(LIVE))]
        digest = CatalogDigest()
        for row in sorted(rows):  # sorted here: databases differ in how they collate
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
        columns = PRODUCTS.c.product_id, PRODUCTS.c.content_hash, PRODUCTS.c.source, PRODUCTS.c.withdrawn_at
        found = {}
        with read_only(self.engine) as connection:
            for part in in_parts(product_ids):
                for row in connection.execute(select(*columns).where(PRODUCTS.c.product_id.in_(part))):
                    found[row.product_id] = Known(row.content_hash, row.source, row.withdrawn_at is not None)
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
