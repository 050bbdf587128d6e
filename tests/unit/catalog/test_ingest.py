"""Ingest on SQLite and on Postgres: what is new comes in, what is gone goes only when asked (D14)."""

import io
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from enclip.blobs import FileBlobs
from enclip.catalog.columns import RawRow
from enclip.catalog.images import image_key
from enclip.catalog.ingest import BATCH, ingest
from enclip.catalog.lock import ingest_lock
from enclip.catalog.read import open_source
from enclip.catalog.store import CatalogStore
from enclip.errors import CatalogError, StoreError
from enclip.records import IngestReport, Product, Rejection, Split

from .conftest import picture, row, write_catalog


def _figures(report: IngestReport) -> tuple[int, int, int, int]:
    return report.accepted, report.unchanged, report.rejected, report.gone


def test_only_what_is_new_or_changed_is_taken_in(store: CatalogStore, blobs: FileBlobs, tmp_path: Path) -> None:
    shop = write_catalog(tmp_path / "shop", [row(1), row(2), row(3)])
    source = open_source(str(shop))
    assert _figures(ingest(source, store, blobs)) == (3, 0, 0, 0)
    before = store.products()
    digest = store.state_digest()
    assert _figures(ingest(source, store, blobs)) == (0, 3, 0, 0)
    assert store.state_digest() == digest

    write_catalog(shop, [row(1, "Renamed shirt"), row(2), row(3), row(4)], {"2": picture(99)})
    assert _figures(ingest(source, store, blobs)) == (3, 1, 0, 0)
    assert store.state_digest() != digest
    after = store.products()
    assert list(after.name[:2]) == ["Renamed shirt", "Shirt number 2"]
    assert blobs.get(image_key(after.image_sha256[1])) == picture(99)
    # Group and split were decided when the products were first seen.
    assert list(after.group_id[:3]) == list(before.group_id)
    assert list(after.split[:3]) == list(before.split)
    product = store.get("4")
    assert product is not None and product.sub_category == "Topwear" and product.split in Split
    assert store.get("5") is None and store.image_sha256("5") is None


def test_bad_rows_are_set_aside_with_number_and_reason(store: CatalogStore, blobs: FileBlobs, tmp_path: Path) -> None:
    rows = [row(1), row(2), row(1, "Second of its id"), row(3), row(4)]
    shop = write_catalog(tmp_path / "shop", rows, {"2": b"no picture", "3": picture(3)[:200]})
    (shop / "images" / "4.jpg").unlink()
    report = ingest(open_source(str(shop)), store, blobs)
    assert _figures(report) == (1, 0, 4, 0)
    reasons = {(rejection.row, rejection.product_id): rejection.reason for rejection in report.rejections}
    assert reasons[3, "1"] == "the id has come before in this source"
    assert "decoded" in reasons[2, "2"] and "decoded" in reasons[4, "3"]
    assert "no picture images/4.jpg" in reasons[5, "4"]
    product = store.get("1")
    assert product is not None and product.name == "Shirt number 1"  # the first of duplicates wins


def test_a_partial_feed_withdraws_nothing(store: CatalogStore, blobs: FileBlobs, tmp_path: Path) -> None:
    shop = write_catalog(tmp_path / "shop", [row(number) for number in range(1, 6)])
    ingest(open_source(str(shop)), store, blobs)
    write_catalog(shop, [row(1)])
    assert _figures(ingest(open_source(str(shop)), store, blobs)) == (0, 1, 0, 0)
    assert len(store.products()) == 5 and store.withdrawn_ids() == frozenset()


