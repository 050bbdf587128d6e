"""A source → catalog rows: a folder, an S3 prefix or a Hugging Face data set, with other column names if need be.

The layout that users download is `styles.csv` beside `images/<id>.jpg`; a folder of pictures sorted into
sub-folders by label (`catalog/labelled.py`) needs no table.
"""

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from enclip.blobs import s3_client
from enclip.catalog.columns import MAX_SHOWN, RawRow, columns_of, find_columns, image_names, read_table, to_row
from enclip.catalog.images import MAX_BYTES
from enclip.catalog.labelled import labelled_rows, labels_of
from enclip.catalog.rows import CsvTable
from enclip.errors import CatalogError, ImageError, StoreError
from enclip.records import Rejection

CATALOG_FILE = "styles.csv"


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

    A folder without `styles.csv` is one of labelled pictures, where it has sub-folders with pictures.

    Args:
        source: the place.
        mapping: field (`name`, `image`, `article_type` or `articleType` …) → the column that holds it; only
            a table has columns.
        s3_endpoint_url: an S3-compatible endpoint; "" for AWS.

    Raises:
        ConfigError: the mapping names an unknown field.
        CatalogError: there is no such folder or file, no bucket, or `hf:` without its optional extra.
    """
    columns = columns_of(mapping or {})
    if source.startswith("s3://"):
        bucket, _, path = source.removeprefix("s3://").partition("/")
        if not bucket:
            raise CatalogError(f"{source} names no bucket.", remedy="Write s3://bucket/prefix.")
        return S3Source(bucket, path.strip("/"), columns, endpoint_url=s3_endpoint_url)
    if source.startswith("hf:"):
        return HuggingFaceSource(source.removeprefix("hf:"), columns)
    folder = Path(source.removeprefix("file://"))
    return FolderSource(folder, columns) if mapping else _labelled(folder) or FolderSource(folder, columns)


class FolderSource:
    """A folder with `styles.csv` and `images/`; the path may name the CSV file itself."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        remedy = (
            f"Name a folder with {CATALOG_FILE} and images/<id>.jpg, the CSV file itself, or a folder of pictures "
            "sorted into sub-folders by label (LABEL/picture.jpg)."
        )
        try:
            path = path.expanduser().absolute()
            self._file = path if path.suffix.lower() in (".csv", ".tsv") else path / CATALOG_FILE
            if not self._file.is_file():
                problem = "is no file" if self._file.exists() else "is missing"
                raise CatalogError(f"No catalog at {path}: {self._file} {problem}.", remedy=remedy)
            self._root = Path(os.path.realpath(self._file.parent))
            self._name = str(self._root if self._file.name == CATALOG_FILE else self._file.resolve())
        except (OSError, RuntimeError, ValueError) as error:  # no access, nobody's home, too long, a NUL
            raise CatalogError(
                f"No catalog at {str(path)[:MAX_SHOWN]!r}: {error!s:.{MAX_SHOWN}}.", remedy=remedy
            ) from error
        self._columns = columns

    @property
    def name(self) -> str:
        return self._name

    def num_rows(self) -> int | None:
        with self._open() as file:
            # Not line by line: a line may be as long as the file.
            return max(0, sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b"")) - 1)

    def rows(self) -> Iterator[RawRow | Rejection]:
        with self._open() as file:
            yield from read_table(CsvTable(file, where=str(self._file)), self._columns, where=str(self._file))

    def image(self, row: RawRow) -> bytes:
        for name in image_names(row):
            data = _picture_in(self._root, name)
            if data is not None:
                return data
        raise ImageError(f"There is no picture {image_names(row)[0]}.")

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        try:
            with open(self._file, "rb") as file:
                yield file
        except OSError as error:
            raise CatalogError(
                f"Cannot read {self._file}: {error.strerror}.", remedy="Check that it may be read."
            ) from error


