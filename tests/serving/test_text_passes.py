"""Words of requests that come together go through the text towers together; nobody waits for company."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anyio
import httpx
import pytest

from bench.served import run_apart
from enclip.pipeline.open_release import OpenRelease
from enclip.serving.passes import MAX_TEXTS, TextPasses
from tests.serving.service_world import Service, World, check_refused


class SlowTowers:
    """A real release whose passes wait until the test lets them through."""

    def __init__(self, release: OpenRelease) -> None:
        self.release = release
        self.gate = threading.Event()
        self.passes: list[list[str]] = []
        self.fails = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.release, name)

    def learn_texts(self, texts: list[str]) -> None:
        self.passes.append(texts)
        assert self.gate.wait(60), "the test never opened the gate"
        if self.fails:
            raise RuntimeError("the tower fell")
        self.release.learn_texts(texts)


class Visitors:
    """Clients in threads of their own, before a service with slow towers."""

    def __init__(self, service: Service, towers: SlowTowers, pool: ThreadPoolExecutor) -> None:
        self.service = service
        self.towers = towers
        self._pool = pool

    def ask(self, path: str = "/v1/search", timeout_ms: int = 60_000, **body: Any) -> "Future[httpx.Response]":
        def asked() -> httpx.Response:
            with self.service.client() as client:
                return client.post(path, json=body, headers={"X-Request-Timeout-Ms": str(timeout_ms)})

        return self._pool.submit(asked)

    def until_waiting(self, number: int) -> None:
        deadline = time.monotonic() + 30
        while f"enclip_waiting_searches {number}.0" not in self.metrics():
            assert time.monotonic() < deadline, f"never {number} waiting"
            time.sleep(0.01)

    def metrics(self) -> str:
        with self.service.client() as client:
            return client.get("/metrics").text


@pytest.fixture
def visitors(start_service: Callable[..., Service], make_release: Callable[..., OpenRelease]) -> Iterator[Visitors]:
    towers = SlowTowers(make_release(4, seed=4))
    with ThreadPoolExecutor(MAX_TEXTS + 8) as pool:
        service = start_service(World(alias=4, releases={4: towers}), max_wait_s=600)
        try:
            yield Visitors(service, towers, pool)
        finally:
            towers.gate.set()


def test_who_comes_during_a_pass_shares_the_next_one(visitors: Visitors) -> None:
    first = visitors.ask(text="alone")
    visitors.until_waiting(1)
    others = [visitors.ask(text=f"together {number % 3}", without="striped") for number in range(6)]
    visitors.until_waiting(7)
    visitors.towers.gate.set()
    answers = [one.result(30) for one in (first, *others)]
    assert {answer.status_code for answer in answers} == {200}
    assert visitors.towers.passes == [["alone"], ["striped", "together 0", "together 1", "together 2"]]
    with visitors.service.client() as client:
        alone = client.post("/v1/search", json={"text": "together 1", "without": "striped"})
    assert alone.json()["results"] == answers[2].json()["results"], "company changes no result"
    assert len(visitors.towers.passes) == 2, "known by now"
    assert "enclip_text_pass_texts_count 2.0" in visitors.metrics()
    assert "enclip_text_pass_texts_sum 5.0" in visitors.metrics()


def test_a_batch_is_one_pass(visitors: Visitors) -> None:
    visitors.towers.gate.set()
    like = str(visitors.towers.release.products.product_id[0])
    searches = [{"text": f"of a batch {number}"} for number in range(5)] + [{"like": like, "without": "red"}]
    answer = visitors.ask("/v1/search/batch", searches=searches).result(30)
    assert answer.status_code == 200
    assert visitors.towers.passes == [sorted(["red", *(f"of a batch {number}" for number in range(5))])]


def test_a_batch_that_names_an_unknown_product_starts_nothing(visitors: Visitors) -> None:
    answer = visitors.ask("/v1/search/batch", searches=[{"text": "shirt"}, {"like": "nothing"}]).result(30)
    check_refused(answer, "searches.1", "nothing")
    assert visitors.towers.passes == []


def test_a_pass_holds_so_many_texts_and_no_more(visitors: Visitors) -> None:
    first = visitors.ask(text="alone")
    visitors.until_waiting(1)
    others = [visitors.ask(text=f"text {number}") for number in range(MAX_TEXTS + 2)]
    visitors.until_waiting(MAX_TEXTS + 3)
    visitors.towers.gate.set()
    assert {one.result(30).status_code for one in (first, *others)} == {200}
    assert [len(texts) for texts in visitors.towers.passes] == [1, MAX_TEXTS, 2]


def test_who_gives_up_takes_nobody_along(visitors: Visitors) -> None:
    first = visitors.ask(text="alone")
    visitors.until_waiting(1)
    hasty = visitors.ask(text="hasty", timeout_ms=1500)
    visitors.until_waiting(2)
    patient = visitors.ask(text="patient")
    visitors.until_waiting(3)
    others = [visitors.ask(text=f"patient {number}") for number in range(3)]
    visitors.until_waiting(6)
    assert hasty.result(30).status_code == 503
    assert not patient.done(), "it has its place, though the pass that it joined is gone"
    visitors.towers.gate.set()
    assert {one.result(30).status_code for one in (first, patient, *others)} == {200}
    assert visitors.towers.passes == [["alone"], ["patient", "patient 0", "patient 1", "patient 2"]]


def test_a_tower_that_fails_is_said_and_the_next_request_is_answered(visitors: Visitors) -> None:
    visitors.towers.fails = True
    visitors.towers.gate.set()
    assert visitors.ask(text="falls").result(30).status_code == 500
    visitors.towers.fails = False
    assert visitors.ask(text="falls").result(30).status_code == 200


def test_what_has_no_words_makes_no_pass(visitors: Visitors) -> None:
    like = str(visitors.towers.release.products.product_id[0])
    assert visitors.ask(like=like).result(30).status_code == 200
    assert visitors.towers.passes == []


def test_another_release_has_passes_of_its_own(make_release: Callable[..., OpenRelease], release: OpenRelease) -> None:
    """What is compared may be slow; what is served does not wait for it."""
    slow = SlowTowers(make_release(5, seed=5))
    passes = TextPasses(lambda _: None)

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(passes.learn, slow, ["held"])
            await anyio.sleep(0.05)
            with anyio.fail_after(20):
                await passes.learn(release, ["passes by"])
            assert slow.passes == [["held"]]
            slow.gate.set()

    run_apart(both())
    assert release.unknown_texts(text="passes by", like=None, without=None) == []
