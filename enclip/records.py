"""Frozen records and protocols that cross rooms. No logic beyond access; no heavy import."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Strings = NDArray[np.object_]  # Python str; "" where the catalog has nothing
Prices = NDArray[np.float64]  # NaN where the catalog has none
MAX_PRICE = 1e12  # more is a mistake in the catalog, or in the question
MAX_JUDGE = 100  # characters of the name of who judges

TEXT_FIELDS = ("product_id", "name")
ATTRIBUTES = (
    "gender",
    "master_category",
    "sub_category",
    "article_type",
    "base_colour",
    "season",
    "year",
    "usage",
)


class Split(StrEnum):
    """What a product may be used for; decided when it is first seen, and never changed (D7)."""

    TRAIN = "train"
    SELECT = "select"
    GATE = "gate"
    ASIDE = "aside"  # links two splits: searchable, but neither trained on nor measured with


@dataclass(frozen=True, slots=True)
class Product:
    """One product of the catalog. Unknown attributes are "".

    The price is what the shop says it is, in its one currency, and ≥ 0; None: it says nothing. Searches filter
    by it; it is no part of what is trained on or measured with.
    """

    product_id: str
    name: str
    image_sha256: str
    gender: str = ""
    master_category: str = ""
    sub_category: str = ""
    article_type: str = ""
    base_colour: str = ""
    season: str = ""
    year: str = ""
    usage: str = ""
    group_id: str = ""
    split: Split = Split.ASIDE
    price: float | None = None

    @property
    def category(self) -> str:
        """The subCategory, else the articleType."""
        return self.sub_category or self.article_type


@dataclass(frozen=True, eq=False)
class Products:
    """N products as columns, sorted by product_id ascending; row i is the same product in every column."""

    product_id: Strings
    name: Strings
    image_sha256: Strings
    gender: Strings
    master_category: Strings
    sub_category: Strings
    article_type: Strings
    base_colour: Strings
    season: Strings
    year: Strings
    usage: Strings
    group_id: Strings
    split: Strings
    price: Prices

    @classmethod
    def from_rows(cls, rows: Sequence[Product]) -> "Products":
        """Columns from rows; sorts by product_id."""
        ordered = sorted(rows, key=lambda product: product.product_id)
        texts = {name: [str(getattr(row, name)) for row in ordered] for name in cls.text_columns()}
        return cls(
            **{name: np.array(values, dtype=object) for name, values in texts.items()},
            price=np.array([np.nan if row.price is None else row.price for row in ordered], dtype=np.float64),
        )

    @classmethod
    def column_names(cls) -> tuple[str, ...]:
        """The columns, in order."""
        return tuple(column.name for column in fields(cls))

    @classmethod
    def text_columns(cls) -> tuple[str, ...]:
        """The columns of text: all but the price."""
        return tuple(name for name in cls.column_names() if name != "price")

    @property
    def category(self) -> Strings:
        """Per product: the subCategory, else the articleType."""
        return np.where(self.sub_category != "", self.sub_category, self.article_type).astype(object)

    def take(self, rows: NDArray[Any]) -> "Products":
        """The products at integer rows or under a boolean mask, in that order."""
        return Products(**{name: getattr(self, name)[rows] for name in self.column_names()})

    def row(self, index: int) -> Product:
        """One product."""
        values = {name: str(getattr(self, name)[index]) for name in self.text_columns()}
        price = float(self.price[index])
        return Product(
            **{**values, "split": Split(values["split"])},  # type: ignore[arg-type]
            price=None if np.isnan(price) else price,
        )

    def __len__(self) -> int:
        return len(self.product_id)

    def __iter__(self) -> Iterator[Product]:
        return (self.row(index) for index in range(len(self)))


@dataclass(frozen=True, slots=True)
class Rejection:
    """A catalog row that was set aside. `row` counts data rows from 1, header excluded."""

    row: int
    product_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one ingest did. `gone` counts products newly withdrawn."""

    accepted: int
    unchanged: int
    rejected: int
    gone: int
    rejections: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class Filters:
    """Products a search may return; None or empty: no restriction. Values compare case-insensitively.

    Prices from `price_min` to `price_max`, both included; with either, a product without a price does not pass.
    """

    category: tuple[str, ...] = ()
    gender: tuple[str, ...] = ()
    colour: tuple[str, ...] = ()
    price_min: float | None = None
    price_max: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One result. `score` is higher-is-better and comparable within its ranking only.

    `folded` near-duplicates of it were found and left off the page (`retrieval/spread.py`).
    """

    product_id: str
    score: float
    cluster: int
    folded: int = 0


@dataclass(frozen=True, slots=True)
class Ranking:
    """Retrieval output for one query: descending score, ties by product_id ascending."""

    hits: tuple[Hit, ...]

    @property
    def product_ids(self) -> tuple[str, ...]:
        return tuple(hit.product_id for hit in self.hits)

    def after(self, offset: int, *, k: int | None = None) -> "Ranking":
        """A page of it: k hits, or all there are, behind the first `offset`."""
        return Ranking(self.hits[offset : None if k is None else offset + k])

    def extended(self, deeper: "Ranking") -> "Ranking":
        """This ranking, and behind it what another one holds besides."""
        known = set(self.product_ids)
        return Ranking((*self.hits, *(hit for hit in deeper.hits if hit.product_id not in known)))


def overlap(ours: Collection[str], theirs: Collection[str]) -> float:
    """The share of the longer of two answers' products that both have, 0 to 1; 1 for two empty ones."""
    longest = max(len(ours), len(theirs))
    return len(set(ours) & set(theirs)) / longest if longest else 1.0


