"""Products put in and taken out over HTTP: who may, what comes of it, and what the next refresh is told."""

import base64
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect
from pydantic import SecretStr

from enclip.catalog.columns import RawRow
from enclip.catalog.ingest import ingest
from enclip.catalog.lock import ingest_lock
from enclip.client import ProductRequest, SearchClient, ServiceError
from enclip.config import Settings
from enclip.errors import StoreError
from enclip.pipeline.open_release import OpenRelease
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.products import SingleProducts
from enclip.serving.access import ApiKeys, needs_write_key
from enclip.serving.refresh import Refresher
from enclip.serving.shelf import MAX_WAITING, NUM_WITHDRAWING
from tests.serving.service_world import DrawnShop, PageOpener, Service, World, check_refused

SEARCH, WRITE = "search-key-0123456789", "write-key-0123456789"
MAY_WRITE = {"X-API-Key": WRITE}
SHIRT = {"name": "Acme Blue Shirt", "article_type": "Shirts", "base_colour": "Blue", "price": 19.9}


@dataclass(frozen=True)
class ShopSource:
    """The drawn shop as a source, with the prices that its release has."""

    shop: DrawnShop
    name: str = "drawn"

    def num_rows(self) -> int:
        return len(self.shop.products)

    def rows(self) -> Iterator[RawRow]:
        yield from (RawRow(row, product) for row, product in enumerate(self.shop.products, 1))

    def image(self, row: RawRow) -> bytes:
        return self.shop.picture_of(row.product.product_id)


@dataclass
class Airflow:
    """What a service tells of changes."""

    num_told: int = 0
    refusal: Exception | None = None

    def __call__(self) -> None:
        if self.refusal:
            raise self.refusal
        self.num_told += 1


@dataclass
class Place:
    """A running service over a real catalog, and what it tells of changes."""

    service: Service
    platform: Platform
    airflow: Airflow
    client: httpx.Client

    def put(self, product_id: str, body: dict[str, object], **headers: str) -> httpx.Response:
        return self.client.put(f"/v1/products/{product_id}", json=body, headers=headers or MAY_WRITE)

    def delete(self, product_id: str, **headers: str) -> httpx.Response:
        return self.client.delete(f"/v1/products/{product_id}", headers=headers or MAY_WRITE)

    def get(self, product_id: str) -> dict[str, object]:
        return self.client.get(f"/v1/products/{product_id}").json()

    def found(self) -> set[str]:
        answer = self.client.post("/v1/search", json={"text": "shirt", "k": 100}).json()
        return {hit["product_id"] for hit in answer["results"]}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, shop: DrawnShop) -> Platform:
    opened = open_platform(Settings(ENCLIP_HOME=tmp_path_factory.mktemp("home"), ENCLIP_DATABASE_URL=""))
    assert ingest(ShopSource(shop), opened.catalog, opened.blobs).accepted == len(shop.products)
    return opened


@pytest.fixture(scope="module")
def world(platform: Platform, release: OpenRelease) -> World:
    class CatalogWorld(World):
        def read_withdrawn(self) -> frozenset[str]:
            self._fail("withdrawn")
            return platform.catalog.withdrawn_ids()

    return CatalogWorld(alias=3, releases={3: release})


@pytest.fixture(scope="module")
def airflow() -> Airflow:
    return Airflow()


@pytest.fixture(scope="module")
def running(start_service: Callable[..., Service], world: World, platform: Platform, airflow: Airflow) -> Service:
    """It looks for withdrawn products once an hour, so that what vanishes sooner was told at once."""
    world.alias = None
    service = start_service(
        world,
        poll_s=0.2,
        catalog=SingleProducts(platform, wait_s=0.5),
        refresher=Refresher(airflow, settle_s=0, every_s=0, first_retry_s=0.05),
        write_keys=ApiKeys.parse(SecretStr(WRITE)),
    )
    world.alias = 3
    service.wait_until(lambda state: bool(state["ready"]))
    service.follower._poll_s = 3600
    return service


