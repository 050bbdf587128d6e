"""What the service's tests share: a drawn shop in memory, what a service follows, and a running service."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx
from playwright.sync_api import Page
from sqlalchemy import Engine, delete

from enclip.errors import StoreError
from enclip.judgements import PreferenceRow, ResultRow
from enclip.pipeline.audit import findings
from enclip.pipeline.open_release import OpenRelease
from enclip.records import Products
from enclip.retrieval.atlas import Atlas
from enclip.serving.follow import Follower
from enclip.serving.releases import ListedRelease, Releases

NUM_PRODUCTS = 80
ReleaseMaker = Callable[..., OpenRelease]
PageOpener = Callable[..., Page]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@dataclass(frozen=True)
class DrawnShop:
    """A drawn catalog in memory: products by id ascending, pictures by hash."""

    products: Products
    pictures: dict[str, bytes]

    def picture_of(self, product_id: str) -> bytes:
        row = list(self.products.product_id).index(product_id)
        return self.pictures[str(self.products.image_sha256[row])]

    def read_picture(self, sha256: str) -> bytes:
        if sha256 not in self.pictures:
            raise StoreError(f"No picture {sha256}.")
        return self.pictures[sha256]


def mapped(release: OpenRelease) -> OpenRelease:
    """The release as the pipeline would have built it: with a map, and with suspects."""
    atlas = Atlas.fit(release.searcher.vectors())
    return replace(release, atlas=atlas, suspects=findings(release.searcher)[1])


@dataclass
class World:
    """What a service follows, moved by the tests: an alias, releases that exist, withdrawn ids."""

    alias: int | None = None
    releases: dict[int, Any] = field(default_factory=dict)
    withdrawn: frozenset[str] = frozenset()
    other_aliases: dict[str, int] = field(default_factory=dict)
    broken: dict[str, Exception] = field(default_factory=dict)
    num_loads: int = 0

    def read_alias(self) -> int | None:
        self._fail("alias")
        return self.alias

    def load(self, version: int) -> Any:
        self.num_loads += 1
        self._fail(f"load {version}")
        return self.releases[version]

    def read_withdrawn(self) -> frozenset[str]:
        self._fail("withdrawn")
        return self.withdrawn

    def follower(self, **options: Any) -> Follower:
        return Follower(current=self.read_alias, load=self.load, withdrawn=self.read_withdrawn, **options)

    def read_releases(self) -> list[ListedRelease]:
        self._fail("releases")
        aliases = {**self.other_aliases, **({} if self.alias is None else {"champion": self.alias})}
        return [
            ListedRelease(
                version=version,
                aliases=tuple(sorted(name for name, named in aliases.items() if named == version)),
                created_at=datetime(2026, 11, version, tzinfo=UTC),
                kind="retrain",
                map_at_10=version / 10,
            )
            for version in sorted(self.releases, reverse=True)
        ]

    def comparable(self, **options: Any) -> Releases:
        return Releases(known=self.read_releases, load=self.load, **options)

    def _fail(self, part: str) -> None:
        if part in self.broken:
            raise self.broken[part]


class SlowWorld(World):
    """Releases other than the served one open only once they are let."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.let = threading.Event()

    def load(self, version: int) -> Any:
        found = super().load(version)
        assert version == self.alias or self.let.wait(30)
        return found


@dataclass
class Service:
    """A running server: its address, and how to stop it as SIGTERM would."""

    url: str
    world: World
    follower: Follower
    stop: Callable[[], None]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def ask_while_it_swaps(self, ask: Callable[[httpx.Client], None], *, clients: int, every_s: float) -> None:
        """For six seconds the alias moves from 1 to 2 and back while clients ask, each again and again."""
        ended = threading.Event()

        def go_on() -> None:
            with self.client() as client:
                while not ended.is_set():
                    ask(client)

        threads = [threading.Thread(target=go_on) for _ in range(clients)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 6
        while time.monotonic() < until:
            self.world.alias = 3 - (self.world.alias or 1)
            time.sleep(every_s)
        ended.set()
        for thread in threads:
            thread.join()

    def wait_until(self, condition: Callable[[dict[str, Any]], bool], *, timeout_s: float = 20.0) -> dict[str, Any]:
        """Readiness, once the condition holds of it."""
        deadline = time.monotonic() + timeout_s
        with self.client() as client:
            while True:
                state: dict[str, Any] = client.get("/health/ready").json()
                if condition(state):
                    return state
                assert time.monotonic() < deadline, f"not reached in {timeout_s} s: {state}"
                time.sleep(0.02)


def forget_judgements(engine: Engine) -> None:
    """A database as if nobody had judged anything."""
    with engine.begin() as connection:
        for table in (PreferenceRow, ResultRow):
            connection.execute(delete(table))


def until(page: Any, expression: str, *, arg: Any = None, timeout_s: float = 20.0) -> None:
    """Wait until JavaScript, an expression or a function of `arg`, is true of a browser's page.

    Not by Playwright's own `wait_for_function`: but for its first look it uses `eval`, which our pages forbid.
    """
    deadline = time.monotonic() + timeout_s
    while not page.evaluate(expression, arg):
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {expression}"
        page.wait_for_timeout(50)


def check_refused(answer: httpx.Response, field: str, says: str) -> None:
    """A 422 in problem JSON that names the field and says what is wrong with it."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]
    assert field in {entry["field"] for entry in answer.json()["errors"]}, answer.text
