"""Freeze the live catalog: an immutable Parquet file named by its content, and its pictures decoded once (D9)."""

import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from enclip.blobs import Blobs, writing
from enclip.catalog.images import decode, fit_square, image_key, size_of
from enclip.catalog.store import CatalogDigest, CatalogStore, content_hash, without_prices
from enclip.cores import available_cores
from enclip.errors import ImageError, SnapshotError, StoreError
from enclip.product_table import from_table, to_table
from enclip.records import Products

logger = logging.getLogger(__name__)

SAMPLE = 200  # pictures whose size is looked at to choose the stored side
SIDE_STEP = 16
CHUNK = 256
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SnapshotRef:
    """A frozen catalog. `digest` is over the products' ids, contents, groups, splits and prices."""

    digest: str
    num_products: int


def snapshot_key(digest: str) -> str:
    """Where a snapshot lies in the blob store."""
    return f"snapshots/{digest}.parquet"


def take_snapshot(store: CatalogStore, blobs: Blobs) -> SnapshotRef:
    """Freeze the live catalog; the same catalog gives the same digest and writes nothing again.

    The digest equals `store.state_digest()` of the same moment.

    Raises:
        SnapshotError: the catalog is empty.
    """
    products = store.products()
    if not len(products):
        raise SnapshotError("The catalog is empty.", remedy="Take products in first: enclip ingest PATH.")
    digest = products_digest(products)
    if not blobs.exists(snapshot_key(digest)):
        out = io.BytesIO()
        pq.write_table(to_table(products), out, compression="zstd")
        blobs.put(snapshot_key(digest), out.getvalue())
    return SnapshotRef(digest, len(products))


def load_snapshot(blobs: Blobs, digest: str) -> Products:
    """The products of a snapshot, checked against its digest.

    Raises:
        SnapshotError: there is none, or it is not what its name says.
    """
    key = snapshot_key(digest)
    try:
        data = blobs.get(key)
    except StoreError as error:
        raise SnapshotError(f"Snapshot {digest} cannot be read from {blobs.url}: {error.what}") from error
    try:
        products = from_table(pq.read_table(io.BytesIO(data)))
        found = products_digest(products)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"Snapshot {blobs.url}/{key} is damaged: {error}.") from error
    if found != digest:
        raise SnapshotError(f"Snapshot {blobs.url}/{key} is damaged: its content has the digest {found}.")
    return products


def products_digest(products: Products) -> str:
    """The digest of these products, sorted by id as `Products` are."""
    digest = CatalogDigest()
    for product in products:
        digest.add(product.product_id, content_hash(product), product.group_id, product.split.value, product.price)
    return digest.hexdigest()


def stored_side(products: Products, blobs: Blobs, model_side: int) -> int:
    """Side of the square canvas on which pictures are kept: the model's, or less where they have no more detail.

    The typical (90th percentile) longest side of a sample, rounded up to 16 px, at most `model_side`.
    """
    typical = int(np.quantile(_sizes(products, blobs).max(axis=1), 0.9, method="higher"))
    return min(model_side, -(-typical // SIDE_STEP) * SIDE_STEP)


def typical_aspect(products: Products, blobs: Blobs) -> float:
    """Width over height of a frame that nine in ten pictures of a sample fill or fit into, all of them the same way up.

    1 where there is no such frame but the square.
    """
    width, height = _sizes(products, blobs).T
    upright = np.median(width / height) < 1
    narrower = width / height if upright else height / width
    fits = min(1.0, float(np.quantile(narrower, 0.9, method="inverted_cdf")))
    return fits if upright else 1 / fits


def _sizes(products: Products, blobs: Blobs) -> NDArray[np.int64]:
    """Width and height of a sample's pictures, in px."""
    rows = np.linspace(0, len(products) - 1, min(SAMPLE, len(products))).astype(int)
    return np.array([size_of(blobs.get(image_key(sha))) for sha in products.image_sha256[rows]])


def pixel_map(
    products: Products,
    blobs: Blobs,
    *,
    side: int,
    scratch: Path,
    digest: str,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Every picture on a white square canvas: a read-only memory map `[N, side, side, 3]` uint8, rows as products.

    Decoded once per snapshot (whatever its prices) and side, several at a time, and published by rename: a second
    caller finds it whole or not at all. It can be deleted at any time.

    Raises:
        StoreError: a picture is missing from the store, or the disk is full.
        ImageError: a picture cannot be decoded, although it could at ingest.
    """
    path = _map_path(scratch, digest, side)
    shape = (len(products), side, side, 3)
    if (found := _existing(path, shape)) is not None:
        return found
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=".npy")
        os.close(handle)
        try:
            _decode_all(products, blobs, Path(name), side=side, progress=progress)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    found = _existing(path, shape)
    if found is None:
        raise StoreError(f"{path} vanished while it was written.", remedy="Run again.")
    return found


def pictures(
    products: Products, blobs: Blobs, rows: NDArray[np.int64], *, side: int, scratch: Path, digest: str
) -> Iterator[NDArray[np.uint8]]:
    """Some products' pictures as the pixel map has them, in batches `[n, side, side, 3]` and in order.

    They come from the map where there is one. Otherwise these alone are decoded: a few newcomers are not worth a map
    of the whole catalog.

    Raises:
        StoreError, ImageError: as `pixel_map`.
    """
    known = _existing(_map_path(scratch, digest, side), (len(products), side, side, 3))
    with ThreadPoolExecutor(max_workers=available_cores()) as workers:
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            if known is not None:
                yield known[part]
            else:
                yield np.stack(list(workers.map(lambda row: _decoded(products, blobs, row, side), part)))


def _map_path(scratch: Path, digest: str, side: int) -> Path:
    return scratch / "pixels" / f"{without_prices(digest)}-{side}.npy"


def _decoded(products: Products, blobs: Blobs, row: int, side: int) -> NDArray[np.uint8]:
    try:
        return fit_square(decode(blobs.get(image_key(products.image_sha256[row]))), side)
    except ImageError as error:
        raise ImageError(f"Picture of product {products.product_id[row]}: {error.what}") from error


def _decode_all(products: Products, blobs: Blobs, path: Path, *, side: int, progress: Progress | None) -> None:
    shape = (len(products), side, side, 3)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with open(path, "r+b") as file:
        # The map's file has holes: writing to one with the disk full would kill this process by SIGBUS.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

    def fill(row: int) -> None:
        pixels[row] = _decoded(products, blobs, row, side)

    # Pillow lets go of the interpreter while it decodes and resizes, so threads do.
    with ThreadPoolExecutor(max_workers=available_cores()) as workers:
        for start in range(0, len(products), CHUNK):
            stop = min(start + CHUNK, len(products))
            list(workers.map(fill, range(start, stop)))
            if progress is not None:
                progress(stop, len(products))
    pixels.flush()


def _existing(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    try:
        pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None
