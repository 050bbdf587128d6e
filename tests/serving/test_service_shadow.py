"""The challenger is asked what the champion was, and whoever searches does not notice."""

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
import pytest
from anyio import to_thread
from prometheus_client import CollectorRegistry

from enclip.errors import StoreError
from enclip.pipeline.open_release import OpenRelease
from enclip.records import Ranking, ShadowTotals
from enclip.serving.desk import Desk
from enclip.serving.follow import Follower, Served
from enclip.serving.metrics import ServiceMetrics
from enclip.serving.schemas import SearchRequest
from enclip.serving.shadow import MAX_WAITING, Shadow
from tests.serving.service_world import NUM_PRODUCTS, ReleaseMaker, Service, World

CHAMPION, CHALLENGER = 1, 2


class Behaving:
    """A release whose searches do something first."""

    def __init__(self, release: OpenRelease, before: Callable[[], None]) -> None:
        self.release = release
        self.before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self.release, name)

    def unremembered(self) -> "Behaving":
        return self

    def search(self, **asked: Any) -> Ranking:
        if asked["text"] != "a product":  # what a follower asks before it serves
            self.before()
        return self.release.search(**asked)


@dataclass
class Kept:
    """What the database would hold."""

    totals: dict[tuple[int, int], ShadowTotals] = field(default_factory=dict)
    broken: bool = False

    def keep(self, champion: int, challenger: int, more: ShadowTotals) -> None:
        if self.broken:
            raise StoreError("The database is down.")
        self.totals[champion, challenger] = self.totals.get((champion, challenger), ShadowTotals()) + more

    @property
    def both(self) -> ShadowTotals:
        return self.totals.get((CHAMPION, CHALLENGER), ShadowTotals())


def on_a_loop(work: Callable[..., Any], *arguments: Any) -> Any:
    """Its result, from an event loop of its own: this thread may have a browser's."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(anyio.run, work, *arguments).result(30)


@pytest.fixture(scope="module")
def releases(make_release: ReleaseMaker) -> dict[int, OpenRelease]:
    """The champion over the whole shop, the challenger over three quarters of it, by another model."""
    rows = slice(0, NUM_PRODUCTS * 3 // 4)
    return {CHAMPION: make_release(CHAMPION, seed=1), CHALLENGER: make_release(CHALLENGER, seed=2, rows=rows)}


@dataclass
class Shadowed:
    """A running service, what its shadow follows, and what it keeps."""

    service: Service
    followed: World
    shadow: Shadow
    kept: Kept

    def figures(self) -> dict[str, float]:
        with self.service.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def outcomes(self) -> dict[str, int]:
        shown = self.figures()
        names = ("compared", "dropped", "failed")
        return {name: int(shown[f'enclip_shadow_queries_total{{outcome="{name}"}}']) for name in names}

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.outcomes()
            time.sleep(0.01)


@pytest.fixture
def shadowed(
    start_service: Callable[..., Service], releases: dict[int, OpenRelease]
) -> Iterator[Callable[..., Shadowed]]:
    """`shadowed(challenger=…, share=…)`: the champion served, the challenger in its shadow."""
    running: list[Shadowed] = []

    def start(*, challenger: Any = None, share: float = 1.0, **options: Any) -> Shadowed:
        followed = World(alias=CHALLENGER, releases={**releases, CHALLENGER: challenger or releases[CHALLENGER]})
        kept = Kept()
        follower = Follower(
            current=followed.read_alias, load=followed.load, withdrawn=frozenset, poll_s=0.05, optional=True
        )
        shadow = Shadow(follower, share=share, keep=kept.keep, keep_every_s=0.1, **options)
        service = start_service(World(alias=CHAMPION, releases=releases), shadow=shadow)
        running.append(Shadowed(service, followed, shadow, kept))
        running[-1].until(lambda: follower.served is not None)
        return running[-1]

    yield start
    for one in running:
        one.service.stop()


def test_what_is_searched_is_compared_and_kept(shadowed, releases: dict[int, OpenRelease]) -> None:
    world = shadowed()
    texts = ("navy blue shirt", "red bag", "watch", "white casual shoes", "sunglasses")
    with world.service.client() as client:
        for number, text in enumerate(texts, 1):
            answer = client.post("/v1/search", json={"text": text, "k": 3, "offset": 2, "filters": {"gender": "Men"}})
            assert answer.json()["release"] == CHAMPION
            world.until(lambda number=number: world.outcomes() == {"compared": number, "dropped": 0, "failed": 0})
    world.until(lambda: world.kept.both.num_queries == len(texts))

    def first_ten(version: int, text: str) -> set[str]:
        men = SearchRequest(text=text, k=10, filters={"gender": "Men"})
        return set(Served(releases[version], frozenset(), datetime.now(UTC)).search(men).product_ids)

    overlaps = [len(first_ten(CHAMPION, text) & first_ten(CHALLENGER, text)) / 10 for text in texts]
    assert 0 < sum(overlaps) < len(texts), "else the figures could not tell anything apart"
    assert world.kept.both.overlap == pytest.approx(sum(overlaps))
    assert world.kept.both.champion_s > 0
    assert world.kept.both.challenger_s > 0
    shown = world.figures()
    assert shown["enclip_challenger_release"] == CHALLENGER
    assert shown['enclip_shadow_overlap_sum{challenger="2"}'] == pytest.approx(sum(overlaps))
    for who, seconds in (("champion", world.kept.both.champion_s), ("challenger", world.kept.both.challenger_s)):
        label = f'{{asked="{who}",challenger="2"}}'
        assert shown[f"enclip_shadow_seconds_count{label}"] == len(texts)
        assert shown[f"enclip_shadow_seconds_sum{label}"] == pytest.approx(seconds)


def test_words_are_encoded_by_both_though_the_champion_has_just_heard_them(shadowed, releases) -> None:
    """Else a slow text tower of the challenger's would be held against a cache."""
    pause_s = 0.05
    encoder = releases[CHAMPION].encoders[0]

    class Slow:
        dim = encoder.dim

        def encode_texts(self, texts: Any) -> Any:
            time.sleep(pause_s)
            return encoder.encode_texts(texts)

    slow = OpenRelease(CHAMPION, releases[CHAMPION].manifest, releases[CHAMPION].searcher, (Slow(),))
    world = shadowed()
    world.service.world.releases[CHAMPION] = slow
    world.service.world.alias = CHALLENGER
    world.service.wait_until(lambda state: state["release"] == CHALLENGER)
    world.service.world.alias = CHAMPION
    world.service.wait_until(lambda state: state["release"] == CHAMPION)
    try:
        with world.service.client() as client:
            for number in (1, 2):
                client.post("/v1/search", json={"text": "navy blue shirt"})
                world.until(lambda number=number: world.outcomes()["compared"] == number)
        world.until(lambda: world.kept.both.num_compared == 2)
        assert world.kept.both.champion_s > 2 * pause_s
    finally:
        world.service.world.releases[CHAMPION] = releases[CHAMPION]