@dataclass(frozen=True, slots=True)
class ShadowTotals:
    """Sums over live queries that a challenger was asked too, beside the champion.

    Attributes:
        num_compared: queries that both answered.
        num_failed: queries that the champion alone answered.
        overlap: of those compared, the shares of the first 10 that both found.
        champion_s, challenger_s: seconds that they took over those compared, one after the other in one thread.
    """

    num_compared: int = 0
    num_failed: int = 0
    overlap: float = 0.0
    champion_s: float = 0.0
    challenger_s: float = 0.0

    def __add__(self, other: "ShadowTotals") -> "ShadowTotals":
        return ShadowTotals(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    @property
    def num_queries(self) -> int:
        """Queries that the champion answered."""
        return self.num_compared + self.num_failed

    @property
    def mean_overlap(self) -> float | None:
        """Over all of them, 0 for each that the challenger failed; None without queries."""
        return self.overlap / self.num_queries if self.num_queries else None

    @property
    def latency_ratio(self) -> float | None:
        """The challenger's time over the champion's; None where nothing was timed."""
        return self.challenger_s / self.champion_s if self.champion_s > 0 else None


class Encoder(Protocol):
    """One member's two towers, as NumPy in and out."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """`embedding_BD` of the texts: float32, unit norm."""
        ...

    def encode_images(self, pixels_BHWC: NDArray[np.uint8], *, views: int = 1) -> Floats:
        """`embedding_BD` of uint8 RGB square canvases of any common side: float32, unit norm; the mean of its views."""
        ...


class QueryKind(StrEnum):
    """The three families of queries of the evaluation protocol."""

    SPECIFIC = "specific"
    TYPE = "type"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Query:
    """A query with its qrels. `relevant` are product ids of the gallery; `query_id` has no spaces."""

    query_id: str
    kind: QueryKind
    text: str
    category: str
    relevant: frozenset[str]


@dataclass(frozen=True, slots=True)
class EpochVersion:
    """One epoch in the registry. `source` is `models:/m-…`; `map_at_10` was measured on *select*."""

    version: int
    source: str
    mlflow_run_id: str
    instance: int
    epoch: int
    weights_sha256: str
    init_id: str
    dim: int
    map_at_10: float
    metrics: Mapping[str, float] = field(default_factory=dict)
