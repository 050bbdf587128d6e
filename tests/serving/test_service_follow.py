"""The alias is followed, without a failed request or a mixed answer, whatever breaks on the way."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from enclip.errors import ReleaseError, StoreError
from enclip.pipeline.open_release import OpenRelease
from enclip.serving.follow import Follower
from enclip.serving.refresh import Refresher
from enclip.serving.shadow import Shadow
from tests.serving.service_world import NUM_PRODUCTS, ReleaseMaker, Service, World


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def halves(make_release: ReleaseMaker) -> dict[int, OpenRelease]:
    """Two releases without a product in common: an answer shows which one it is from."""
    half = NUM_PRODUCTS // 2
    return {1: make_release(1, seed=1, rows=slice(0, half)), 2: make_release(2, seed=2, rows=slice(half, None))}


def look(follower) -> bool:
    follower.check_withdrawn()
    return follower.check_alias()


def test_the_alias_is_followed_there_and_back(halves) -> None:
    world = World(alias=1, releases=halves)
    follower = world.follower()
    assert follower.served is None
    assert look(follower)
    assert (follower.served.version, follower.state.num_swaps) == (1, 1)
    assert not look(follower)
    assert world.num_loads == 1
    world.alias = 2
    assert look(follower)
    assert follower.served.version == 2
    world.alias = 1
    assert look(follower)
    assert (follower.served.version, follower.state.problem) == (1, "")


def test_when_a_release_has_gone_its_memory_is_given_back_once(halves) -> None:
    given: list[int] = []
    world = World(alias=1, releases=halves)
    follower = world.follower(give_back=lambda: given.append(follower.served.version))
    for alias in (1, 2):
        world.alias = alias
        assert look(follower)
        look(follower)
        assert len(given) == alias - 1, "a look comes at once after a swap, when requests may hold the old release"
        for _ in range(3):
            look(follower)
        assert given == list(range(1, alias + 1))


def test_what_is_free_in_the_heap_goes_back_to_the_system() -> None:
    """Blocks between others that stay, as those of a release are; in a process with nothing else in it."""
    program = """
from pathlib import Path
from enclip.serving.memory import give_back_memory
def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
blocks = [bytes(20_000) for _ in range(10_000)]
blocks[:] = [block for number, block in enumerate(blocks) if number % 100 == 0]
full = rss_mb()
give_back_memory()
print(full - rss_mb())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 100


def test_an_alias_that_may_be_absent_leaves_nothing_in_memory(halves) -> None:
    world = World(alias=None, releases=halves)
    follower = world.follower(optional=True)
    look(follower)
    assert (follower.served, follower.state.problem) == (None, "")
    world.alias = 1
    assert look(follower)
    world.alias = None
    look(follower)
    assert (follower.served, follower.state.problem) == (None, "")
    world.withdrawn = frozenset({"1"})
    look(follower)
    assert follower.served is None


