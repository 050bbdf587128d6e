"""A source → catalog rows: a folder, an S3 prefix or a Hugging Face data set, with other column names if need be.

The layout that users download is `styles.csv` beside `images/<id>.jpg`; only `id` and one of
`productDisplayName` and `articleType` are needed. A row that cannot be used is a Rejection with its
number, never an exception.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from enclip.blobs import s3_client
from enclip.catalog.images import MAX_BYTES
from enclip.catalog.rows import Cells, CsvTable, repaired
from enclip.errors import CatalogError, ConfigError, ImageError, StoreError
from enclip.records import ATTRIBUTES, Product, Rejection

CATALOG_FILE = "styles.csv"
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
}
NOTHING = frozenset({"", "na", "n/a", "nan", "null", "none"})  # how exports spell an empty cell
MAX_ID, MAX_CELL = 128, 2000


@dataclass(frozen=True, slots=True)
class RawRow:
    """A usable row, its picture not looked at yet. `image` names the picture within the source, "" by id."""

    row: int
    product: Product
    image: str = ""
    data: bytes | None = None  # the picture itself, where the source delivers both together


class CatalogSource(Protocol):
    """Where products come from."""

    @property
    def name(self) -> str:
        """The source as the catalog remembers it: the same place has the same name."""
        ...

    def num_rows(self) -> int | None:
        """About how many rows there are, for a progress bar; None where nobody knows."""
        ...

    def rows(self) -> Iterator[RawRow | Rejection]:
        """The rows in order, read as they are asked for. Raises CatalogError where the source has no table."""
        ...

    def image(self, row: RawRow) -> bytes:
        """The picture of a row; safe in several threads. Raises ImageError where it is missing."""
        ...


def open_source(source: str, *, mapping: Mapping[str, str] | None = None, s3_endpoint_url: str = "") -> CatalogSource:
    """The source at a folder or CSV path, at `s3://bucket/prefix`, or of `hf:NAME`.

    Args:
        source: the place.
        mapping: field (`name`, `image`, `article_type` or `articleType` …) → the column that holds it.
        s3_endpoint_url: an S3-compatible endpoint; "" for AWS.

    Raises:
        ConfigError: the mapping names an unknown field.
        CatalogError: there is no such folder or file, or `hf:` without its optional extra.
    """
    columns = _columns(mapping or {})
    if source.startswith("s3://"):
        bucket, _, path = source.removeprefix("s3://").partition("/")
        return S3Source(bucket, path.strip("/"), columns, endpoint_url=s3_endpoint_url)
    if source.startswith("hf:"):
        return HuggingFaceSource(source.removeprefix("hf:"), columns)
    return FolderSource(Path(source.removeprefix("file://")), columns)


class FolderSource:
    """A folder with `styles.csv` and `images/`; the path may name the CSV file itself."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        path = path.expanduser().absolute()
        self._file = path if path.suffix.lower() in (".csv", ".tsv") else path / CATALOG_FILE
        self._root = self._file.parent
        self._columns = columns
        if not self._file.is_file():
            raise CatalogError(
                f"No catalog at {path}: {self._file} is missing.",
                remedy=f"Name a folder with {CATALOG_FILE} and images/<id>.jpg, or the CSV file itself.",
            )

    @property
    def name(self) -> str:
        return str(self._file.parent.resolve() if self._file.name == CATALOG_FILE else self._file.resolve())

    def num_rows(self) -> int | None:
        with open(self._file, "rb") as file:
            return max(0, sum(1 for _ in file) - 1)

    def rows(self) -> Iterator[RawRow | Rejection]:
        try:
            with open(self._file, "rb") as file:
                yield from read_table(CsvTable(file, where=str(self._file)), self._columns, where=str(self._file))
        except OSError as error:
            raise CatalogError(f"Cannot read {self._file}: {error.strerror}.") from error

    def image(self, row: RawRow) -> bytes:
        for name in image_names(row):
            path = self._root / name
            try:
                if path.stat().st_size > MAX_BYTES:
                    raise ImageError(f"{name} has more than {MAX_BYTES} bytes.")
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise ImageError(f"Cannot read {name}: {error.strerror}.") from error
        raise ImageError(f"There is no picture {image_names(row)[0]}.")


