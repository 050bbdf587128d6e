"""Two releases side by side: each as it would answer alone, opened on demand, and never in anybody's way."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest

from enclip.client import SearchClient
from enclip.errors import ReleaseError, StoreError
from enclip.pipeline.open_release import OpenRelease
from enclip.serving.compare_schemas import CompareAnswer, ComparedSide, compared
from enclip.serving.follow import Served
from enclip.serving.releases import ListedRelease
from enclip.serving.schemas import SearchHit
from tests.serving.service_world import DrawnShop, ReleaseMaker, Service, SlowWorld, World, check_refused


@pytest.fixture(scope="module")
def world(release: OpenRelease, make_release: ReleaseMaker) -> World:
    """Release 3 is served; 4, the challenger, is another model; 2, the previous, knows half of the shop."""
    releases = {2: make_release(2, seed=2, rows=slice(0, 40)), 3: release, 4: make_release(4, seed=4)}
    return World(alias=3, releases=releases, other_aliases={"challenger": 4, "previous": 2})


@pytest.fixture(scope="module")
def shared(world: World, start_service: Callable[..., Service]) -> Service:
    return start_service(world)


@pytest.fixture
def client(shared: Service) -> Iterator[httpx.Client]:
    with shared.client() as opened:
        yield opened


def figure(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def hit(product_id: str) -> SearchHit:
    words = dict.fromkeys(("name", "category", "article_type", "gender", "colour", "image"), "")
    return SearchHit(product_id=product_id, **words, score=0.5, cluster=0)


def test_what_differs_is_counted_by_hand() -> None:
    left, right = compared([hit(name) for name in "abcd"], [hit(name) for name in "aecb"])
    assert [(found.product_id, found.rank, found.other_rank, found.change) for found in left] == [
        ("a", 1, 1, "same"),
        ("b", 2, 4, "down"),
        ("c", 3, 3, "same"),
        ("d", 4, None, "left"),
    ]
    assert [(found.product_id, found.rank, found.other_rank, found.change) for found in right] == [
        ("a", 1, 1, "same"),
        ("e", 2, None, "entered"),
        ("c", 3, 3, "same"),
        ("b", 4, 2, "down"),
    ]
    sides = [ComparedSide(release=version, took_ms=1, results=hits) for version, hits in ((3, left), (4, right))]
    answer = CompareAnswer.of(*sides)
    assert (answer.num_shared, answer.overlap) == (3, 0.75)


def test_nothing_beside_nothing_is_the_same() -> None:
    empty = ComparedSide(release=1, took_ms=1, results=[])
    assert CompareAnswer.of(empty, empty).overlap == 1


def test_it_lists_what_can_be_compared(client: httpx.Client) -> None:
    answer = client.get("/v1/releases").json()
    assert answer["served"] == 3
    assert [(found["version"], found["aliases"], found["map_at_10"]) for found in answer["releases"]] == [
        (4, ["challenger"], 0.4),
        (3, ["champion"], 0.3),
        (2, ["previous"], 0.2),
    ]
    assert answer["releases"][0]["created_at"] == "2026-11-04T00:00:00Z"


@pytest.mark.parametrize(
    "search",
    [
        {"text": "navy blue shirt"},
        {"text": "shirt", "filters": {"gender": ["Men"]}, "without": "red"},
        {"text": "bag", "offset": 5},
        {"text": "bag", "spread": True},
    ],
)
def test_each_side_answers_as_it_would_alone(client: httpx.Client, world: World, search: dict) -> None:
    answer = client.post("/v1/compare", json={**search, "k": 12}).json()
    assert (answer["left"]["release"], answer["right"]["release"]) == (3, 4)
    body = {**search, "k": 12}
    alone = client.post("/v1/search", json=body).json()["results"]
    shown = [{name: found[name] for name in alone[0]} for found in answer["left"]["results"]]
    assert shown == alone
    asked = {name: value for name, value in search.items() if name != "filters"}
    if "filters" in search:
        from enclip.records import Filters

        asked["filters"] = Filters(gender=("Men",))
    ids = {}
    for side, version in (("left", 3), ("right", 4)):
        expected = list(world.releases[version].search(**asked, k=12).product_ids)
        ids[side] = [found["product_id"] for found in answer[side]["results"]]
        assert ids[side] == expected
    first = search.get("offset", 0) + 1
    for side, other in (("left", "right"), ("right", "left")):
        assert [found["rank"] for found in answer[side]["results"]] == list(range(first, first + len(ids[side])))
        for found in answer[side]["results"]:
            there = found["product_id"] in ids[other]
            assert found["other_rank"] == (first + ids[other].index(found["product_id"]) if there else None)
    assert answer["num_shared"] == len(set(ids["left"]) & set(ids["right"]))
    assert {found["change"] for side in ids for found in answer[side]["results"]} >= {"entered", "left"}


def test_a_product_and_a_picture_are_compared_too(client: httpx.Client, world: World, shop: DrawnShop) -> None:
    product_id = str(shop.products.product_id[4])
    answer = client.post("/v1/compare", json={"like": product_id, "k": 5}).json()
    assert [found["product_id"] for found in answer["right"]["results"]] == list(
        world.releases[4].search(like=product_id, k=5).product_ids
    )
    import base64

    picture = shop.picture_of(product_id)
    answer = client.post("/v1/compare", json={"image": base64.b64encode(picture).decode(), "k": 5}).json()
    assert [found["product_id"] for found in answer["right"]["results"]] == list(
        world.releases[4].search(image=picture, k=5).product_ids
    )


def test_a_release_is_named_by_version_or_alias(client: httpx.Client) -> None:
    for name in ("previous", 2, "2"):
        answer = client.post("/v1/compare", json={"text": "bag", "left": name, "right": "champion"}).json()
        assert (answer["left"]["release"], answer["right"]["release"]) == (2, 3)
    same = client.post("/v1/compare", json={"text": "bag", "left": 3, "right": 3}).json()
    assert same["overlap"] == 1
    assert {found["change"] for found in same["right"]["results"]} == {"same"}


def test_what_is_withdrawn_is_on_neither_side(shared: Service, client: httpx.Client, world: World) -> None:
    gone = frozenset(world.releases[4].search(text="bag", k=3).product_ids)
    world.withdrawn = gone
    try:
        shared.wait_until(lambda state: state["num_withdrawn"] == len(gone))
        answer = client.post("/v1/compare", json={"text": "bag", "k": 20}).json()
        shown = {found["product_id"] for side in ("left", "right") for found in answer[side]["results"]}
        assert not shown & gone
        refused = client.post("/v1/compare", json={"like": min(gone)})
        assert refused.status_code == 404
    finally:
        world.withdrawn = frozenset()
        shared.wait_until(lambda state: state["num_withdrawn"] == 0)


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({}, "body", "give text, an image or a product"),
        ({"text": "x", "k": 101}, "k", "100"),
        ({"text": "x" * 1001}, "text", "1000"),
        ({"text": "x", "left": ""}, "left", "at least 1"),
        ({"text": "x", "left": "a" * 65}, "left", "64"),
        ({"text": "x", "left": "../1"}, "left", "pattern"),
        ({"text": "x", "left": None}, "left", "string"),
        ({"text": "x", "right": True}, "right", "string"),
        ({"text": "x", "right": [3]}, "right", "string"),
        ({"text": "x", "middle": 3}, "middle", "not permitted"),
    ],
)
def test_a_bad_field_is_named(client: httpx.Client, body: dict, field: str, says: str) -> None:
    check_refused(client.post("/v1/compare", json=body), field, says)


@pytest.mark.parametrize("name", [99, -1, "007", "best", 10**60])
def test_an_unknown_release_is_said_to_be_unknown(client: httpx.Client, name: object) -> None:
    answer = client.post("/v1/compare", json={"text": "bag", "right": name})
    assert answer.status_code == 404, answer.text
    assert str(name) in answer.json()["detail"]
    assert "the newest is 4, its aliases are challenger, champion, previous" in answer.json()["detail"]


def test_a_product_that_one_side_lacks_is_named_with_its_release(client: httpx.Client, shop: DrawnShop) -> None:
    only_in_3 = str(shop.products.product_id[60])
    answer = client.post("/v1/compare", json={"like": only_in_3, "right": "previous"})
    assert answer.status_code == 404
    assert "Release 2 has no product" in answer.json()["detail"]


def test_a_release_that_cannot_be_opened_is_told_and_not_tried_again_at_once(
    release: OpenRelease, start_service: Callable[..., Service]
) -> None:
    world = World(alias=3, releases={3: release, 4: None})
    world.broken["load 4"] = ReleaseError("Release file index.faiss is missing.", remedy="Restore it.")
    service = start_service(world)
    with service.client() as client:
        for _ in range(2):
            answer = client.post("/v1/compare", json={"text": "bag", "right": 4})
            assert answer.status_code == 409
            assert answer.json()["detail"] == (
                "Release 4 cannot be opened: Release file index.faiss is missing. Restore it."
            )
        assert world.num_loads == 2  # the champion, and the broken one once
        assert client.post("/v1/search", json={"text": "bag"}).status_code == 200


def test_a_registry_that_does_not_answer_is_no_fault_of_the_client(
    release: OpenRelease, start_service: Callable[..., Service]
) -> None:
    world = World(alias=3, releases={3: release})
    world.broken["releases"] = StoreError("The database at /secret/place is locked.")
    with start_service(world).client() as client:
        for answer in (client.get("/v1/releases"), client.post("/v1/compare", json={"text": "bag"})):
            assert answer.status_code == 503
            assert "secret" not in answer.text


def test_a_service_without_a_release_compares_nothing(start_service: Callable[..., Service]) -> None:
    with start_service(World(alias=None)).client() as client:
        assert client.get("/v1/releases").status_code == 503
        assert client.post("/v1/compare", json={"text": "bag"}).status_code == 503


def test_a_registry_that_hangs_keeps_nobody_waiting_for_ever(
    release: OpenRelease, start_service: Callable[..., Service]
) -> None:
    asked, let = threading.Event(), threading.Event()

    class Hanging(World):
        def read_releases(self) -> list[ListedRelease]:
            asked.set()
            let.wait(30)
            return super().read_releases()

    world = Hanging(alias=3, releases={3: release})
    service = start_service(world, releases=world.comparable(wait_s=0.3))
    with service.client() as client, ThreadPoolExecutor(1) as thread:
        first = thread.submit(client.get, "/v1/releases")
        try:
            assert asked.wait(10)
            answer = client.get("/v1/releases")
            assert answer.status_code == 503
            assert answer.json()["detail"] == "The registry does not answer."
            assert client.post("/v1/search", json={"text": "bag"}).status_code == 200
        finally:
            let.set()
        assert first.result().json()["served"] == 3


def test_a_release_that_is_being_opened_blocks_no_search(
    release: OpenRelease, make_release: ReleaseMaker, start_service: Callable[..., Service]
) -> None:
    world = SlowWorld(alias=3, releases={3: release, 4: make_release(4, seed=4)})
    service = start_service(world, releases=world.comparable(wait_s=0.5))
    with service.client() as client, ThreadPoolExecutor(8) as threads:

        def ask() -> httpx.Response:
            return client.post("/v1/compare", json={"text": "bag", "right": 4})

        waiting = [threads.submit(ask) for _ in range(4)]
        while not all(future.done() for future in waiting):
            started = time.monotonic()
            assert client.post("/v1/search", json={"text": "shirt"}).status_code == 200
            assert time.monotonic() - started < 0.4
        for future in waiting:
            answer = future.result()
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert "Release 4 is still being opened" in answer.json()["detail"]
        world.let.set()
        deadline = time.monotonic() + 20
        while (answer := ask()).status_code == 503:
            assert time.monotonic() < deadline
        assert answer.json()["right"]["release"] == 4
        assert world.num_loads == 2  # the champion and release 4, once for all who asked


def test_the_client_asks_again_until_a_release_is_open(
    release: OpenRelease, make_release: ReleaseMaker, start_service: Callable[..., Service]
) -> None:
    world = SlowWorld(alias=3, releases={3: release, 4: make_release(4, seed=4)})
    service = start_service(world, releases=world.comparable(wait_s=0.5))
    waits: list[float] = []

    def come_back(seconds: float) -> None:
        waits.append(seconds)
        world.let.set()

    with SearchClient(service.url, sleep=come_back) as asked:
        assert asked.compare("bag", right=4).right.release == 4
    assert waits and set(waits) == {5}


def test_whoever_comes_while_too_many_wait_for_a_release_is_sent_back(
    release: OpenRelease, make_release: ReleaseMaker, start_service: Callable[..., Service]
) -> None:
    world = SlowWorld(alias=3, releases={3: release, 4: make_release(4, seed=4)})
    service = start_service(world, releases=world.comparable(wait_s=20, max_waiting=3))
    with service.client() as client, ThreadPoolExecutor(5) as threads:
        asked = [threads.submit(client.post, "/v1/compare", json={"text": "bag", "right": 4}) for _ in range(5)]
        try:
            deadline = time.monotonic() + 10
            while sum(future.done() for future in asked) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            world.let.set()
        answers = sorted((future.result() for future in asked), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].headers["retry-after"] == "5"
    assert answers[-1].json()["detail"] == "Too many wait for a release to be opened."


def test_what_is_withdrawn_while_a_release_is_opened_is_not_shown(
    release: OpenRelease, make_release: ReleaseMaker, start_service: Callable[..., Service]
) -> None:
    world = SlowWorld(alias=3, releases={3: release, 4: make_release(4, seed=4)})
    service = start_service(world)
    gone = frozenset(release.search(text="bag", k=3).product_ids) | frozenset(
        world.releases[4].search(text="bag", k=3).product_ids
    )
    with service.client() as client, ThreadPoolExecutor(1) as thread:
        asked = thread.submit(client.post, "/v1/compare", json={"text": "bag", "right": 4, "k": 20})
        deadline = time.monotonic() + 10
        while world.num_loads < 2:  # it is being opened
            assert time.monotonic() < deadline
            time.sleep(0.01)
        world.withdrawn = gone
        service.wait_until(lambda state: state["num_withdrawn"] == len(gone))
        world.let.set()
        answer = asked.result().json()
    shown = {found["product_id"] for side in ("left", "right") for found in answer[side]["results"]}
    assert shown and not shown & gone


def test_at_most_two_more_are_remembered_and_idle_ones_are_let_go(
    release: OpenRelease, make_release: ReleaseMaker, start_service: Callable[..., Service]
) -> None:
    made = {version: make_release(version, seed=version) for version in (4, 5, 6)}
    alive = {version: weakref.ref(found) for version, found in made.items()}

    class Lending(World):
        """Gives each release away, so that nobody but the service holds it."""

        def load(self, version: int) -> OpenRelease:
            self.num_loads += 1
            return release if version == 3 else made.pop(version)

    world = Lending(alias=3, releases=dict.fromkeys((3, 4, 5, 6)))
    service = start_service(world, releases=world.comparable(idle_s=4.0))
    with service.client() as client:
        assert figure(client, "enclip_compared_releases") == 0
        client.post("/v1/compare", json={"text": "bag", "left": 4, "right": 5}).raise_for_status()
        client.post("/v1/compare", json={"text": "bag", "left": 3, "right": 4}).raise_for_status()
        assert world.num_loads == 3
        assert figure(client, "enclip_compared_releases") == 2
        client.post("/v1/compare", json={"text": "bag", "left": 4, "right": 6}).raise_for_status()
        gc.collect()
        assert [version for version, ref in alive.items() if ref() is not None] == [4, 6]  # 5 was used longest ago
        deadline = time.monotonic() + 20
        while figure(client, "enclip_compared_releases"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        gc.collect()
        assert [version for version, ref in alive.items() if ref() is not None] == []


def test_a_promoted_release_is_not_held_twice(
    release: OpenRelease, make_release: ReleaseMaker, start_service: Callable[..., Service]
) -> None:
    world = World(alias=3, releases={3: release, 4: make_release(4, seed=4)})
    service = start_service(world)
    with service.client() as client:
        client.post("/v1/compare", json={"text": "bag", "right": 4}).raise_for_status()
        world.alias = 4
        service.wait_until(lambda state: state["release"] == 4)
        answer = client.post("/v1/compare", json={"text": "bag", "left": 3, "right": 4}).json()
        assert (answer["left"]["release"], answer["right"]["release"]) == (3, 4)
        assert figure(client, "enclip_compared_releases") == 1  # release 3 alone


def test_a_release_that_the_shadow_holds_is_not_opened_again(
    release: OpenRelease, make_release: ReleaseMaker, start_service: Callable[..., Service]
) -> None:
    challenger = make_release(4, seed=4)
    gone = frozenset(challenger.search(text="bag", k=3).product_ids)
    world = World(alias=3, releases={3: release, 4: None}, withdrawn=gone)
    held = Served(challenger, frozenset(), datetime.now(UTC))  # the shadow's follower knows of nothing withdrawn
    service = start_service(world, releases=world.comparable(held=lambda: held))
    with service.client() as client:
        answer = client.post("/v1/compare", json={"text": "bag", "right": 4, "k": 20}).json()
        assert answer["right"]["release"] == 4
        shown = [found["product_id"] for found in answer["right"]["results"]]
        assert shown == list(challenger.search(text="bag", k=20, withdrawn=gone).product_ids)
        assert (world.num_loads, figure(client, "enclip_compared_releases")) == (1, 0)


def test_when_a_release_is_forgotten_its_memory_is_given_back_beside_the_searches(
    release: OpenRelease, make_release: ReleaseMaker, start_service: Callable[..., Service]
) -> None:
    world = World(alias=3, releases={3: release, 4: make_release(4, seed=4)})
    releases_then: list[int] = []
    let = threading.Event()

    def give_back() -> None:
        releases_then.append(len(releases.versions))
        let.wait(20)

    releases = world.comparable(idle_s=2.0, give_back=give_back, give_back_s=0.2)
    with start_service(world, releases=releases).client() as client:
        client.post("/v1/compare", json={"text": "bag", "right": 4}).raise_for_status()
        deadline = time.monotonic() + 20
        while releases_then[-1:] != [0]:
            assert time.monotonic() < deadline
            assert client.post("/v1/search", json={"text": "bag"}, timeout=5).status_code == 200
        let.set()
    assert releases_then == [1, 0]  # after it was opened, and after it was let go


def test_comparing_can_be_off(world: World, start_service: Callable[..., Service]) -> None:
    with start_service(world, releases=None).client() as client:
        assert client.post("/v1/search", json={"text": "bag"}).status_code == 200
        for answer in (
            client.get("/v1/releases"),
            client.post("/v1/compare", json={"text": "bag"}),
            client.get("/v1/judgements/summary"),
        ):
            assert answer.status_code == 404
        assert not [path for path in client.get("/openapi.json").json()["paths"] if "compare" in path]


def test_the_description_s_examples_work(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    examples = schemas["CompareRequest"]["examples"]
    assert len(examples) == 3
    for example in examples:
        assert client.post("/v1/compare", json=example).status_code == 200, example