class LabelledSource:
    """A folder of pictures in sub-folders that are called by their label, the layout of image classification."""

    def __init__(self, root: Path, labels: Sequence[str]) -> None:
        self._root, self._labels = root, labels

    @property
    def name(self) -> str:
        return str(self._root)

    def num_rows(self) -> int | None:
        return sum(1 for _ in self.rows())

    def rows(self) -> Iterator[RawRow | Rejection]:
        yield from labelled_rows(self._root, self._labels)

    def image(self, row: RawRow) -> bytes:
        data = _picture_in(self._root, row.image)
        if data is None:
            raise ImageError(f"There is no picture {row.image}.")
        return data


def _labelled(path: Path) -> LabelledSource | None:
    """The labelled pictures of a folder that has no table; None where it has one, or no label."""
    try:
        root = Path(os.path.realpath(path.expanduser()))
        # lexists: a table that is no file, or cannot be read, is an error and not a folder without one.
        labels = [] if os.path.lexists(root / CATALOG_FILE) or not root.is_dir() else labels_of(root)
    except (OSError, RuntimeError, ValueError):
        return None  # what is wrong with the place is for `FolderSource` to say
    return LabelledSource(root, labels) if labels else None


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
                if self._fetch((self._root / name).as_posix(), file, max_bytes=MAX_BYTES):
                    file.seek(0)
                    return file.read()
        raise ImageError(f"There is no picture {image_names(row)[0]}.")

    def _fetch(self, key: str, file: Any, *, max_bytes: int | None = None) -> bool:
        """Download an object; False where there is none. Raises ImageError for one that is too large."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            found = self._client.get_object(Bucket=self._bucket, Key=key)
            if max_bytes is not None and found["ContentLength"] > max_bytes:
                found["Body"].close()
                raise ImageError(f"{key} has {found['ContentLength']} bytes; {max_bytes} are the most.")
            for piece in found["Body"].iter_chunks(1 << 20):
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
            wanted = columns["image"].casefold()
            image = next((column for column in self._header if column.casefold() == wanted), "")
            # Bytes as they are: decoding is ours, with its limits.
            self._table = table.cast_column(image, datasets.Image(decode=False)) if image else table
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
        found = find_columns(self._header, self._columns, where=self.name)
        column = found.pop("image", "")
        for number, record in enumerate(self._records(), 1):
            item = to_row(number, {name: _text(record.get(name)) for name in found.values()}, found)
            picture = record.get(column) or {}
            if isinstance(item, RawRow):
                item = replace(item, data=picture.get("bytes") or self._file(picture.get("path")))
            yield item

    def _file(self, path: str | None) -> bytes | None:
        """A picture that a local data set names by its path. One of the hub cannot name files of this machine."""
        with suppress(ImageError):
            return _picture_in(Path(os.path.realpath(self._dataset)), path) if path else None
        return None

    def _records(self) -> Iterator[Mapping[str, Any]]:
        try:
            yield from self._table
        except Exception as error:  # as above
            raise StoreError(f"Cannot read on in {self.name}: {error}.", remedy="Run again; it goes on.") from error

    def image(self, row: RawRow) -> bytes:
        if not row.data:
            raise ImageError("The row has no picture.")
        return row.data


def _picture_in(folder: Path, name: str) -> bytes | None:
    """The file of that name in a folder without links in its own path; None where there is none. Raises ImageError."""
    real = Path(os.path.realpath(folder / name))
    if not real.is_relative_to(folder):
        raise ImageError(f"{name} leads out of the catalog's folder.")
    try:
        about = real.stat()
        if not stat.S_ISREG(about.st_mode):  # to read a pipe or a device might never end
            raise ImageError(f"{name} is no file.")
        if about.st_size > MAX_BYTES:
            raise ImageError(f"{name} has {about.st_size} bytes; {MAX_BYTES} are the most.")
        return real.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ImageError(f"Cannot read {name}: {error.strerror}.") from error


def _text(value: object) -> str:
    return "" if value is None else str(value)
