"""One product at a time: as an ingest takes it in, and with one clear error for what it would set aside."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from enclip.catalog.images import image_key, sha256
from enclip.catalog.lock import ingest_lock
from enclip.config import Settings
from enclip.errors import CatalogBusy, CatalogError, ImageError, StoreError
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.products import SOURCE, SingleProducts
from enclip.records import Product, Split

SHIRT = {"name": "Acme Blue Shirt", "article_type": "Shirts", "base_colour": "Blue", "price": "19.9"}


def picture(seed: int) -> bytes:
    """A picture unlike that of any other seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(blocks).resize((60, 80), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(params=["sqlite", "postgres"])
def platform(request: pytest.FixtureRequest, tmp_path) -> Iterator[Platform]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    opened = open_platform(Settings(ENCLIP_HOME=tmp_path, ENCLIP_DATABASE_URL=url))
    yield opened
    opened.database.dispose()


@pytest.fixture
def products(platform: Platform) -> SingleProducts:
    return SingleProducts(platform, wait_s=0.3)


def live(platform: Platform, product_id: str = "s-1") -> Product:
    product = platform.catalog.get(product_id)
    assert product is not None
    return product


def test_a_product_comes_in_whole_and_only_once(products: SingleProducts, platform: Platform) -> None:
    assert products.put("s-1", SHIRT, image=picture(1))
    product = live(platform)
    assert (product.name, product.base_colour, product.price) == ("Acme Blue Shirt", "Blue", 19.9)
    assert product.group_id and product.split in Split
    assert platform.blobs.get(image_key(product.image_sha256)) == picture(1)
    digest = platform.catalog.state_digest()

    assert not products.put("s-1", SHIRT, image=picture(1))
    assert not products.put("s-1", SHIRT, image=None)
    assert platform.catalog.state_digest() == digest


def test_what_is_left_out_is_empty_but_for_the_picture(products: SingleProducts, platform: Platform) -> None:
    products.put("s-1", SHIRT, image=picture(1))
    before = live(platform)

    assert products.put("s-1", {"name": "Acme Shirt"}, image=None)

    assert live(platform) == replace(before, name="Acme Shirt", article_type="", base_colour="", price=None)


def test_group_and_split_stay_and_a_newcomer_joins_its_group(products: SingleProducts, platform: Platform) -> None:
    products.put("s-1", SHIRT, image=picture(1))
    before = live(platform)
    products.put("s-1", {**SHIRT, "name": "Something else"}, image=picture(2))
    assert (live(platform).group_id, live(platform).split) == (before.group_id, before.split)
    products.put("s-2", {"name": "A twin by its picture"}, image=picture(2))
    assert (live(platform, "s-2").group_id, live(platform, "s-2").split) == (before.group_id, before.split)


def test_out_and_in_again(products: SingleProducts, platform: Platform) -> None:
    products.put("s-1", SHIRT, image=picture(1))
    before = live(platform)

    assert products.withdraw("s-1") is True
    assert products.withdraw("s-1") is False
    assert platform.catalog.withdrawn_ids() == {"s-1"}
    entry = products.entry("s-1")
    assert entry is not None and entry.withdrawn and entry.product == before and entry.updated_at.tzinfo

    assert products.put("s-1", SHIRT, image=None)
    assert platform.catalog.withdrawn_ids() == frozenset()
    assert live(platform) == before


def test_what_never_was_cannot_go(products: SingleProducts) -> None:
    assert products.withdraw("nobody") is None
    assert products.entry("nobody") is None


@pytest.mark.parametrize(
    ("product_id", "cells", "says"),
    [
        ("a b", SHIRT, "white space"),
        ("x" * 129, SHIRT, "128"),
        ("nan", SHIRT, "id is empty"),
        ("s-1", {}, "neither a name nor an articleType"),
        ("s-1", {**SHIRT, "gender": "a\0b"}, "gender holds a NUL"),
        ("s-1", {**SHIRT, "season": "x" * 2001}, "2000"),
        ("s-1", {**SHIRT, "price": "-3"}, "price '-3'"),
    ],
)
def test_a_bad_row_is_said_and_nothing_is_lost(
    products: SingleProducts, platform: Platform, product_id: str, cells: dict[str, str], says: str
) -> None:
    products.put("s-1", SHIRT, image=picture(1))
    before = live(platform)
    with pytest.raises(CatalogError, match=says):
        products.put(product_id, cells, image=picture(2))
    assert live(platform) == before
    assert len(platform.catalog.products()) == 1


@pytest.mark.parametrize("image", [b"no picture", picture(2)[:60], None])
def test_an_unreadable_picture_or_none_is_said(
    products: SingleProducts, platform: Platform, image: bytes | None
) -> None:
    with pytest.raises(ImageError, match="picture"):
        products.put("s-2", SHIRT, image=image)
    assert products.entry("s-2") is None
    products.put("s-1", SHIRT, image=picture(1))
    if image is not None:
        with pytest.raises(ImageError):
            products.put("s-1", SHIRT, image=image)
    assert live(platform).image_sha256 == sha256(picture(1))


def test_an_ingest_that_runs_is_waited_for_and_no_longer_than_said(
    products: SingleProducts, platform: Platform
) -> None:
    products.put("s-1", SHIRT, image=picture(1))
    with ingest_lock(platform.database):
        with pytest.raises(CatalogBusy):
            products.put("s-1", {**SHIRT, "price": "5"}, image=None)
        assert products.withdraw("s-1"), "that waits for nobody"
    assert products.put("s-1", {**SHIRT, "price": "5"}, image=None)
    assert live(platform).price == 5


def test_a_store_that_lost_the_picture_is_no_fault_of_the_row(products: SingleProducts, platform: Platform) -> None:
    products.put("s-1", SHIRT, image=picture(1))
    platform.blobs.path(image_key(sha256(picture(1)))).unlink()  # type: ignore[attr-defined]
    with pytest.raises(StoreError):
        products.put("s-1", {"name": "Other"}, image=None)
    assert live(platform).name == "Acme Blue Shirt"


def test_many_at_once_all_come_in(platform: Platform) -> None:
    products = SingleProducts(platform, wait_s=60)
    with ThreadPoolExecutor(4) as threads:
        done = list(
            threads.map(lambda n: products.put(f"s-{n % 6}", {"name": f"Shirt {n}"}, image=picture(n)), range(12))
        )
    assert all(done)
    assert list(platform.catalog.products().product_id) == [f"s-{n}" for n in range(6)]
    assert {known.source for known in platform.catalog.known([f"s-{n}" for n in range(6)]).values()} == {SOURCE}
