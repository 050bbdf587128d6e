"""Keys: who may ask, what stays open, and where the service does not listen without one."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect
from pydantic import SecretStr

from enclip.errors import ConfigError
from enclip.pipeline.open_release import OpenRelease
from enclip.serving.access import ApiKeys, require_keys_beyond_loopback
from enclip.standalone.outcome import found
from tests.serving.service_world import DrawnShop, Service, World, until

OLD, NEW = "old-key-0123456789", "new/key=with+signs.0123456789"
NAMES_A_PLACE = re.compile(r"\{[^}]*\}")


def keys_of(text: str) -> ApiKeys:
    return ApiKeys.parse(SecretStr(text))


@pytest.fixture(scope="module")
def locked(start_service: Callable[..., Service], release: OpenRelease) -> Service:
    """A service with two keys."""
    return start_service(World(alias=3, releases={3: release}), keys=keys_of(f"{OLD}, {NEW}"))


def search(service: Service, headers: dict[str, str]) -> httpx.Response:
    with service.client() as client:
        return client.post("/v1/search", json={"text": "red bag", "k": 3}, headers=headers)


@pytest.mark.parametrize("key", [OLD, NEW])
@pytest.mark.parametrize("header", ["Authorization: Bearer ", "authorization: bearer  ", "X-API-Key: "])
def test_each_key_opens_by_either_header(locked: Service, key: str, header: str) -> None:
    name, _, before = header.partition(": ")
    assert search(locked, {name: before + key}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": OLD[:-1]},
        {"X-API-Key": OLD + "0"},
        {"X-API-Key": OLD.upper()},
        {"X-API-Key": f"{OLD},{NEW}"},
        {"X-API-Key": "schlüssel"},
        {"Authorization": "Bearer"},
        {"Authorization": OLD},
        {"Authorization": f"Basic {OLD}"},
        {"Authorization": "Bearer wrong", "X-API-Key": OLD},
    ],
)
def test_whoever_has_no_key_is_told_how_to_send_one(locked: Service, headers: dict[str, str]) -> None:
    answer = search(locked, {name: value.encode("latin-1") for name, value in headers.items()})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith('Bearer realm="enclip"')
    assert answer.headers["x-content-type-options"] == "nosniff"
    problem = answer.json()
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert "Authorization: Bearer KEY" in problem["detail"]


def test_every_route_under_v1_is_locked_but_pictures(locked: Service) -> None:
    with locked.client() as client:
        operations = [
            (method.upper(), path)
            for path, methods in client.get("/openapi.json").json()["paths"].items()
            for method in methods
        ]
        for method, path in [*operations, ("GET", "/v1/nowhere"), ("OPTIONS", "/v1/search"), ("GET", "/v1/")]:
            answer = client.request(method, NAMES_A_PLACE.sub("x", path))
            is_open = not path.startswith("/v1/") or path.endswith("/image")
            assert (answer.status_code != 401) == is_open, f"{method} {path}: {answer.status_code}"
    assert ("POST", "/v1/search") in operations


def test_what_a_person_a_probe_and_a_page_need_stays_open(locked: Service, shop: DrawnShop) -> None:
    picture = f"/v1/products/{shop.products.product_id[0]}/image"
    with locked.client() as client:
        for path in ("/", "/docs", "/openapi.json", "/static/page.js", "/health/live", "/health/ready", "/metrics"):
            assert client.get(path).status_code == 200, path
        assert client.get(picture).headers["content-type"] == "image/jpeg"
        assert client.post(picture).status_code == 401, "only to look at"


def test_a_stranger_s_body_is_not_read(locked: Service) -> None:
    with locked.client() as client:
        assert client.post("/v1/search", content=b"{").status_code == 401
        assert client.post("/v1/search", content=b"{", headers={"X-API-Key": OLD}).status_code == 422


def test_without_keys_the_loopback_is_open(client: httpx.Client) -> None:
    assert client.get("/v1/catalog").status_code == 200
    description = client.get("/openapi.json").json()
    assert "securitySchemes" not in description["components"]
    assert "401" not in description["paths"]["/v1/search"]["post"]["responses"]


def test_the_description_says_where_a_key_is_needed(locked: Service) -> None:
    with locked.client() as client:
        description = client.get("/openapi.json").json()
    assert description == httpx.get(f"{locked.url}/openapi.json").json(), "the same whenever it is asked for"
    assert set(description["components"]["securitySchemes"]) == {"bearer", "header"}
    paths = description["paths"]
    assert paths["/v1/search"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert "application/problem+json" in paths["/v1/catalog"]["get"]["responses"]["401"]["content"]
    image = next(methods["get"] for path, methods in paths.items() if path.endswith("/image"))
    assert "security" not in image
    assert "security" not in paths["/health/ready"]["get"]


def test_refusals_are_counted_and_no_key_is_written_down(locked: Service, caplog: pytest.LogCaptureFixture) -> None:
    def refused() -> float:
        lines = httpx.get(f"{locked.url}/metrics").text.splitlines()
        line = next(line for line in lines if line.startswith('enclip_refused_requests_total{reason="key"}'))
        return float(line.split()[-1])

    before = refused()
    with caplog.at_level(logging.DEBUG):
        search(locked, {"Authorization": f"Bearer {NEW}"})
        search(locked, {"X-API-Key": f"{OLD}wrong"})
    assert refused() == before + 1
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(("enclip", "uvicorn")))
    written = ours + httpx.get(f"{locked.url}/metrics").text
    assert "401" in ours
    assert OLD not in written
    assert NEW not in written


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("short", "Key 1 of 1"),
        ("x" * 15, "Key 1 of 1"),
        (f"{OLD},tooshort", "Key 2 of 2"),
        (f"{OLD},", "Key 2 of 2"),
        (",", "Key 1 of 2"),
        ("a key of sixteen characters", "Key 1 of 1"),
        ("schlüssel-mit-umlaut", "Key 1 of 1"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_by_its_place_alone(text: str, place: str) -> None:
    with pytest.raises(ConfigError, match=place) as caught:
        keys_of(text)
    assert "openssl" in caught.value.remedy
    assert not any(key and key in str(caught.value) for key in text.split(","))


def test_no_text_is_no_key() -> None:
    assert not keys_of("")
    assert not keys_of("  ")
    assert keys_of(OLD)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1"])
def test_the_loopback_needs_no_key(address: str) -> None:
    require_keys_beyond_loopback(address, ApiKeys())


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.5", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0"])
def test_every_other_address_needs_one(address: str) -> None:
    require_keys_beyond_loopback(address, keys_of(OLD))
    with pytest.raises(ConfigError, match=re.escape(address)) as caught:
        require_keys_beyond_loopback(address, ApiKeys())
    assert "ENCLIP_API_KEYS" in caught.value.remedy


@pytest.mark.parametrize(
    ("keys", "says"), [("", "Other machines can reach 0.0.0.0"), ("guess-me", "Key 1 of 1 in ENCLIP_API_KEYS")]
)
def test_serve_refuses_other_machines_without_a_key(tmp_path: Path, keys: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "enclip", "serve", "--host", "0.0.0.0"],
        env={**os.environ, "ENCLIP_HOME": str(tmp_path), "ENCLIP_API_KEYS": keys},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert "try:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not keys or keys not in done.stdout + done.stderr


def test_the_demo_s_own_searches_bring_the_key(locked: Service) -> None:
    assert len(found(locked.url, "red bag", api_keys=SecretStr(f"{OLD}, {NEW}"), k=3)["results"]) == 3
    with pytest.raises(OSError, match="401"):
        found(locked.url, "red bag", api_keys=SecretStr(""))


def test_the_page_asks_for_the_key_and_keeps_it_for_the_tab(
    chromium: Browser, locked: Service, screenshots: Path
) -> None:
    context = chromium.new_context(reduced_motion="reduce")
    try:
        page = context.new_page()
        page.goto(f"{locked.url}/?q=shirt")
        expect(page.locator("#unlock-text")).to_have_text("The service asks for a key.")
        expect(page.locator("#key")).to_be_focused()
        expect(page.locator("#notice")).to_be_hidden()
        page.screenshot(path=screenshots / "page-locked.png")
        page.keyboard.type("/not-a-key-at-all")
        page.keyboard.press("Enter")
        expect(page.locator("#unlock-text")).to_have_text("The service does not know this key.")
        page.locator("#key").fill(NEW)
        page.locator("#unlock button").click()
        expect(page.locator(".card")).to_have_count(24)
        expect(page.locator("#unlock")).to_be_hidden()
        until(page, "document.querySelector('.well img').naturalWidth > 0")
        page.locator(".face").nth(2).click()
        expect(page.locator("h1")).to_contain_text("Like ")
        page.reload()
        expect(page.locator(".card")).to_have_count(24)
        assert page.evaluate("[Object.values(sessionStorage), localStorage.length]") == [[NEW], 0]
        assert context.cookies() == []
        other = context.new_page()
        other.goto(locked.url)
        expect(other.locator("#unlock")).to_be_visible()
    finally:
        context.close()


def test_the_api_s_page_says_how_a_key_is_sent(chromium: Browser, locked: Service) -> None:
    context = chromium.new_context()
    try:
        page = context.new_page()
        page.goto(f"{locked.url}/docs")
        expect(page.locator("#curl")).to_contain_text('-H "X-API-Key: $KEY"')
        catalog = page.locator(".operation", has_text="/v1/catalog")
        expect(catalog.locator(".answers")).to_contain_text("401: No key")
    finally:
        context.close()
