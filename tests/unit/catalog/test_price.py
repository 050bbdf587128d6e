"""Prices: read where there are any, known to snapshots and indexes, and no part of what is learnt."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from enclip import ledger
from enclip.blobs import FileBlobs
from enclip.catalog.columns import COLUMNS, RawRow, find_columns, to_row
from enclip.catalog.ingest import ingest
from enclip.catalog.read import open_source
from enclip.catalog.snapshot import load_snapshot, snapshot_key, take_snapshot
from enclip.catalog.store import CatalogStore, content_hash, without_prices
from enclip.config import Settings
from enclip.database import open_database
from enclip.pipeline.changed import should_retrain
from enclip.pipeline.platform import open_platform
from enclip.records import Product, Products, Rejection
from enclip.retrieval.files import PRODUCTS, Parts

from .conftest import row, write_catalog


def price_of(cell: str) -> float | str | None:
    """The price of a cell, or why not."""
    item = to_row(7, {"id": "1", "articleType": "Shirts", "Price": cell}, found())
    return item.product.price if isinstance(item, RawRow) else item.reason


def found() -> dict[str, str]:
    return find_columns(["id", "articleType", "Price"], COLUMNS, where="styles.csv")


@pytest.mark.parametrize(
    ("cell", "price"),
    [("19.90", 19.9), ("0", 0.0), (" 1299 ", 1299.0), ("1.5e3", 1500.0), ("5.", 5.0), ("", None), ("NA", None)],
)
def test_a_price_is_a_number_or_nothing(cell: str, price: float | None) -> None:
    assert price_of(cell) == price


@pytest.mark.parametrize("cell", ["-1", "12,50", "$5", "1_000", "inf", "1e13", "0x10", "٣", "5 USD", "1" * 400, "e5"])
def test_anything_else_sets_its_row_aside_and_names_the_column(cell: str) -> None:
    reason = price_of(cell)
    assert isinstance(reason, str)
    assert reason.startswith("Price ")
    assert "19.90" in reason
    assert len(reason) < 150


def test_a_column_of_another_name_can_be_mapped(store: CatalogStore, blobs: FileBlobs, tmp_path: Path) -> None:
    shop = write_catalog(tmp_path / "shop", [row(1, price="5"), row(2, price="6.5"), row(3, price="cheap")])
    styles = shop / "styles.csv"
    styles.write_text(styles.read_text().replace(",price,", ",our_price,"))
    plain = ingest(open_source(str(shop)), store, blobs)
    assert plain.accepted == 3
    assert np.isnan(store.products().price).all()

    report = ingest(open_source(str(shop), mapping={"price": "our_price"}), store, blobs)

    assert (report.accepted, report.unchanged) == (2, 0)
    assert [(bad.row, bad.product_id) for bad in report.rejections] == [(3, "3")]
    assert "our_price 'cheap'" in report.rejections[0].reason
    assert isinstance(report.rejections[0], Rejection)
    np.testing.assert_array_equal(store.products().price, [5.0, 6.5, np.nan])
    product = store.get("2")
    assert product is not None and product.price == 6.5


def test_a_new_price_is_taken_in_without_a_look_at_the_picture(
    store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    shop = write_catalog(tmp_path / "shop", [row(1, price="5"), row(2)])
    ingest(open_source(str(shop)), store, blobs)
    before, digest = store.products(), store.state_digest()

    write_catalog(shop, [row(1, price="7"), row(2)])
    for image in (tmp_path / "home" / "store" / "images").rglob("*"):
        if image.is_file():
            image.unlink()  # whoever decodes a picture stores it
    report = ingest(open_source(str(shop)), store, blobs)

    assert (report.accepted, report.unchanged, report.rejected) == (1, 1, 0)
    assert not any(path.is_file() for path in (tmp_path / "home" / "store" / "images").rglob("*"))
    after = store.products()
    assert list(after.price[:1]) == [7.0]
    assert list(after.split) == list(before.split)
    assert store.state_digest() != digest
    assert without_prices(store.state_digest()) == without_prices(digest)
    assert (ingest(open_source(str(shop)), store, blobs).accepted, store.state_digest()) == (0, store.state_digest())


def test_a_price_is_no_part_of_what_a_product_is() -> None:
    assert content_hash(Product("1", "Shirt", "", price=5)) == content_hash(Product("1", "Shirt", "", price=None))


def test_a_withdrawn_product_that_comes_back_dearer_is_live_at_its_new_price(
    sqlite_store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    shop = write_catalog(tmp_path / "shop", [row(1, price="5")])
    ingest(open_source(str(shop)), sqlite_store, blobs)
    sqlite_store.withdraw(["1"])
    write_catalog(shop, [row(1, price="9")])
    assert ingest(open_source(str(shop)), sqlite_store, blobs).accepted == 1
    product = sqlite_store.get("1")
    assert product is not None and product.price == 9


def test_a_snapshot_has_the_prices_and_its_name_tells_them_apart(
    store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    shop = write_catalog(tmp_path / "shop", [row(1, price="5.25"), row(2)])
    ingest(open_source(str(shop)), store, blobs)
    first = take_snapshot(store, blobs)
    assert first.digest == store.state_digest()
    np.testing.assert_array_equal(load_snapshot(blobs, first.digest).price, [5.25, np.nan])

    write_catalog(shop, [row(1, price="5.5"), row(2)])
    ingest(open_source(str(shop)), store, blobs)
    second = take_snapshot(store, blobs)

    assert second.digest == store.state_digest() != first.digest
    assert load_snapshot(blobs, first.digest).price[0] == 5.25
    assert load_snapshot(blobs, second.digest).price[0] == 5.5


def test_a_snapshot_from_before_there_were_prices_still_opens(
    sqlite_store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    ingest(open_source(str(write_catalog(tmp_path / "shop", [row(1), row(2)]))), sqlite_store, blobs)
    snapshot = take_snapshot(sqlite_store, blobs)
    assert "-" not in snapshot.digest  # as it was called then
    old = pq.read_table(io.BytesIO(blobs.get(snapshot_key(snapshot.digest)))).drop_columns(["price"])
    out = io.BytesIO()
    pq.write_table(old, out)
    blobs.put(snapshot_key(snapshot.digest), out.getvalue())
    assert np.isnan(load_snapshot(blobs, snapshot.digest).price).all()


def test_a_release_from_before_there_were_prices_still_opens(tmp_path: Path) -> None:
    products = Products.from_rows([Product("1", "Shirt", "a", price=3.5), Product("2", "Shoe", "b")])
    parts = Parts(products, np.zeros((2, 4), np.float16), np.zeros((1, 4), np.float32), {})
    parts.write(tmp_path)
    assert list(Parts.read(tmp_path).products) == list(products)
    pq.write_table(pq.read_table(tmp_path / PRODUCTS).drop_columns(["price"]), tmp_path / PRODUCTS)
    assert [product.price for product in Parts.read(tmp_path).products] == [None, None]


def test_new_prices_ask_for_no_training(blobs: FileBlobs, tmp_path: Path) -> None:
    platform = open_platform(Settings(ENCLIP_HOME=tmp_path / "home", ENCLIP_DATABASE_URL=""))
    shop = write_catalog(tmp_path / "shop", [row(1, price="5"), row(2)])
    ingest(open_source(str(shop)), platform.catalog, platform.blobs)
    ledger.start_attempt(platform.database, run_id="first", snapshot=platform.catalog.state_digest())
    assert not should_retrain(platform)

    write_catalog(shop, [row(1, price="6"), row(2, price="7")])
    ingest(open_source(str(shop)), platform.catalog, platform.blobs)
    assert not should_retrain(platform)

    write_catalog(shop, [row(1, "Another name", price="6"), row(2, price="7")])
    ingest(open_source(str(shop)), platform.catalog, platform.blobs)
    assert should_retrain(platform)


def test_a_catalog_from_before_there_were_prices_is_migrated(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    import enclip.migrations

    url = f"sqlite:///{tmp_path}/catalog.db"
    store = CatalogStore(open_database(url))
    blobs = FileBlobs(tmp_path / "store")
    ingest(open_source(str(write_catalog(tmp_path / "shop", [row(1)]))), store, blobs)
    digest = store.state_digest()
    config = Config()
    config.set_main_option("script_location", str(Path(enclip.migrations.__file__).parent))
    _run(store.engine, config, lambda: command.downgrade(config, "0002"))
    store.engine.dispose()

    again = CatalogStore(open_database(url))

    assert again.state_digest() == digest
    assert next(iter(again.products())).price is None


def _run(engine: Engine, config: object, step: object) -> None:
    with engine.begin() as connection:
        config.attributes["connection"] = connection  # type: ignore[attr-defined]
        step()  # type: ignore[operator]