class S3Source:
    """The same layout in a bucket, through boto3; the path may name the CSV object itself."""

    def __init__(self, bucket: str, path: str, columns: Mapping[str, str], *, endpoint_url: str = "") -> None:
        is_file = path.lower().endswith((".csv", ".tsv"))
        self._bucket = bucket
        self._key = path if is_file else f"{path}/{CATALOG_FILE}".lstrip("/")
        self._root = PurePosixPath(self._key).parent
        self._columns = columns
        self._name = f"s3://{bucket}/{path}".rstrip("/")
        self._client = s3_client(endpoint_url)

    @property
    def name(self) -> str:
        return self._name

    def num_rows(self) -> int | None:
        return None

    def rows(self) -> Iterator[RawRow | Rejection]:
        where = f"s3://{self._bucket}/{self._key}"
        # A local copy: a connection held open for the hours of a large ingest would break.
        with tempfile.TemporaryFile(prefix="enclip-") as file:
            if not self._fetch(self._key, file):
                raise CatalogError(
                    f"No catalog at {self._name}: {where} is missing.", remedy="Check bucket and prefix."
                )
            file.seek(0)
            yield from read_table(CsvTable(file, where=where), self._columns, where=where)

    def image(self, row: RawRow) -> bytes:
        for name in image_names(row):
            with tempfile.SpooledTemporaryFile(max_size=MAX_BYTES, prefix="enclip-") as file:
                if self._fetch((self._root / name).as_posix(), file):
                    file.seek(0)
                    return file.read()
        raise ImageError(f"There is no picture {image_names(row)[0]}.")

    def _fetch(self, key: str, file: Any) -> bool:
        """Download an object; False where there is none."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
            for piece in body.iter_chunks(1 << 20):
                file.write(piece)
        except (BotoCoreError, ClientError) as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
            if code in ("NoSuchKey", "404"):
                return False
            raise StoreError(
                f"Cannot read s3://{self._bucket}/{key}: {error}.",
                remedy="Check ENCLIP_S3_ENDPOINT_URL, the bucket and AWS_ACCESS_KEY_ID / AWS_SECRET_ACCESS_KEY.",
            ) from error
        return True


class HuggingFaceSource:
    """A data set of the Hugging Face hub, or a local folder in its format, streamed; split `train`."""

    def __init__(self, name: str, columns: Mapping[str, str]) -> None:
        try:
            import datasets
        except ImportError as error:
            raise CatalogError(
                f"hf:{name} needs the package datasets, which is not installed.",
                remedy="Install the extra: pip install 'enclip[hf]'.",
            ) from error
        try:
            table = datasets.load_dataset(name, split="train", streaming=True)
            # Data sets of plain files say what columns they have only by their first record.
            self._header = list(table.features or next(iter(table)))
            image = columns["image"]
            # Bytes as they are: decoding is ours, with its limits.
            self._table = table.cast_column(image, datasets.Image(decode=False)) if image in self._header else table
        except Exception as error:  # the hub, the network and the format all have their own
            raise CatalogError(f"Cannot open hf:{name}: {error}.", remedy="Check the name and the network.") from error
        self._dataset = name
        self._columns = columns

    @property
    def name(self) -> str:
        return f"hf:{self._dataset}"

    def num_rows(self) -> int | None:
        return None

    def rows(self) -> Iterator[RawRow | Rejection]:
        column = self._columns["image"]
        header = [name for name in self._header if name != column]
        found = find_columns(header, self._columns, where=self.name)
        for number, record in enumerate(self._records(), 1):
            item = to_row(number, {name: _text(record.get(name)) for name in header}, found)
            picture = record.get(column) or {}
            if isinstance(item, RawRow):
                item = replace(item, data=picture.get("bytes") or _bytes_of(picture.get("path")))
            yield item

    def _records(self) -> Iterator[Mapping[str, Any]]:
        try:
            yield from self._table
        except Exception as error:  # as above
            raise StoreError(f"Cannot read on in {self.name}: {error}.", remedy="Run again; it goes on.") from error

    def image(self, row: RawRow) -> bytes:
        if not row.data:
            raise ImageError("The row has no picture.")
        return row.data


def read_table(table: CsvTable, columns: Mapping[str, str], *, where: str) -> Iterator[RawRow | Rejection]:
    """Rows of a CSV table. Raises CatalogError where a needed column is missing."""
    found = find_columns(table.header, columns, where=where)
    width = len(table.header)
    for item in table.rows():
        if isinstance(item, Rejection):
            yield item
            continue
        cells = _fitted(item, width, name_is_last=table.header[-1] == found.get("name"))
        if isinstance(cells, Rejection):
            yield cells
        else:
            yield to_row(item.row, dict(zip(table.header, cells, strict=True)), found)


def find_columns(header: Sequence[str], columns: Mapping[str, str], *, where: str) -> dict[str, str]:
    """Field → the header's spelling of its column, for the fields that there are.

    Raises:
        CatalogError: no id column, neither name nor articleType, or a column is there twice.
    """
    spelled = {name.casefold(): name for name in header}
    if len(spelled) != len(header):
        twice = sorted({name for name in header if [other.casefold() for other in header].count(name.casefold()) > 1})
        raise CatalogError(f"{where} has the column {', '.join(map(repr, twice))} more than once.")
    found = {field: spelled[column.casefold()] for field, column in columns.items() if column.casefold() in spelled}
    missing = [columns["id"]] if "id" not in found else []
    if "name" not in found and "article_type" not in found:
        missing.append(f"{columns['name']} or {columns['article_type']}")
    if missing:
        raise CatalogError(
            f"{where} has no column {' and no '.join(missing)}; it has {', '.join(header)}.",
            remedy="Say which columns to read: --map id=sku,name=title,image=file.",
        )
    return found


def to_row(number: int, record: Mapping[str, str], found: Mapping[str, str]) -> RawRow | Rejection:
    """One row's cells → a RawRow, or why not."""
    values = {field: record[column].strip() for field, column in found.items()}
    product_id = values["id"]
    shown = product_id[:MAX_ID]
    if product_id.casefold() in NOTHING:
        return Rejection(number, shown, "the id is empty")
    if len(product_id) > MAX_ID or not re.fullmatch(r"[^\s\x00-\x1f\x7f]+", product_id):
        return Rejection(number, shown, f"the id has white space, control characters or more than {MAX_ID} characters")
    for field, value in values.items():
        if len(value) > MAX_CELL or "\0" in value:
            return Rejection(number, shown, f"{found[field]} has a NUL or more than {MAX_CELL} characters")
    attributes: dict[str, Any] = {name: _attribute(values.get(name, "")) for name in ATTRIBUTES}
    attributes["year"] = attributes["year"].removesuffix(".0")  # a year that went through a float column
    name = " ".join(values.get("name", "").split())
    if not name and not attributes["article_type"]:
        return Rejection(number, shown, "neither a name nor an articleType")
    image = values.get("image", "")
    if image and (PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts):
        return Rejection(number, shown, f"the picture {image!r} lies outside the catalog's folder")
    product = Product(product_id, name, "", **attributes)
    return RawRow(number, product, image)


def image_names(row: RawRow) -> list[str]:
    """Where a row's picture may lie, relative to the table, likeliest first."""
    if row.image:
        return [row.image, f"images/{row.image}"]
    safe = row.product.product_id.replace("/", "_")  # an id is not a path
    return [f"images/{safe}.{ending}" for ending in IMAGE_ENDINGS]


def _columns(mapping: Mapping[str, str]) -> dict[str, str]:
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


def _fitted(item: Cells, width: int, *, name_is_last: bool) -> list[str] | Rejection:
    cells = item.cells
    if len(cells) > width and not name_is_last and any(cell.strip() for cell in cells[width:]):
        return Rejection(item.row, cells[0][:MAX_ID], f"{len(cells)} cells where the header has {width}")
    fitted = repaired(cells, width) if name_is_last else cells[:width]
    if fitted is None or len(fitted) < width:
        return Rejection(item.row, cells[0][:MAX_ID], f"{len(cells)} cells where the header has {width}")
    return fitted


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _bytes_of(path: str | None) -> bytes | None:
    with suppress(OSError):
        return Path(path).read_bytes() if path else None
    return None