@pytest.fixture
def place(running: Service, platform: Platform, airflow: Airflow, shop: DrawnShop) -> Iterator[Place]:
    with running.client() as client:
        yield Place(running, platform, airflow, client)
    ingest(ShopSource(shop), platform.catalog, platform.blobs)
    extra = set(platform.catalog.products().product_id) - set(shop.products.product_id)
    platform.catalog.withdraw(extra)
    running.follower.check_withdrawn()


def jpeg(shop: DrawnShop, row: int = 0) -> str:
    return base64.b64encode(shop.picture_of(shop.products.product_id[row])).decode()


def test_a_new_product_waits_for_the_next_refresh(place: Place, shop: DrawnShop) -> None:
    told = place.airflow.num_told
    answer = place.put("new-1", {**SHIRT, "image": jpeg(shop)})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["name"] == SHIRT["name"] and body["price"] == 19.9 and body["year"] == ""
    assert (body["state"], body["served"], body["release"]) == ("live", "absent", 3)
    assert (body["changed"], body["refresh"]) == (True, "scheduled")
    place.service.wait_until(lambda _: place.airflow.num_told > told)
    assert "new-1" not in place.found()
    state = place.get("new-1")
    assert state == {name: value for name, value in body.items() if name not in ("changed", "refresh")}

    again = place.put("new-1", {**SHIRT, "image": jpeg(shop)}).json()
    assert (again["changed"], again["refresh"]) == (False, "scheduled")
    assert again["updated_at"] == body["updated_at"]


def test_what_the_release_has_needs_no_refresh_and_a_change_does(place: Place, shop: DrawnShop) -> None:
    product = shop.products.row(0)
    state = place.get(product.product_id)
    assert (state["state"], state["served"], state["name"]) == ("live", "current", product.name)
    fields = ("name", "gender", "master_category", "sub_category", "article_type", "base_colour", "price")
    whole = {name: getattr(product, name) for name in fields}
    told = place.airflow.num_told
    same = place.put(product.product_id, whole).json()
    assert (same["changed"], same["refresh"]) == (False, "none")
    assert place.airflow.num_told == told

    dearer = place.put(product.product_id, {**whole, "price": 12345.5, "year": 2026}).json()
    assert (dearer["changed"], dearer["served"], dearer["refresh"]) == (True, "outdated", "scheduled")
    assert (dearer["price"], dearer["year"]) == (12345.5, "2026")
    hit = place.client.get(f"/v1/similar/{product.product_id}").json()["product"]
    assert hit["price"] == product.price, "the index is as it was"


def test_a_withdrawn_product_is_gone_with_the_answer_and_back_with_the_next(place: Place, shop: DrawnShop) -> None:
    product = shop.products.row(7)
    assert product.product_id in place.found()
    picture = f"/v1/products/{product.product_id}/image"
    assert place.client.get(picture).status_code == 200

    gone = place.delete(product.product_id).json()
    assert (gone["state"], gone["changed"], gone["served"], gone["refresh"]) == (
        "withdrawn",
        True,
        "absent",
        "scheduled",
    )
    assert product.product_id not in place.found()
    assert place.client.get(f"/v1/similar/{product.product_id}").status_code == 404
    assert place.client.get(picture).status_code == 404
    assert place.get(product.product_id)["state"] == "withdrawn"
    again = place.delete(product.product_id)
    assert (again.status_code, again.json()["changed"], again.json()["refresh"]) == (200, False, "none")

    fields = ("name", "gender", "master_category", "sub_category", "article_type", "base_colour", "price")
    back = place.put(product.product_id, {name: getattr(product, name) for name in fields}).json()
    assert (back["state"], back["changed"], back["served"]) == ("live", True, "current")
    assert product.product_id in place.found()


def test_what_never_was_is_a_404(place: Place) -> None:
    for answer in (place.delete("nobody"), place.client.get("/v1/products/nobody")):
        assert answer.status_code == 404
        assert "nobody" in answer.json()["detail"]