def test_a_release_that_cannot_be_loaded_leaves_the_old_one(halves, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    world = World(alias=1, releases=halves, broken={"load 2": ReleaseError("Release file index.faiss is missing.")})
    follower = world.follower(clock=clock, poll_s=2.0)
    look(follower)
    world.alias = 2
    with caplog.at_level(logging.ERROR):
        assert not look(follower)
    assert "Release 2 cannot be served" in caplog.text
    assert follower.served.version == 1
    assert follower.state.alias == 2
    assert "index.faiss is missing" in follower.state.problem
    loads = world.num_loads
    look(follower)
    assert world.num_loads == loads, "a release that failed is not loaded again at once"
    assert "index.faiss is missing" in follower.state.problem
    clock.now += 5
    look(follower)
    assert world.num_loads == loads + 1
    clock.now += 5
    look(follower)
    assert world.num_loads == loads + 1, "each failure doubles the pause"
    del world.broken["load 2"]
    clock.now += 60
    assert look(follower)
    assert (follower.served.version, follower.state.problem, follower.state.num_failed_loads) == (2, "", 2)


def test_a_move_on_from_a_broken_release_does_not_wait(halves) -> None:
    world = World(alias=3, releases=halves, broken={"load 3": RuntimeError("out of memory")})
    follower = world.follower()
    look(follower)
    assert follower.served is None
    assert "RuntimeError: out of memory" in follower.state.problem
    world.alias = 2
    assert look(follower)
    assert follower.served.version == 2


def test_a_release_that_cannot_answer_is_not_served(halves) -> None:
    class Mute:
        version = 5
        products = halves[1].products

        def search(self, **_: object) -> None:
            raise RuntimeError("an index without its members")

    world = World(alias=1, releases={**halves, 5: Mute()})
    follower = world.follower()
    look(follower)
    world.alias = 5
    assert not look(follower)
    assert follower.served.version == 1
    assert "an index without its members" in follower.state.problem


def test_a_registry_that_is_down_changes_nothing(halves) -> None:
    world = World(alias=1, releases=halves)
    follower = world.follower()
    look(follower)
    checked_at = follower.state.checked_at
    world.broken["alias"] = ConnectionError("refused")
    look(follower)
    assert follower.served.version == 1
    assert "refused" in follower.state.problem
    assert follower.state.checked_at == checked_at
    world.broken.clear()
    world.alias = None
    look(follower)
    assert (follower.served.version, follower.state.problem) == (1, "The alias is gone.")
    world.alias = 1
    look(follower)
    assert follower.state.problem == ""


def test_a_registry_that_hangs_shows_in_time(halves) -> None:
    clock = Clock()
    follower = World(alias=1, releases=halves).follower(clock=clock)
    look(follower)
    clock.now += 30
    assert follower.state.problem == ""
    clock.now += 60
    follower.check_withdrawn()
    assert follower.state.problem == "The alias was last read 90 s ago."
    look(follower)
    assert follower.state.problem == ""


def test_withdrawals_that_hang_show_in_time_and_nobody_waits_for_them(halves) -> None:
    clock, hangs, goes_on = Clock(), threading.Event(), threading.Event()
    world = World(alias=1, releases=halves)
    goes_on.set()

    def withdrawn() -> frozenset[str]:
        hangs.set()
        goes_on.wait(30)
        return frozenset()

    follower = Follower(current=world.read_alias, load=world.load, withdrawn=withdrawn, clock=clock)
    look(follower)
    hangs.clear()
    goes_on.clear()
    stuck = threading.Thread(target=follower.check_withdrawn)
    stuck.start()
    assert hangs.wait(10)
    try:
        clock.now += 90
        follower.check_alias()
        assert follower.state.problem == "Withdrawn products were last read 90 s ago."
        assert not follower.check_withdrawn(timeout_s=0.05)
    finally:
        goes_on.set()
        stuck.join()
    assert follower.state.problem == ""


def test_nothing_is_sold_before_it_is_known_what_is_gone(halves) -> None:
    world = World(alias=1, releases=halves, broken={"withdrawn": StoreError("The database is down.")})
    follower = world.follower()
    look(follower)
    assert follower.served is None
    assert "The database is down." in follower.state.problem
    gone = str(halves[1].products.product_id[0])
    world.broken.clear()
    world.withdrawn = frozenset({gone})
    assert look(follower)
    assert follower.served.product(gone) is None
    world.broken["withdrawn"] = StoreError("The database is down again.")
    world.alias = 2
    assert look(follower), "with the last known withdrawals, a promotion is followed"
    assert follower.served.withdrawn == {gone}


def test_a_busy_database_does_not_delay_a_promotion(halves, start_service: Callable[..., Service]) -> None:
    world = World(alias=1, releases=halves)
    service = start_service(world)
    stuck = threading.Event()
    world.read_withdrawn = lambda: (stuck.wait(20), frozenset())[1]  # type: ignore[method-assign]
    service.follower._read_withdrawn = world.read_withdrawn
    world.alias = 2
    try:
        service.wait_until(lambda state: state["release"] == 2, timeout_s=5)
    finally:
        stuck.set()


def test_without_a_release_the_service_lives_and_says_why(start_service: Callable[..., Service], halves) -> None:
    world = World(alias=None, releases=halves)
    service = start_service(world)
    with service.client() as client:
        service.wait_until(lambda state: state["problem"] != "")
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["release"]) == (503, None)
        for answer in (
            client.post("/v1/search", json={"text": "x"}),
            client.get("/v1/similar/1"),
            client.get("/v1/catalog"),
            client.get("/v1/products/1/image"),
        ):
            assert answer.status_code == 503
            assert answer.json()["detail"] == "No release is promoted yet."
            assert answer.headers["retry-after"] == "2"
        assert client.get("/").status_code == 200
        assert "enclip_release 0.0" in client.get("/metrics").text
        world.alias = 1
        assert service.wait_until(lambda state: state["ready"])["release"] == 1
        assert client.post("/v1/search", json={"text": "x"}).json()["release"] == 1


