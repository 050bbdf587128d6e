"""A store on each database, and catalogs written by hand."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from enclip.blobs import FileBlobs
from enclip.catalog.drawn import COLUMNS
from enclip.catalog.store import CatalogStore
from enclip.database import open_database

HEADER = tuple(name for name in COLUMNS if name != "price")  # of a catalog that has none


def picture(seed: int, *, side: int = 60, size: tuple[int, int] | None = None, form: str = "JPEG") -> bytes:
    """A picture unlike that of any other seed: coarse coloured blocks, at 3:4 where no width and height are said."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(blocks).resize(size or (side, side * 4 // 3), Image.Resampling.NEAREST).save(out, form)
    return out.getvalue()


def row(product_id: object, name: str = "", **values: str) -> dict[str, str]:
    """A row of styles.csv with everyday values."""
    usual = {
        "gender": "Men",
        "masterCategory": "Apparel",
        "subCategory": "Topwear",
        "articleType": "Shirts",
        "baseColour": "Blue",
        "season": "Fall",
        "year": "2025",
        "usage": "Casual",
    }
    return {**usual, "id": str(product_id), "productDisplayName": name or f"Shirt number {product_id}", **values}


def write_catalog(folder: Path, rows: Sequence[Mapping[str, str]], pictures: Mapping[str, bytes] | None = None) -> Path:
    """styles.csv and images/; a product without a given picture gets one of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "styles.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "images").mkdir(exist_ok=True)
    for number, product in enumerate(rows):
        seed = int(product["id"]) if product["id"].isdigit() else 10_000 + number
        data = (pictures or {}).get(product["id"], picture(seed))
        (folder / "images" / f"{product['id']}.jpg").write_bytes(data)
    return folder


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CatalogStore]:
    """An empty catalog; each test runs on SQLite and on Postgres."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'home' / 'catalog.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    engine = open_database(url)
    yield CatalogStore(engine)
    engine.dispose()


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[CatalogStore]:
    """An empty catalog on SQLite, for what does not depend on the database."""
    engine = open_database(f"sqlite:///{tmp_path / 'home' / 'catalog.db'}")
    yield CatalogStore(engine)
    engine.dispose()


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "home" / "store")
