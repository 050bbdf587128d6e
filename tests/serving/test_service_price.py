"""Prices: filters by them over HTTP, on the page and in the client, where the catalog has any."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from enclip.client import SearchClient, SearchFilters, SearchRequest
from enclip.pipeline.open_release import OpenRelease
from enclip.retrieval.searcher import Searcher
from tests.serving.service_world import PHONE, DrawnShop, PageOpener, Service, World, check_refused, until

LOW, HIGH = 30.0, 90.0


def ids_between(shop: DrawnShop, low: float | None, high: float | None) -> set[str]:
    return {
        product.product_id
        for product in shop.products
        if product.price is not None
        and (low is None or product.price >= low)
        and (high is None or product.price <= high)
    }


@pytest.mark.parametrize(("low", "high"), [(LOW, None), (None, HIGH), (LOW, HIGH), (0, None), (1e6, None)])
def test_bounds_are_inclusive_and_leave_out_what_has_no_price(
    client: httpx.Client, shop: DrawnShop, low: float | None, high: float | None
) -> None:
    filters = {name: bound for name, bound in (("price_min", low), ("price_max", high)) if bound is not None}
    answer = client.post("/v1/search", json={"text": "shirt", "filters": filters, "k": 100}).json()
    assert {hit["product_id"] for hit in answer["results"]} == ids_between(shop, low, high)
    assert len(ids_between(shop, None, None)) < len(shop.products)


def test_a_bound_that_is_a_product_s_own_price_lets_it_pass(client: httpx.Client, shop: DrawnShop) -> None:
    product = next(product for product in shop.products if product.price is not None)
    bounds = {"price_min": product.price, "price_max": product.price}
    answer = client.post("/v1/search", json={"text": "shirt", "filters": bounds, "k": 100}).json()
    found = {hit["product_id"]: hit["price"] for hit in answer["results"]}
    assert found[product.product_id] == product.price
    similar = client.get(f"/v1/similar/{shop.products.product_id[0]}", params={**bounds, "k": 100}).json()
    assert {hit["price"] for hit in similar["results"]} <= {product.price}


def test_cards_say_the_price_and_the_catalog_its_range(client: httpx.Client, shop: DrawnShop) -> None:
    catalog = client.get("/v1/catalog").json()
    prices = shop.products.price[~np.isnan(shop.products.price)]
    assert catalog["price"] == {"min": prices.min(), "max": prices.max()}
    hits = client.post("/v1/search", json={"text": "shirt", "k": 100}).json()["results"]
    assert {hit["product_id"]: hit["price"] for hit in hits} == {p.product_id: p.price for p in shop.products}
    assert None in {hit["price"] for hit in hits}
    within = client.get("/v1/catalog", params={"price_min": LOW, "price_max": HIGH}).json()
    assert within["price"] == catalog["price"], "the range to choose from, whatever is chosen"
    assert sum(choice["num_products"] for choice in within["categories"]) == len(ids_between(shop, LOW, HIGH))


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"price_min": 5, "price_max": 4}, "price_min 5 is above price_max 4"),
        ({"price_min": -1}, "greater than or equal to 0"),
        ({"price_max": "cheap"}, "number"),
        ({"price_max": 1e13}, "less than or equal to"),
    ],
)
def test_bounds_that_are_none_are_refused(client: httpx.Client, filters: dict[str, object], says: str) -> None:
    answer = client.post("/v1/search", json={"text": "shirt", "filters": filters})
    field = "filters" if len(filters) == 2 else f"filters.{next(iter(filters))}"
    check_refused(answer, field, says)
    for path in ("/v1/catalog", "/v1/similar/x"):
        check_refused(client.get(path, params=filters), next(iter(filters)), says)
    nan = client.post("/v1/search", content=b'{"text": "a", "filters": {"price_min": NaN}}')
    assert nan.status_code == 422


def test_the_client_asks_by_price(service: Service, shop: DrawnShop) -> None:
    filters = SearchFilters(price_min=LOW, price_max=HIGH)
    with SearchClient(service.url) as asked:
        found = asked.search(SearchRequest(text="shirt", filters=filters, k=100)).results
        assert {hit.product_id for hit in found} == ids_between(shop, LOW, HIGH)
        assert all(hit.price is not None and LOW <= hit.price <= HIGH for hit in found)
        within = asked.catalog(filters=filters)
        assert within.price is not None and within.price.min < within.price.max
        assert asked.similar(found[0].product_id, k=3, filters=filters).results


def without_prices(release: OpenRelease) -> OpenRelease:
    searcher = release.searcher
    products = dataclasses.replace(release.products, price=np.full(len(release.products), np.nan))
    built = Searcher.build(products, [searcher.block(0)], [1.0], cluster_count=4, rescored=50)
    return OpenRelease(4, release.manifest, built, release.encoders)


@pytest.fixture(scope="module")
def unpriced(start_service: Callable[..., Service], release: OpenRelease) -> Service:
    """A service over the same products, of which none has a price."""
    return start_service(World(alias=4, releases={4: without_prices(release)}))


def test_a_catalog_without_prices_offers_none(unpriced: Service, open_page: PageOpener) -> None:
    with unpriced.client() as client:
        assert client.get("/v1/catalog").json()["price"] is None
        bounded = client.post("/v1/search", json={"text": "shirt", "filters": {"price_min": 0}}).json()
        assert bounded["results"] == []
    page = open_page("/", url=unpriced.url)
    expect(page.locator(".card")).to_have_count(24)
    expect(page.locator("#prices")).to_be_hidden()


def shown_ids(page: Page) -> set[str]:
    return set(page.eval_on_selector_all(".face", "faces => faces.map(face => face.dataset.product)"))


def test_prices_are_chosen_on_the_page_and_kept_in_the_address(
    open_page: PageOpener, shop: DrawnShop, screenshots: Path
) -> None:
    page = open_page("/?q=shirt", locale="en-GB")
    expect(page.locator(".card")).to_have_count(24)
    expect(page.locator("#prices")).to_be_visible()
    page.get_by_label("Lowest price").fill("100")
    page.get_by_label("Highest price").fill("120")
    expect(page.locator("h1")).to_have_text("shirt, 100 to 120")
    assert shown_ids(page) == ids_between(shop, 100, 120)
    assert "price_min=100" in page.url and "price_max=120" in page.url
    priced = next(product for product in shop.products if product.price and 100 <= product.price <= 120)
    card = page.locator(f"[data-product='{priced.product_id}'] .traits")
    expect(card).to_contain_text(f"{priced.price:.2f}")
    until(page, "document.querySelector('.well img').naturalWidth > 0")
    page.screenshot(path=screenshots / "page-price.png")

    again = open_page("/?" + urlsplit(page.url).query, locale="en-GB")
    expect(again.locator("h1")).to_have_text("shirt, 100 to 120")
    assert again.get_by_label("Lowest price").input_value() == "100"

    page.get_by_label("Lowest price").fill("130")  # above the other: the same two prices, the other way round
    expect(page.locator("h1")).to_have_text("shirt, 120 to 130")
    assert shown_ids(page) == ids_between(shop, 120, 130)
    page.locator("#clear").click()
    expect(page.locator("h1")).to_have_text("shirt")
    assert page.get_by_label("Highest price").input_value() == ""
    assert "price" not in page.url


def test_a_price_alone_is_a_search(open_page: PageOpener, shop: DrawnShop, screenshots: Path) -> None:
    for scheme in ("light", "dark"):
        page = open_page("/?price_max=60&price_min=nonsense", viewport=PHONE, color_scheme=scheme, locale="en-GB")
        expect(page.locator("h1")).to_have_text("products, up to 60")
        assert shown_ids(page) <= ids_between(shop, None, 60)
        expect(page.locator(".card")).not_to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        until(page, "document.querySelector('.well img').naturalWidth > 0")
        page.screenshot(path=screenshots / f"page-price-phone-{scheme}.png")
