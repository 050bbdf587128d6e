"""Columns of a table → the fields of a product, under whatever names a shop gives them.

Only `id` and one of `productDisplayName` and `articleType` are needed. A row that cannot be used is a
Rejection with its number, never an exception.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from enclip.catalog.rows import CsvTable, repaired
from enclip.errors import CatalogError, ConfigError
from enclip.records import ATTRIBUTES, MAX_PRICE, Product, Rejection

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
COLUMNS = {
    "id": "id",
    "name": "productDisplayName",
    "image": "image",
    "gender": "gender",
    "master_category": "masterCategory",
    "sub_category": "subCategory",
    "article_type": "articleType",
    "base_colour": "baseColour",
    "season": "season",
    "year": "year",
    "usage": "usage",
    "price": "price",
}
NOTHING = frozenset({"", "na", "n/a", "nan", "null", "none"})  # how exports spell an empty cell
MAX_ID, MAX_CELL = 128, 2000
MAX_SHOWN = 300  # characters of a header in an error

_NUMBER = re.compile(r"\d+(\.\d*)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RawRow:
    """A usable row, its picture not looked at yet. `image` names the picture within the source, "" by id."""

    row: int
    product: Product
    image: str = ""
    data: bytes | None = None  # the picture itself, where the source delivers both together


def read_table(table: CsvTable, columns: Mapping[str, str], *, where: str) -> Iterator[RawRow | Rejection]:
    """Rows of a CSV table. Raises CatalogError where a needed column is missing."""
    found = find_columns(table.header, columns, where=where)
    id_at = table.header.index(found["id"])
    name_is_last = table.header[-1] == found.get("name")
    for item in table.rows():
        cells = None if item.damage else _fitted(item.cells, len(table.header), name_is_last=name_is_last)
        if cells is None:
            reason = item.damage or f"{len(item.cells)} cells where the header has {len(table.header)}"
            yield Rejection(item.row, _shown(item.cells[id_at] if id_at < len(item.cells) else ""), reason)
        else:
            yield to_row(item.row, dict(zip(table.header, cells, strict=True)), found)


def find_columns(header: Sequence[str], columns: Mapping[str, str], *, where: str) -> dict[str, str]:
    """Field → the header's spelling of its column, for the fields that there are.

    Columns without a name are passed over: spreadsheets append them.

    Raises:
        CatalogError: no id column, neither name nor articleType, no column that was mapped by name, or a
            column is there twice.
    """
    named = [name for name in header if name]
    spelled = {name.casefold(): name for name in named}
    if len(spelled) != len(named):
        twice = sorted({name for name in named if [other.casefold() for other in named].count(name.casefold()) > 1})
        raise CatalogError(
            f"{where} has the column {_listed(map(repr, twice))} more than once.", remedy="Keep or rename one of them."
        )
    found = {field: spelled[column.casefold()] for field, column in columns.items() if column.casefold() in spelled}
    # A column that was asked for by name is needed whatever it is for: a misspelt one must not be passed over.
    needed = {field for field, column in columns.items() if column != COLUMNS[field]} | {"id"}
    missing = [column for field, column in columns.items() if field in needed - set(found)]
    if not {"name", "article_type"} & (needed | set(found)):
        missing.append(f"{columns['name']} or {columns['article_type']}")
    if missing:
        raise CatalogError(
            f"{where} has no column {' and no '.join(missing)}; it has {_listed(named)}.",
            remedy="Say which columns to read: --map id=sku,name=title,image=file.",
        )
    return found


def to_row(number: int, record: Mapping[str, str], found: Mapping[str, str]) -> RawRow | Rejection:
    """One row's cells → a RawRow, or why not."""
    values = {field: record[column].strip() for field, column in found.items()}
    product_id = values["id"]
    shown = _shown(product_id)
    if product_id.casefold() in NOTHING:
        return Rejection(number, shown, "the id is empty")
    if len(product_id) > MAX_ID or not re.fullmatch(r"[^\s\x00-\x1f\x7f]+", product_id):
        return Rejection(number, shown, f"the id has white space, control characters or more than {MAX_ID} characters")
    for field, value in values.items():
        if "\0" in value:
            return Rejection(number, shown, f"{found[field]} holds a NUL byte")
        if len(value) > MAX_CELL:
            return Rejection(number, shown, f"{found[field]} has more than {MAX_CELL} characters")
    attributes: dict[str, Any] = {name: _attribute(values.get(name, "")) for name in ATTRIBUTES}
    attributes["year"] = attributes["year"].removesuffix(".0")  # a year that went through a float column
    name = _attribute(values.get("name", ""))
    if not name and not attributes["article_type"]:
        return Rejection(number, shown, "neither a name nor an articleType")
    try:
        price = _price(values.get("price", ""))
    except ValueError as error:
        return Rejection(number, shown, f"{found['price']} {error}")
    image = "" if values.get("image", "").casefold() in NOTHING else values["image"]
    if image and (PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts):
        return Rejection(number, shown, f"the picture {image!r} lies outside the catalog's folder")
    product = Product(product_id, name, "", **attributes, price=price)
    return RawRow(number, product, image)


def image_names(row: RawRow) -> list[str]:
    """Where a row's picture may lie, relative to the table, likeliest first."""
    if row.image:
        return [row.image, f"images/{row.image}"]
    safe = row.product.product_id.replace("/", "_")  # an id is not a path
    return [f"images/{safe}.{ending}" for ending in IMAGE_ENDINGS]


def columns_of(mapping: Mapping[str, str]) -> dict[str, str]:
    fields = {_plain(field): field for field in COLUMNS} | {_plain(column): field for field, column in COLUMNS.items()}
    fields["productid"] = "id"
    columns = dict(COLUMNS)
    for field, column in mapping.items():
        if _plain(field) not in fields or not column.strip():
            raise ConfigError(
                f"Cannot map {field!r} to column {column!r}.", remedy=f"Fields are: {', '.join(COLUMNS)}."
            )
        columns[fields[_plain(field)]] = column.strip()
    return columns


def _plain(name: str) -> str:
    return name.replace("_", "").casefold()


def _attribute(value: str) -> str:
    value = " ".join(value.split())
    return "" if value.casefold() in NOTHING else value


def _price(value: str) -> float | None:
    """A price as catalogs write it, without a currency. Raises ValueError, which goes on where the column ends."""
    if value.casefold() in NOTHING:
        return None
    price = float(value) if _NUMBER.fullmatch(value) else -1.0
    if not 0 <= price <= MAX_PRICE:
        raise ValueError(f"{_shown(value)[:40]!r} is no number from 0 to {MAX_PRICE:.0e}, such as 19.90")
    return price


def _fitted(cells: list[str], width: int, *, name_is_last: bool) -> list[str] | None:
    """Cells as wide as the header; None where some are missing, or too many and no name to add them to."""
    if len(cells) < width or (len(cells) > width and not name_is_last and any(cell.strip() for cell in cells[width:])):
        return None
    return repaired(cells, width) if name_is_last else cells[:width]


def _shown(product_id: str) -> str:
    """An id, usable or not, as a report may show it."""
    return re.sub(r"[\x00-\x1f\x7f]", "\ufffd", product_id.strip()[:MAX_ID])


def _listed(names: Iterable[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} …"
