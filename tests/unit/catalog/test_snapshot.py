"""Snapshots: named by content, immutable, checked; and pictures decoded once."""

import threading
from pathlib import Path

import numpy as np
import pytest

from enclip.blobs import FileBlobs
from enclip.catalog.images import decode, fit_square, image_key
from enclip.catalog.ingest import ingest
from enclip.catalog.read import open_source
from enclip.catalog.snapshot import (
    load_snapshot,
    pictures,
    pixel_map,
    snapshot_key,
    stored_side,
    take_snapshot,
    typical_aspect,
)
from enclip.catalog.store import CatalogStore
from enclip.errors import SnapshotError, StoreError
from enclip.records import Products

from .conftest import picture, row, write_catalog


@pytest.fixture
def products(sqlite_store: CatalogStore, blobs: FileBlobs, drawn_catalog: Path) -> Products:
    ingest(open_source(str(drawn_catalog)), sqlite_store, blobs)
    return sqlite_store.products()


def test_a_snapshot_is_the_catalog_and_is_named_by_it(
    products: Products, sqlite_store: CatalogStore, blobs: FileBlobs
) -> None:
    taken = take_snapshot(sqlite_store, blobs)
    assert taken.num_products == 120
    assert taken == take_snapshot(sqlite_store, blobs)
    assert taken.digest == sqlite_store.state_digest()
    loaded = load_snapshot(blobs, taken.digest)
    assert list(loaded) == list(products)
    assert list(loaded.product_id) == sorted(loaded.product_id)

    sqlite_store.withdraw([str(products.product_id[0])])
    later = take_snapshot(sqlite_store, blobs)
    assert later.digest != taken.digest and later.num_products == 119
    assert len(load_snapshot(blobs, taken.digest)) == 120


def test_the_digest_is_the_same_on_every_database(
    store: CatalogStore, sqlite_store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    # Ids that databases collate differently.
    rows = [row(product_id, f"Shirt {product_id}") for product_id in ("b-1", "B-1", "a_2", "A-2", "é3", "10", "9")]
    source = open_source(str(write_catalog(tmp_path / "shop", rows)))
    ingest(source, store, blobs)
    ingest(source, sqlite_store, blobs)
    assert store.state_digest() == sqlite_store.state_digest() == take_snapshot(store, blobs).digest


def test_an_empty_catalog_gives_no_snapshot(sqlite_store: CatalogStore, blobs: FileBlobs) -> None:
    with pytest.raises(SnapshotError, match=r"empty.*enclip ingest"):
        take_snapshot(sqlite_store, blobs)


def test_a_missing_or_damaged_snapshot_is_refused(
    products: Products, sqlite_store: CatalogStore, blobs: FileBlobs
) -> None:
    digest = take_snapshot(sqlite_store, blobs).digest
    with pytest.raises(SnapshotError, match="cannot be read"):
        load_snapshot(blobs, "0" * 32)
    blobs.put(snapshot_key("0" * 32), blobs.get(snapshot_key(digest)))
    with pytest.raises(SnapshotError, match=f"has the digest {digest}"):
        load_snapshot(blobs, "0" * 32)
    blobs.put(snapshot_key(digest), blobs.get(snapshot_key(digest))[:-20])
    with pytest.raises(SnapshotError, match="damaged"):
        load_snapshot(blobs, digest)


def test_the_pixel_map_is_each_picture_on_its_square(products: Products, blobs: FileBlobs, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    pixels = pixel_map(
        products, blobs, side=48, scratch=tmp_path, digest="d", progress=lambda done, total: steps.append((done, total))
    )
    assert pixels.shape == (120, 48, 48, 3) and pixels.dtype == np.uint8 and not pixels.flags.writeable
    assert steps[-1] == (120, 120)
    for index in (0, 57, 119):
        expected = fit_square(decode(blobs.get(image_key(str(products.image_sha256[index])))), 48)
        assert (pixels[index] == expected).all()


def test_the_pixel_map_is_decoded_once_and_made_again_when_damaged(
    products: Products, blobs: FileBlobs, tmp_path: Path
) -> None:
    pixel_map(products, blobs, side=16, scratch=tmp_path, digest="d")
    (file,) = (tmp_path / "pixels").iterdir()
    made = file.stat().st_mtime_ns
    pixel_map(products, blobs, side=16, scratch=tmp_path, digest="d")
    assert file.stat().st_mtime_ns == made
    file.write_bytes(file.read_bytes()[:1000])
    assert pixel_map(products, blobs, side=16, scratch=tmp_path, digest="d").shape == (120, 16, 16, 3)


def test_a_pixel_map_that_fails_leaves_nothing_behind(products: Products, blobs: FileBlobs, tmp_path: Path) -> None:
    blobs.path(image_key(str(products.image_sha256[60]))).unlink()
    with pytest.raises(StoreError):
        pixel_map(products, blobs, side=16, scratch=tmp_path, digest="d")
    assert list((tmp_path / "pixels").iterdir()) == []


@pytest.mark.parametrize("with_map", [True, False])
def test_a_few_pictures_are_decoded_alone_and_as_the_map_has_them(
    products: Products, blobs: FileBlobs, tmp_path: Path, with_map: bool
) -> None:
    expected = np.array(pixel_map(products, blobs, side=16, scratch=tmp_path, digest="d"))
    scratch = tmp_path if with_map else tmp_path / "elsewhere"
    blobs.path(image_key(str(products.image_sha256[60]))).unlink()  # which a map of all would need
    rows = np.array([119, 3, 57])
    (found,) = pictures(products, blobs, rows, side=16, scratch=scratch, digest="d")
    assert (found == expected[rows]).all()
    assert with_map or not scratch.exists()


def test_two_may_ask_for_the_same_pixel_map_at_once(products: Products, blobs: FileBlobs, tmp_path: Path) -> None:
    found: list[np.ndarray] = []

    def ask() -> None:
        found.append(pixel_map(products, blobs, side=32, scratch=tmp_path, digest="d"))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and all((one == found[0]).all() for one in found)


def test_pictures_are_stored_no_larger_than_they_are(
    products: Products, sqlite_store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    assert stored_side(products, blobs, model_side=224) == 80
    assert stored_side(products, blobs, model_side=64) == 64
    shop = write_catalog(tmp_path / "shop", [row(1)], {"1": picture(1, side=300)})
    ingest(open_source(str(shop)), sqlite_store, blobs)
    large = sqlite_store.products()
    assert stored_side(large.take(large.product_id == "1"), blobs, model_side=224) == 224


@pytest.mark.parametrize(
    ("sizes", "aspect"),
    [
        ([(60, 80)] * 9 + [(80, 60)], 0.75),
        ([(60, 80)] * 8 + [(80, 60)] * 2, 1.0),
        ([(80, 60)] * 10, 4 / 3),
        ([(50, 50)] * 10, 1.0),
        ([(60, 80)] * 5 + [(64, 80)] * 5, 0.8),
    ],
)
def test_the_typical_shape_is_one_that_nine_in_ten_pictures_fit(
    sizes: list[tuple[int, int]], aspect: float, sqlite_store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    pictures = {str(number): picture(number, size=size) for number, size in enumerate(sizes, start=1)}
    shop = write_catalog(tmp_path / "shop", [row(number) for number in range(1, len(sizes) + 1)], pictures)
    ingest(open_source(str(shop)), sqlite_store, blobs)
    assert typical_aspect(sqlite_store.products(), blobs) == pytest.approx(aspect)
