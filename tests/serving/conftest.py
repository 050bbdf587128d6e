"""A real service over real small releases: drawn products, tiny CLIPs with random weights, uvicorn on a free port."""

import csv
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from sqlalchemy import Engine

from bench.served import register_release
from enclip.catalog.drawn import draw_catalog
from enclip.catalog.images import decode, fit_square
from enclip.config import Settings
from enclip.database import open_database
from enclip.models.bases import load_base
from enclip.models.clip import ClipEncoder
from enclip.models.soup import estimate_batch_norm
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.open_release import OpenRelease
from enclip.pipeline.platform import Platform, open_platform
from enclip.records import Product, Products
from enclip.release import ClusterSettings, Manifest, Member
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.spread import Spread
from enclip.serving.app import create_app
from enclip.serving.run import bind, make_server
from tests.serving.service_world import DESKTOP, NUM_PRODUCTS, DrawnShop, PageOpener, ReleaseMaker, Service, World


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> DrawnShop:
    folder = draw_catalog(tmp_path_factory.mktemp("shop"), num_products=NUM_PRODUCTS, seed=7)
    pictures: dict[str, bytes] = {}
    rows = []
    with open(folder / "styles.csv", newline="") as file:
        for row in csv.DictReader(file):
            image = (folder / "images" / f"{row['id']}.jpg").read_bytes()
            sha256 = hashlib.sha256(image).hexdigest()
            pictures[sha256] = image
            rows.append(
                Product(
                    product_id=row["id"],
                    name=row["productDisplayName"],
                    image_sha256=sha256,
                    gender=row["gender"],
                    master_category=row["masterCategory"],
                    sub_category=row["subCategory"],
                    article_type=row["articleType"],
                    base_colour=row["baseColour"],
                    price=float(row["price"]) if int(row["id"]) % 5 else None,  # every fifth product has none
                )
            )
    return DrawnShop(Products.from_rows(rows), pictures)


@pytest.fixture(scope="session")
def make_release(shop: DrawnShop) -> ReleaseMaker:
    """`make_release(version, seed=…, rows=slice(…))` over some of the shop's products."""
    torch.set_num_threads(1)

    def make(version: int, *, seed: int = 0, rows: slice = slice(None)) -> OpenRelease:
        products = shop.products.take(np.arange(len(shop.products))[rows])
        model = load_base("tiny", seed=seed, device=torch.device("cpu"))
        pixels = np.stack([fit_square(decode(shop.pictures[key]), model.side) for key in products.image_sha256])
        # Without the statistics of its pictures, an untrained tower sees them all as equal.
        estimate_batch_norm(model, pixels, torch.device("cpu"))
        encoder = ClipEncoder(model)
        embedding_ND = encoder.encode_images(pixels)
        member = Member(
            version=version,
            source="models:/m-none",
            instance=0,
            epoch=0,
            weight=1.0,
            weights_sha256=str(seed),
            init_id=model.init_id,
            dim=model.dim,
            pixel_side=model.side,
        )
        manifest = Manifest(
            kind="retrain",
            run_id="drawn",
            base="tiny",
            snapshot="drawn",
            trained_on="drawn",
            num_products=len(products),
            members=(member,),
            clusters=ClusterSettings(count=4, pull=0.0),
            rescored=50,
            chosen_because="the only one",
            created_at="2026-11-20T00:00:00Z",
        )
        searcher = Searcher.build(products, [embedding_ND], [1.0], cluster_count=4, rescored=50)
        # An untrained tower knows no near-duplicates; every fourth product stands for those.
        folded = Spread.of([np.arange(0, len(products), 4)], len(products))
        return OpenRelease(version, manifest, searcher, (encoder,), folded)

    return make


@pytest.fixture(scope="session")
def release(make_release: ReleaseMaker) -> OpenRelease:
    """Release 3, over the whole shop."""
    return make_release(3)


@pytest.fixture(scope="session")
def judgements_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Where services keep judgements, unless a test gives them a database of its own."""
    engine = open_database(f"sqlite:///{tmp_path_factory.mktemp('judged')}/catalog.db")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def start_service(shop: DrawnShop, judgements_database: Engine) -> Iterator[Callable[..., Service]]:
    """`start_service(world, poll_s=…)`: uvicorn in a thread, on a port of its own, until the tests end."""
    stops: list[Callable[[], None]] = []

    def start(world: World, *, poll_s: float = 0.05, **options: Any) -> Service:
        follower = world.follower(poll_s=poll_s)
        beside = {"releases": world.comparable(), "judgements": judgements_database}
        server = make_server(create_app(follower, shop.read_picture, **{**beside, **options}))
        bound = bind("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started:  # until then connections are refused
            assert thread.is_alive() and time.monotonic() < deadline, "the server does not start"
            time.sleep(0.005)

        def stop() -> None:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server does not stop"
            bound.close()

        stops.append(stop)
        service = Service(f"http://127.0.0.1:{bound.getsockname()[1]}", world, follower, stop)
        if world.alias is not None and not world.broken:
            service.wait_until(lambda state: bool(state["ready"]))
        return service

    yield start
    for stop in stops:
        stop()


@pytest.fixture(scope="session")
def shared_service(start_service: Callable[..., Service], release: OpenRelease) -> Service:
    return start_service(World(alias=3, releases={3: release}))


@pytest.fixture
def service(shared_service: Service, release: OpenRelease) -> Service:
    """The shared service, serving release 3 with nothing withdrawn. Tests put back what they move."""
    return shared_service


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def platform(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """Sixty drawn products, and releases 1 and 2 over one half of them each; the champion is release 1."""
    opened = open_platform(Settings(ENCLIP_HOME=home))
    source = draw_catalog(tmp_path_factory.mktemp("drawn"), num_products=60, seed=3)
    assert ingest_source(opened, str(source)).accepted == 60
    for half in (0, 1):
        assert register_release(opened, tmp_path_factory.mktemp("release"), seed=half, half=half) == half + 1
    opened.registry.set_alias("champion", 1)
    return opened


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A real browser; without one, skipped, or failed where ENCLIP_REQUIRE names it."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if "browser" in os.environ.get("ENCLIP_REQUIRE", "").split(","):
            pytest.fail("ENCLIP_REQUIRE asks for a browser, and chromium is not installed")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser, service: Service) -> Iterator[PageOpener]:
    """`open_page(path, …)`: a page whose script errors and off-host requests fail the test at its end.

    By itself of the service that the test's file has, on a desktop. Keywords: `url` of another one, `expect_errors` on
    the console, and those of a browser's context.
    """
    errors: list[str] = []
    hosts: set[str] = set()
    contexts: list[BrowserContext] = []

    def open_(path: str, *, url: str = service.url, expect_errors: bool = False, **options: Any) -> Page:
        context = chromium.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        if not expect_errors:
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(url + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not errors, errors
    elsewhere = {host for host in hosts if host and not host.startswith("127.0.0.1:")}  # "": blob: and data:
    assert not elsewhere, elsewhere


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where pages are pictured: ENCLIP_SCREENSHOTS, for who wants to look at them."""
    folder = Path(os.environ.get("ENCLIP_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