def test_no_request_fails_or_mixes_releases_while_the_alias_moves(
    halves: dict[int, OpenRelease], start_service: Callable[..., Service]
) -> None:
    """Searches and likenesses without pause, the alias moving under them; every answer fits the release it names."""
    expected = {
        version: list(release.search(text="navy blue shirt", k=10).product_ids) for version, release in halves.items()
    }
    world = World(alias=1, releases=halves)
    service = start_service(world, poll_s=0.01)
    failures: list[str] = []
    seen: dict[int, int] = {1: 0, 2: 0}
    lock = threading.Lock()

    def ask(client: httpx.Client) -> None:
        try:
            answer = client.post("/v1/search", json={"text": "navy blue shirt", "k": 10})
            body = answer.json()
            found = [hit["product_id"] for hit in body["results"]]
            if answer.status_code != 200 or found != expected[body["release"]]:
                failures.append(f"{answer.status_code} {body}")
            with lock:
                seen[body["release"]] += 1
        except (httpx.HTTPError, KeyError, ValueError) as error:
            failures.append(repr(error))

    service.ask_while_it_swaps(ask, clients=6, every_s=0.1)
    assert not failures, failures[:3]
    assert min(seen.values()) >= 20, seen
    assert service.follower.state.num_swaps >= 10


def test_a_stop_finishes_what_is_in_flight(halves, start_service: Callable[..., Service]) -> None:
    world = World(alias=1, releases=halves)
    service = start_service(world)
    with service.client() as client:
        client.post("/v1/search", json={"text": "x"})
    broken: list[str] = []
    done: list[int] = []

    def ask() -> None:
        with service.client() as client:
            while True:
                try:
                    done.append(client.post("/v1/search", json={"text": "shirt"}).status_code)
                except httpx.ConnectError:
                    return  # the port is closed: the service is gone, as it said it would be
                except httpx.RemoteProtocolError as error:
                    # A kept-alive connection may be closed between two requests, but never in an answer.
                    if "without sending a response" not in str(error):
                        broken.append(repr(error))
                    return
                except httpx.HTTPError as error:
                    if not isinstance(error, httpx.ReadError | httpx.WriteError):
                        broken.append(repr(error))
                    return

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    started = time.monotonic()
    service.stop()
    took_s = time.monotonic() - started
    for thread in threads:
        thread.join(10)
    assert not broken, broken
    assert set(done) == {200}
    assert took_s < 10


def test_a_stop_waits_for_all_that_hangs_at_once(release: OpenRelease, start_service: Callable[..., Service]) -> None:
    """One after the other would be 25 s, beyond what a container gets."""
    hangs, ended = threading.Event(), threading.Event()

    class Hanging(World):
        def _fail(self, part: str) -> None:
            assert not hangs.is_set() or ended.wait(60)

    world, beside = (Hanging(alias=3, releases={3: release}) for _ in range(2))
    refresher = Refresher(lambda: ended.wait(60) and None, settle_s=0)
    shadow = Shadow(beside.follower(poll_s=0.05), share=1, keep=lambda *_: None)
    service = start_service(world, refresher=refresher, shadow=shadow)
    hangs.set()
    refresher.ask()
    time.sleep(0.5)
    started = time.monotonic()
    try:
        service.stop()
        assert 4 < time.monotonic() - started < 9
    finally:
        ended.set()