def test_a_full_feed_withdraws_within_its_source_and_categories(
    store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    shirts = [row(number) for number in range(1, 11)]
    shoes = [row(number, subCategory="Shoes", articleType="Boots") for number in range(11, 21)]
    shop = write_catalog(tmp_path / "shop", [*shirts, *shoes])
    other = write_catalog(tmp_path / "other", [row(30)])
    for folder in (shop, other):
        ingest(open_source(str(folder)), store, blobs, mode="full")
    write_catalog(shop, [*shirts[1:], *shoes[1:]])
    report = ingest(open_source(str(shop)), store, blobs, mode="full", categories=["topwear"])
    assert _figures(report) == (0, 9, 0, 1)
    assert store.withdrawn_ids() == {"1"}
    assert store.image_sha256("1") is not None  # an older release may still show it
    assert _figures(ingest(open_source(str(shop)), store, blobs, mode="full")) == (0, 18, 0, 1)
    assert store.withdrawn_ids() == {"1", "11"}
    counts = store.counts()
    assert (counts.live, counts.withdrawn) == (19, 2)
    assert sum(counts.by_split.values()) == 19


def test_a_full_feed_that_lost_much_is_refused_unless_told_so(
    store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    shop = write_catalog(tmp_path / "shop", [row(number) for number in range(1, 11)])
    ingest(open_source(str(shop)), store, blobs)
    write_catalog(shop, [row(number) for number in range(1, 8)] + [row(50)])
    with pytest.raises(CatalogError, match=r"3 of 11 products.*--allow-vanish"):
        ingest(open_source(str(shop)), store, blobs, mode="full")
    assert store.withdrawn_ids() == frozenset() and store.get("50") is not None
    assert ingest(open_source(str(shop)), store, blobs, mode="full", allow_vanish=True).gone == 3


def test_a_row_that_cannot_be_read_is_not_gone(store: CatalogStore, blobs: FileBlobs, tmp_path: Path) -> None:
    shop = write_catalog(tmp_path / "shop", [row(number) for number in range(1, 11)])
    ingest(open_source(str(shop)), store, blobs)
    (shop / "images" / "1.jpg").unlink()
    assert _figures(ingest(open_source(str(shop)), store, blobs, mode="full")) == (0, 9, 1, 0)
    assert store.get("1") is not None


def test_a_withdrawn_product_that_comes_again_is_live_again(
    store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    shop = write_catalog(tmp_path / "shop", [row(1), row(2)])
    ingest(open_source(str(shop)), store, blobs)
    before, digest = store.get("1"), store.state_digest()
    assert store.withdraw(["1"]) == 1 and store.withdraw(["1", "nobody"]) == 0
    assert store.get("1") is None and store.withdrawn_ids() == {"1"}
    assert store.state_digest() != digest
    assert _figures(ingest(open_source(str(shop)), store, blobs)) == (1, 1, 0, 0)
    assert store.get("1") == before and store.state_digest() == digest


def test_the_source_that_carried_a_product_last_may_withdraw_it(
    store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    first = write_catalog(tmp_path / "first", [row(number) for number in range(1, 11)])
    second = write_catalog(tmp_path / "second", [row(1)])
    ingest(open_source(str(first)), store, blobs)
    assert _figures(ingest(open_source(str(second)), store, blobs)) == (0, 1, 0, 0)
    write_catalog(first, [row(number) for number in range(2, 11)])
    assert ingest(open_source(str(first)), store, blobs, mode="full").gone == 0


def test_categories_leave_other_rows_alone(store: CatalogStore, blobs: FileBlobs, tmp_path: Path) -> None:
    rows = [row(1), row(2, articleType="Boots", subCategory="Shoes", masterCategory="Footwear")]
    shop = write_catalog(tmp_path / "shop", rows)
    assert _figures(ingest(open_source(str(shop)), store, blobs, categories=["BOOTS"])) == (1, 0, 0, 0)
    assert list(store.products().product_id) == ["2"]
    assert _figures(ingest(open_source(str(shop)), store, blobs, categories=["apparel", "footwear"])) == (1, 1, 0, 0)


def test_an_interrupted_ingest_goes_on_where_it_stopped(
    sqlite_store: CatalogStore, blobs: FileBlobs, drawn_catalog: Path, tmp_path: Path
) -> None:
    """A store that breaks in the middle of the second batch leaves a first batch that is not taken in twice."""
    many = write_catalog(tmp_path / "many", [row(number) for number in range(1, BATCH + 50)])

    class Breaking(FileBlobs):
        left = BATCH + 10

        def put(self, key: str, data: bytes) -> None:
            self.left -= 1
            if self.left < 0:
                raise StoreError("The disk is full.")
            super().put(key, data)

    with pytest.raises(StoreError):
        ingest(open_source(str(many)), sqlite_store, Breaking(tmp_path / "home" / "store"))
    assert len(sqlite_store.products()) == 0  # what has no group and split yet is not live
    assert _figures(ingest(open_source(str(many)), sqlite_store, blobs)) == (49, BATCH, 0, 0)
    assert len(sqlite_store.products()) == BATCH + 49


def test_progress_ends_at_the_number_of_rows(sqlite_store: CatalogStore, blobs: FileBlobs, drawn_catalog: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    ingest(
        open_source(str(drawn_catalog)), sqlite_store, blobs, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (120, 120)


def test_a_second_ingest_waits_for_the_first(store: CatalogStore) -> None:
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with ingest_lock(store.engine):
            held.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    with pytest.raises(CatalogError, match="Another ingest"), ingest_lock(store.engine, wait_s=0.3):
        pass
    leave.set()
    thread.join()
    with ingest_lock(store.engine, wait_s=1):
        pass


def test_two_ingests_at_once_take_everything_in_once(store: CatalogStore, blobs: FileBlobs, tmp_path: Path) -> None:
    # The same names in both feeds: only one of the two may found each group.
    feeds = [
        write_catalog(tmp_path / name, [row(first + number, f"Shirt {number}") for number in range(40)])
        for name, first in (("a", 100), ("b", 200))
    ]
    failures: list[Exception] = []

    def take_in(folder: Path) -> None:
        try:
            ingest(open_source(str(folder)), store, blobs)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=take_in, args=(folder,)) for folder in feeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    products = store.products()
    assert len(products) == 80
    groups = {name: set(products.group_id[products.name == name]) for name in set(products.name)}
    assert all(len(found) == 1 for found in groups.values())


def test_growth_in_the_database_keeps_places_and_links_across_ingests(
    store: CatalogStore, blobs: FileBlobs, tmp_path: Path, drawn_catalog: Path
) -> None:
    """Title stems, equal pictures and near-identical pictures find their groups in what is there already."""
    first = [row(1, "Acme Red Tee", baseColour="Red"), row(2, "Borealis Cap"), row(3, "Cobalt Bag")]
    photo = (drawn_catalog / "images" / "10003.jpg").read_bytes()
    ingest(open_source(str(write_catalog(tmp_path / "first", first, {"3": photo}))), store, blobs)
    places = {product.product_id: (product.group_id, product.split) for product in store.products()}
    assert len({group for group, _ in places.values()}) == 3

    out = io.BytesIO()
    Image.open(io.BytesIO(photo)).resize((120, 160), Image.Resampling.LANCZOS).save(out, "JPEG", quality=85)
    later = [row(4, "Acme Blue Tee"), row(5, "Something else"), row(6, "Third thing"), row(7, "A newcomer")]
    pictures = {"5": picture(2), "6": out.getvalue()}
    ingest(open_source(str(write_catalog(tmp_path / "later", later, pictures))), store, blobs)
    now = {product.product_id: (product.group_id, product.split) for product in store.products()}
    assert {key: now[key] for key in places} == places
    assert now["4"] == places["1"]  # another colour of the same style
    assert now["5"] == places["2"]  # the same picture
    assert now["6"] == places["3"]  # the same picture in another size and encoding
    assert now["7"] not in places.values()


def test_a_key_that_gathers_too_many_is_refused(store: CatalogStore, blobs: FileBlobs, tmp_path: Path) -> None:
    placeholder = picture(1)
    rows = [row(number, "Shirt") for number in range(1, 31)]
    shop = write_catalog(tmp_path / "shop", rows, {product["id"]: placeholder for product in rows})
    ingest(open_source(str(shop)), store, blobs)
    assert len(set(store.products().group_id)) == 30


def test_a_split_stays_though_the_title_changes(store: CatalogStore, blobs: FileBlobs, tmp_path: Path) -> None:
    ingest(open_source(str(write_catalog(tmp_path / "shop", [row(1, "One"), row(2, "Two")]))), store, blobs)
    one = store.get("1")
    assert one is not None
    write_catalog(tmp_path / "shop", [row(1, "Two"), row(2, "Two")])
    ingest(open_source(str(tmp_path / "shop")), store, blobs)
    assert store.get("1") == replace(one, name="Two")


def test_the_clock_is_the_caller_s(tmp_path: Path, sqlite_store: CatalogStore, blobs: FileBlobs) -> None:
    from sqlalchemy import text

    store = CatalogStore(sqlite_store.engine, now=lambda: datetime(2030, 1, 2, tzinfo=UTC))
    ingest(open_source(str(write_catalog(tmp_path / "shop", [row(1)]))), store, blobs)
    with store.engine.connect() as connection:
        assert str(connection.scalar(text("SELECT first_seen_at FROM products"))).startswith("2030-01-02")


def test_memory_does_not_grow_with_the_rows_set_aside(sqlite_store: CatalogStore, blobs: FileBlobs) -> None:
    """All are counted and a thousand listed; ids seen lie on disk."""

    class Unusable:
        name = "unusable"

        def num_rows(self) -> None:
            return None

        def rows(self) -> Iterator[Rejection]:
            for number in range(60_000):
                yield Rejection(number + 1, f"product-{number}", "it cannot be used")

        def image(self, row: RawRow) -> bytes:
            raise AssertionError("no row is usable")

    tracemalloc.start()
    report = ingest(Unusable(), sqlite_store, blobs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert _figures(report) == (0, 0, 60_000, 0)
    assert [rejection.row for rejection in report.rejections] == list(range(1, 1001))
    assert peak < 3_000_000  # a set of the ids alone had 6 MB


def test_memory_does_not_grow_with_the_products_that_vanish(sqlite_store: CatalogStore, blobs: FileBlobs) -> None:
    class Emptied:
        name = "emptied"

        def num_rows(self) -> None:
            return None

        def rows(self) -> Iterator[RawRow]:
            return iter(())

        def image(self, row: RawRow) -> bytes:
            raise AssertionError("there is no row")

    class Large(CatalogStore):
        """A catalog that says it has more products than a test can take in."""

        def carried_by(self, source: str) -> Iterator[Product]:
            return (Product(f"product-{number}", "Shirt", "") for number in range(60_000))

        def withdraw(self, product_ids: Iterable[str]) -> int:
            return len(list(product_ids))

    store = Large(sqlite_store.engine)
    tracemalloc.start()
    report = ingest(Emptied(), store, blobs, mode="full", allow_vanish=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert _figures(report) == (0, 0, 0, 60_000)
    assert peak < 2_000_000  # a list of the ids had 4 MB


def test_the_same_picture_under_many_ids_is_kept_once(store: CatalogStore, blobs: FileBlobs, tmp_path: Path) -> None:
    rows = [row(number) for number in range(1, 16)]
    shop = write_catalog(tmp_path / "shop", rows, {product["id"]: picture(1) for product in rows})
    assert _figures(ingest(open_source(str(shop)), store, blobs)) == (15, 0, 0, 0)
    assert len(list(blobs.listing("images/"))) == 1
    assert len(set(store.products().split)) == 1  # what looks the same is never on both sides of a split


def test_a_row_set_aside_keeps_its_product_wherever_the_id_stands(
    store: CatalogStore, blobs: FileBlobs, tmp_path: Path
) -> None:
    shop = write_catalog(tmp_path / "shop", [row(number) for number in range(1, 11)])
    lines = [f"Shirts,{number},Shirt {number}" for number in range(1, 11)]
    (shop / "styles.csv").write_text("\n".join(["articleType,id,productDisplayName", *lines]))
    ingest(open_source(str(shop)), store, blobs)
    damaged = ["Shirts,1", f"Shirts,2,{'x' * 1_500_000}", "Shirts,3,NUL\0", *lines[3:]]
    (shop / "styles.csv").write_text("\n".join(["articleType,id,productDisplayName", *damaged]))
    assert _figures(ingest(open_source(str(shop)), store, blobs, mode="full", allow_vanish=True)) == (0, 7, 3, 0)
    assert store.withdrawn_ids() == frozenset()