def test_an_id_may_be_a_path(place: Place, shop: DrawnShop) -> None:
    put = place.put("shelf%2Fshoe.jpg", {**SHIRT, "image": jpeg(shop, 3)})
    assert put.json()["product_id"] == "shelf/shoe.jpg"
    assert place.get("shelf/shoe.jpg")["state"] == "live"
    assert place.delete("shelf/shoe.jpg").json()["state"] == "withdrawn"


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"image": base64.b64encode(b"no picture").decode()}, "image", "cannot be decoded"),
        ({"image": "%%"}, "image", "not base64"),
        ({"image": "http://example.com/a.jpg"}, "image", "not base64"),
        ({"image": "A" * 7_000_000}, "image", "larger than"),
        ({"price": -1}, "price", "greater than or equal to 0"),
        ({"price": "free"}, "price", "number"),
        ({"name": "", "article_type": ""}, "body", "name nor an articleType"),
        ({"season": "x" * 2001}, "season", "2000"),
        ({"gender": "a\0b"}, "body", "NUL"),
        ({"colour": "red"}, "colour", "not permitted"),
        ({"name": None}, "name", "string"),
    ],
)
def test_bad_input_is_one_problem_and_changes_nothing(
    place: Place, shop: DrawnShop, change: dict[str, object], field: str, says: str
) -> None:
    before = place.platform.catalog.state_digest()
    product_id = str(shop.products.product_id[0])
    answer = place.put(product_id, {**SHIRT, **change})
    if answer.status_code == 413:
        assert "larger than" in says
    else:
        check_refused(answer, field, says)
    assert place.platform.catalog.state_digest() == before


def test_a_new_product_needs_a_picture_and_an_id_that_can_be_one(place: Place, shop: DrawnShop) -> None:
    check_refused(place.put("new-2", dict(SHIRT)), "image", "needs a picture")
    check_refused(place.put("a%20b", {**SHIRT, "image": jpeg(shop)}), "body", "white space")
    check_refused(place.put("x" * 129, {**SHIRT, "image": jpeg(shop)}), "body", "128")
    assert place.put("x" * 201, dict(SHIRT)).status_code == 422


def test_while_an_ingest_holds_the_catalog_a_put_is_asked_to_come_back(place: Place, shop: DrawnShop) -> None:
    with ingest_lock(place.platform.database):
        answer = place.put("new-3", {**SHIRT, "image": jpeg(shop)})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert "ingest" in answer.json()["detail"]
        gone = place.delete(str(shop.products.product_id[1]))
        assert gone.json()["state"] == "withdrawn", "that waits for nobody"
    assert place.put("new-3", {**SHIRT, "image": jpeg(shop)}).status_code == 200


def test_writes_at_once_all_succeed_and_searches_go_on(place: Place, shop: DrawnShop) -> None:
    statuses: list[int] = []

    def write(number: int) -> None:
        body = {**SHIRT, "name": f"Shirt {number}", "image": jpeg(shop, number)}
        statuses.append(place.put(f"many-{number}", body).status_code)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(place.found()) >= 80
    assert statuses == [200] * 12
    ids = set(place.platform.catalog.products().product_id)
    assert {f"many-{number}" for number in range(12)} <= ids


def test_withdrawals_that_hang_keep_nothing_else_waiting_and_are_not_piled_up(
    platform: Platform, release: OpenRelease, start_service: Callable[..., Service]
) -> None:
    let = threading.Event()

    class Hanging(SingleProducts):
        def withdraw(self, product_id: str) -> bool | None:
            let.wait(30)
            return super().withdraw(product_id)

    num_taken = NUM_WITHDRAWING + MAX_WAITING
    service = start_service(
        World(alias=3, releases={3: release}),
        catalog=Hanging(platform),
        write_keys=ApiKeys.parse(SecretStr(WRITE)),
    )
    with service.client() as client, ThreadPoolExecutor(num_taken + 2) as threads:
        asked = [threads.submit(client.delete, "/v1/products/nobody", headers=MAY_WRITE) for _ in range(num_taken + 2)]
        try:
            deadline = time.monotonic() + 25  # before the first of them goes on by itself
            while sum(future.done() for future in asked) < 2:
                assert time.monotonic() < deadline
                assert client.get("/metrics", timeout=5).status_code == 200
                time.sleep(0.05)  # what is waited for needs the cores, too
        finally:
            let.set()
        answers = [future.result() for future in asked]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert [answer.headers["retry-after"] for answer in refused] == ["2", "2"]
    assert [answer.status_code for answer in answers].count(404) == num_taken


