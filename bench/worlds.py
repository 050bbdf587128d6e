"""The catalogs that programs here measure on: drawn 60×80 JPEGs, taken in as a shop's would be."""

import csv
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.blobs import Blobs, open_blobs
from enclip.catalog.drawn import draw_catalog
from enclip.catalog.ingest import ingest
from enclip.catalog.read import open_source
from enclip.catalog.snapshot import load_snapshot, pixel_map, take_snapshot
from enclip.catalog.store import CatalogStore
from enclip.database import open_database
from enclip.models.batches import TrainingData
from enclip.records import Products

SIDE = 80  # px, of the stored canvas


@dataclass(frozen=True)
class Catalog:
    """A folder as users have it, and what became of it."""

    folder: Path
    blobs: Blobs
    products: Products
    digest: str


def drawn_catalog(scratch: Path, *, num_products: int) -> Catalog:
    """A drawn catalog, taken in and frozen."""
    folder = draw_catalog(scratch / "catalog", num_products=num_products, seed=0)
    store = CatalogStore(open_database(f"sqlite:///{scratch / 'catalog.db'}"))
    blobs = open_blobs(str(scratch / "store"))
    ingest(open_source(str(folder)), store, blobs)
    digest = take_snapshot(store, blobs).digest
    return Catalog(folder=folder, blobs=blobs, products=load_snapshot(blobs, digest), digest=digest)


def drawn_pixels(catalog: Catalog, scratch: Path) -> tuple[float, NDArray[np.uint8]]:
    """Seconds that the pixel map took, and the map."""
    start = time.perf_counter()
    pixels = pixel_map(catalog.products, catalog.blobs, side=SIDE, scratch=scratch, digest=catalog.digest)
    return time.perf_counter() - start, pixels


def open_clip_table(folder: Path) -> Path:
    """The catalog as `open_clip_train` reads it: tab-separated `filepath` and `title`."""
    table = folder / "open_clip.csv"
    with open(folder / "styles.csv", newline="") as source, open(table, "w", newline="") as target:
        writer = csv.writer(target, delimiter="\t")
        writer.writerow(("filepath", "title"))
        for row in csv.DictReader(source):
            writer.writerow((folder / "images" / f"{row['id']}.jpg", row["productDisplayName"]))
    return table


def drawn_training_data(scratch: Path, *, num_products: int) -> tuple[Path, TrainingData]:
    """A drawn catalog's folder, and its products ready to train on."""
    catalog = drawn_catalog(scratch, num_products=num_products)
    _, pixels = drawn_pixels(catalog, scratch)
    rows = np.arange(len(catalog.products))
    return catalog.folder, TrainingData(products=catalog.products, pixels=pixels, rows=rows)