def test_a_challenger_that_hangs_delays_nobody_and_the_rest_is_dropped(shadowed, releases) -> None:
    gate = threading.Event()
    world = shadowed(challenger=Behaving(releases[CHALLENGER], lambda: gate.wait(30)))
    num_asked = 1 + MAX_WAITING + 20
    try:
        with world.service.client() as client:
            for number in range(num_asked):
                answer = client.post("/v1/search", json={"text": f"shirt {number}"})
                assert answer.status_code == 200
                if not number:
                    time.sleep(0.2)  # until it hangs
            world.until(lambda: world.outcomes()["dropped"] >= 20)
    finally:
        gate.set()
    world.until(lambda: sum(world.outcomes().values()) == num_asked)


def test_a_challenger_that_fails_is_counted_and_the_query_is_not_logged(
    shadowed, releases, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("an index without its members")

    world = shadowed(challenger=Behaving(releases[CHALLENGER], fail))
    with world.service.client() as client, caplog.at_level(logging.WARNING):
        assert client.post("/v1/search", json={"text": "secret wish"}).status_code == 200
        world.until(lambda: world.outcomes()["failed"] == 1)
    world.until(lambda: world.kept.both == ShadowTotals(num_failed=1))
    assert "Release 2 failed a shadow query: RuntimeError" in caplog.text
    assert "secret wish" not in caplog.text


def test_a_product_that_the_challenger_lacks_is_a_query_that_it_fails(shadowed, releases) -> None:
    world = shadowed()
    lacking = str(releases[CHAMPION].products.product_id[-1])
    with world.service.client() as client:
        assert client.post("/v1/search", json={"like": lacking}).status_code == 200
    world.until(lambda: world.outcomes() == {"compared": 0, "dropped": 0, "failed": 1})


def test_what_is_withdrawn_is_compared_by_neither(shadowed, releases) -> None:
    world = shadowed()
    world.service.world.withdrawn = frozenset(map(str, releases[CHAMPION].products.product_id[1:]))
    world.service.wait_until(lambda state: state["num_withdrawn"] == NUM_PRODUCTS - 1)
    with world.service.client() as client:
        assert len(client.post("/v1/search", json={"text": "shirt"}).json()["results"]) == 1
    world.until(lambda: world.kept.both.num_compared == 1)
    assert world.kept.both.overlap == 1.0, "one product is left, and both have found it"


def test_only_its_share_is_asked(shadowed) -> None:
    chances = iter([0.1, 0.9, 0.25, 0.0, 0.3])
    world = shadowed(share=0.25, chance=lambda: next(chances))
    with world.service.client() as client:
        for number in range(5):
            client.post("/v1/search", json={"text": "shirt"})
            done = (1, 1, 1, 2, 2)[number]
            world.until(lambda done=done: world.outcomes()["compared"] == done)
    time.sleep(0.2)
    assert world.outcomes() == {"compared": 2, "dropped": 0, "failed": 0}


def test_a_challenger_that_is_gone_takes_no_memory_and_is_asked_no_more(shadowed, make_release) -> None:
    brief = make_release(CHALLENGER, seed=3, rows=slice(0, 20))
    alive = weakref.ref(brief.searcher)
    world = shadowed(challenger=brief)
    del brief
    with world.service.client() as client:
        client.post("/v1/search", json={"text": "shirt"})
        world.until(lambda: world.outcomes()["compared"] == 1)
        world.followed.alias = None
        del world.followed.releases[CHALLENGER]
        world.until(lambda: world.figures()["enclip_challenger_release"] == 0)
        assert world.figures()["enclip_challenger_problem"] == 0
        client.post("/v1/search", json={"text": "shirt"})
        world.until(lambda: (gc.collect(), alive() is None)[1])
    assert sum(world.outcomes().values()) == 1


def test_a_challenger_that_is_promoted_is_not_compared_with_itself(shadowed) -> None:
    world = shadowed()
    world.service.world.alias = CHALLENGER
    world.service.wait_until(lambda state: state["release"] == CHALLENGER)
    with world.service.client() as client:
        client.post("/v1/search", json={"text": "shirt"})
    time.sleep(0.3)
    assert sum(world.outcomes().values()) == 0


def test_a_challenger_that_cannot_be_loaded_is_reported_and_troubles_nobody(shadowed) -> None:
    world = shadowed()
    world.followed.broken["load 3"] = StoreError("Its files are gone.")
    world.followed.alias = 3
    world.until(lambda: world.figures()["enclip_challenger_problem"] == 1)
    with world.service.client() as client:
        assert client.post("/v1/search", json={"text": "shirt"}).status_code == 200
        assert client.get("/health/ready").json()["problem"] == ""


def test_what_cannot_be_kept_is_kept_later_and_a_stop_loses_nothing(shadowed) -> None:
    world = shadowed()
    world.kept.broken = True
    with world.service.client() as client:
        for number in (1, 2):
            client.post("/v1/search", json={"text": "shirt"})
            world.until(lambda number=number: world.outcomes()["compared"] == number)
        time.sleep(0.3)
        world.kept.broken = False
        world.until(lambda: world.kept.both.num_compared == 2)
        client.post("/v1/search", json={"text": "shirt"})
        world.until(lambda: world.outcomes()["compared"] == 3)
    world.service.stop()
    assert world.kept.both.num_compared == 3


@pytest.mark.parametrize("route", ["/v1/search", "/v1/search/batch"])
def test_a_search_that_is_refused_or_one_of_many_is_not_asked_again(shadowed, route: str) -> None:
    world = shadowed()
    body = {"text": "shirt", "k": -1} if route == "/v1/search" else {"searches": [{"text": "shirt"}]}
    with world.service.client() as client:
        client.post(route, json=body)
    time.sleep(0.2)
    assert sum(world.outcomes().values()) == 0


def test_while_live_searches_need_every_thread_the_shadow_asks_nobody(releases) -> None:
    asked: list[str] = []
    challenger = Behaving(releases[CHALLENGER], lambda: asked.append("challenger"))
    follower = World(alias=CHALLENGER, releases={CHALLENGER: challenger}).follower(optional=True)
    follower.check_withdrawn()
    follower.check_alias()
    busy = threading.Event()
    busy.set()
    shadow, registry = Shadow(follower, share=1, keep=Kept().keep), CollectorRegistry()
    shadow.attach(registry, busy.is_set)
    shadow.start()
    served = Served(releases[CHAMPION], frozenset(), datetime.now(UTC))

    def outcome(name: str) -> float | None:
        return registry.get_sample_value("enclip_shadow_queries_total", {"outcome": name})

    try:
        for name in ("dropped", "compared"):
            on_a_loop(shadow.offer, served, SearchRequest(text="shirt"))
            deadline = time.monotonic() + 10
            while outcome(name) != 1:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert len(asked) == (name == "compared")
            busy.clear()
    finally:
        shadow.stop()


def test_a_desk_is_busy_while_every_turn_is_taken(releases) -> None:
    follower = World(alias=CHAMPION, releases=releases).follower()
    desk = Desk(follower, ServiceMetrics(follower), num_searchers=1)

    async def look() -> tuple[bool, bool, bool]:
        before = desk.is_busy()
        meanwhile = await desk.search(desk.is_busy)
        return before, meanwhile, await to_thread.run_sync(desk.is_busy)

    assert on_a_loop(look) == (False, True, False)


def test_without_a_share_nothing_is_loaded_or_shown(client: httpx.Client) -> None:
    assert "shadow" not in client.get("/metrics").text