def test_an_airflow_that_is_away_fails_no_write_and_shows(
    place: Place, shop: DrawnShop, caplog: pytest.LogCaptureFixture
) -> None:
    place.airflow.refusal = StoreError("Airflow at airflow:8080 is away.")
    try:
        assert place.put("new-4", {**SHIRT, "image": jpeg(shop)}).json()["refresh"] == "scheduled"
        state = place.service.wait_until(lambda state: bool(state["refresh_problem"]))
        assert state["ready"]
        assert state["refresh_problem"] == "refresh_index could not be started; the service's log says why."
        assert "refresh_index could not be started: Airflow at airflow:8080 is away." in caplog.text
        metrics = place.client.get("/metrics").text
        assert "enclip_refresh_problem 1.0" in metrics
    finally:
        place.airflow.refusal = None
    told = place.airflow.num_told
    place.service.wait_until(lambda state: not state["refresh_problem"])
    assert place.airflow.num_told == told + 1
    metrics = place.client.get("/metrics").text
    assert "enclip_refresh_waiting 0.0" in metrics
    assert "enclip_failed_refresh_triggers_total" in metrics


# -- who may --------------------------------------------------------------------------------------


def test_the_loopback_searches_without_a_key_and_writes_only_with_one(place: Place, shop: DrawnShop) -> None:
    product_id = str(shop.products.product_id[0])
    assert place.client.get("/v1/catalog").status_code == 200
    for answer in (place.client.delete(f"/v1/products/{product_id}"), place.client.put(f"/v1/products/{product_id}")):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for wrong in (WRITE[:-1], SEARCH, ""):
        assert place.delete(product_id, **{"X-API-Key": wrong}).status_code == 401
    assert product_id in place.found()
    assert place.delete(product_id, Authorization=f"Bearer {WRITE}").status_code == 200


@pytest.fixture(scope="module")
def start(start_service: Callable[..., Service], release: OpenRelease, platform: Platform) -> Callable[..., Service]:
    def start(**keys: str) -> Service:
        parsed = {name: ApiKeys.parse(SecretStr(text)) for name, text in keys.items()}
        return start_service(World(alias=3, releases={3: release}), catalog=SingleProducts(platform), **parsed)

    return start


def test_without_any_key_nobody_writes_and_is_told_what_to_do(start: Callable[..., Service]) -> None:
    with start().client() as client:
        for answer in (client.put("/v1/products/x", json=SHIRT), client.delete("/v1/products/x", headers=MAY_WRITE)):
            assert answer.status_code == 403
            assert "ENCLIP_WRITE_KEYS" in answer.json()["detail"]
        assert client.get("/v1/products/x").status_code == 404
        operation = client.get("/openapi.json").json()["paths"]["/v1/products/{product_id}"]
        assert operation["put"]["security"] and "security" not in operation["get"]


def test_a_key_to_search_does_not_write_and_a_key_to_write_searches(start: Callable[..., Service]) -> None:
    with start(keys=SEARCH, write_keys=WRITE).client() as client:
        assert client.delete("/v1/products/x").status_code == 401
        refused = client.delete("/v1/products/x", headers={"X-API-Key": SEARCH})
        assert refused.status_code == 403
        assert "searches only" in refused.json()["detail"]
        assert client.delete("/v1/products/x", headers=MAY_WRITE).status_code == 404
        for key, status in ((SEARCH, 200), (WRITE, 200), ("neither", 401)):
            assert client.get("/v1/catalog", headers={"X-API-Key": key}).status_code == status


def test_with_keys_to_search_alone_a_stranger_does_not_learn_that_writing_is_off(start: Callable[..., Service]) -> None:
    with start(keys=SEARCH).client() as client:
        assert client.put("/v1/products/x", json=SHIRT).status_code == 401
        assert client.put("/v1/products/x", json=SHIRT, headers={"X-API-Key": SEARCH}).status_code == 403


# -- from a program -------------------------------------------------------------------------------


def test_the_client_puts_looks_and_withdraws(place: Place, shop: DrawnShop) -> None:
    with SearchClient(place.service.url, api_key=WRITE) as asked:
        picture = shop.picture_of(str(shop.products.product_id[2]))
        put = asked.put_product("a/b", ProductRequest(name="Acme Shirt", image=picture, year="2026", price=5))
        assert (put.changed, put.state, put.price) == (True, "live", 5.0)
        kept = asked.put_product("a/b", ProductRequest(name="Acme Shirt", year="2026"))
        assert (kept.changed, kept.price) == (True, None)
        assert asked.product("a/b").model_dump() == kept.model_dump(exclude={"changed", "refresh"})
        assert asked.withdraw_product("a/b").state == "withdrawn"
        with pytest.raises(ServiceError) as caught:
            asked.withdraw_product("nobody")
        assert caught.value.status == 404


def test_a_product_can_be_put_as_the_description_s_example_says(place: Place, shop: DrawnShop) -> None:
    schemas = place.client.get("/openapi.json").json()["components"]["schemas"]
    new, cheaper = schemas["ProductRequest"]["examples"]
    assert place.put("example", {**new, "image": jpeg(shop)}).status_code == 200
    assert place.put("example", cheaper).json()["price"] == cheaper["price"]


def test_the_readme_s_commands_work(place: Place, shop: DrawnShop, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    readme = (pytestconfig.rootpath / "README.md").read_text()
    (commands,) = re.findall(r"```\n(curl -X PUT .+?)```", readme, re.DOTALL)
    put, delete = commands.replace("http://127.0.0.1:8000", place.service.url).split("curl -X DELETE")
    (tmp_path / "shirt.jpg").write_bytes(shop.picture_of(str(shop.products.product_id[0])))
    states = []
    for command in (put, f"curl -X DELETE{delete}"):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env={**os.environ, "KEY": WRITE, "no_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
        )
        states.append(json.loads(done.stdout)["state"])
    assert states == ["live", "withdrawn"]


def test_the_docs_page_says_how_to_write_and_that_searching_needs_no_key(
    place: Place, open_page: PageOpener, screenshots: Path
) -> None:
    page = open_page("/docs", url=place.service.url)
    delete = page.locator(".operation").filter(has_text="DELETE")
    expect(delete).to_contain_text("/v1/products/{product_id}")
    expect(delete).to_contain_text("403")
    expect(page.locator("#curl")).to_contain_text("v1/search")
    expect(page.locator("#curl")).not_to_contain_text("X-API-Key")
    page.screenshot(path=screenshots / "docs-products.png", full_page=True)


def test_records_hold_what_the_schemas_say(place: Place, shop: DrawnShop) -> None:
    """A column that is added to products and not to the API would be emptied by every PUT."""
    product = replace(shop.products.row(0), group_id="", image_sha256="")
    assert set(ProductRequest.model_fields) | {"product_id", "image_sha256", "group_id", "split"} == {
        *(name for name in type(product).__dataclass_fields__),
        "image",
    }


def test_whatever_changes_a_product_asks_for_a_key_that_may_write(place: Place) -> None:
    """A route to come too: one that this does not know of would be open."""
    paths = httpx.get(f"{place.service.url}/openapi.json").json()["paths"]
    below = [(method.upper(), path) for path in paths if path.startswith("/v1/products/") for method in paths[path]]
    changing = [(method, path) for method, path in below if method not in {"GET", "HEAD"}]
    assert {method for method, _ in changing} == {"PUT", "DELETE"}
    assert all(needs_write_key(method, path) for method, path in changing)
