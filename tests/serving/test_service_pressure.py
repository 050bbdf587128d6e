"""More searches than can run: who waits, who is refused, and that no accepted one is dropped.

The release behind the service is a real one with a gate before it, which the test opens: nothing here hangs on how
fast a machine is.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from enclip.pipeline.open_release import OpenRelease
from enclip.records import Ranking
from tests.serving.service_world import DrawnShop, Service, World

WARM_UP = "a product"  # what the follower asks before it serves a release
NEVER_S = 600.0


class GatedRelease:
    """A release whose searches wait until the test lets them through."""

    def __init__(self, release: OpenRelease) -> None:
        self.release = release
        self.gate = threading.Event()
        self.begun: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.release, name)

    def search(self, *, text: str, **options: Any) -> Ranking:
        if text != WARM_UP:
            self.begun.append(text)
            assert self.gate.wait(60), "the test never opened the gate"
        return self.release.search(text=text, **options)


class Crowd:
    """A service behind a gate, and clients in threads of their own."""

    def __init__(self, service: Service, gated: GatedRelease, pool: ThreadPoolExecutor) -> None:
        self.service = service
        self.gated = gated
        self._pool = pool

    def ask(self, text: str, **headers: str) -> "Future[httpx.Response]":
        """A search under way; headers with _ for -."""
        return self._pool.submit(self.asked, text, **headers)

    def asked(self, text: str, **headers: str) -> httpx.Response:
        """The answer to a search."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.service.client() as client:
            return client.post("/v1/search", json={"text": text, "k": 3}, headers=named)

    def figure(self, name: str) -> float:
        """One line of /metrics."""
        with self.service.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "not reached in 30 s"
            time.sleep(0.01)

    def fill(self, *texts: str) -> "list[Future[httpx.Response]]":
        """Searches in this order: the first holds the only thread, the others wait."""
        asked = []
        for place, text in enumerate(texts):
            asked.append(self.ask(text))
            if place:
                self.until(lambda place=place: self.figure("enclip_waiting_searches") == place)
            else:
                self.until(lambda: self.gated.begun == [texts[0]])
        return asked


@pytest.fixture
def crowd_at(start_service: Callable[..., Service], release: OpenRelease) -> Iterator[Callable[..., Crowd]]:
    """`crowd_at(max_waiting=…)`: a service with one thread for searches."""
    gates = []
    with ThreadPoolExecutor(32) as pool:

        def start(**options: Any) -> Crowd:
            gated = GatedRelease(release)
            gates.append(gated.gate)
            options = {"num_searchers": 1, "max_wait_s": NEVER_S, **options}
            service = start_service(World(alias=3, releases={3: gated}), **options)
            return Crowd(service, gated, pool)

        try:
            yield start
        finally:
            for gate in gates:
                gate.set()


def check_refusal(answer: httpx.Response, status: int, says: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert says in answer.json()["detail"]


def test_a_full_queue_sends_back_whoever_comes_and_keeps_whoever_waits(crowd_at) -> None:
    crowd = crowd_at(max_waiting=2)
    asked = crowd.fill("one", "two", "three")
    check_refusal(crowd.asked("four"), 429, "Too many searches are waiting.")
    assert crowd.figure('enclip_refused_requests_total{reason="queue"}') == 1
    assert crowd.figure("enclip_waiting_searches") == 2
    crowd.gated.gate.set()
    assert [one.result(30).status_code for one in asked] == [200, 200, 200]
    assert crowd.gated.begun == ["one", "two", "three"], "first come, first served"
    assert crowd.asked("five").status_code == 200
    assert crowd.figure("enclip_waiting_searches") == 0
    assert crowd.figure("enclip_queue_seconds_count") == 4, "who was sent back has not waited"


def test_what_runs_at_once_needs_no_place_in_the_queue(crowd_at) -> None:
    crowd = crowd_at(max_waiting=0)
    running = crowd.ask("one")
    crowd.until(lambda: crowd.gated.begun == ["one"])
    check_refusal(crowd.asked("two"), 429, "Too many")
    crowd.gated.gate.set()
    assert running.result(30).status_code == 200


def test_a_client_s_deadline_ends_its_waiting_and_nothing_is_started(crowd_at) -> None:
    crowd = crowd_at()
    first, patient = crowd.fill("one", "two")
    check_refusal(crowd.asked("hasty", X_Request_Timeout_Ms="20"), 503, "not started")
    assert crowd.figure("enclip_waiting_searches") == 1, "its place is free again"
    assert crowd.figure('enclip_refused_requests_total{reason="deadline"}') == 1
    crowd.gated.gate.set()
    assert first.result(30).status_code == patient.result(30).status_code == 200
    assert crowd.asked("after", X_Request_Timeout_Ms="600000").status_code == 200
    assert crowd.gated.begun == ["one", "two", "after"]


def test_the_service_s_own_deadline_holds_for_everyone(crowd_at) -> None:
    crowd = crowd_at(max_wait_s=0.02)
    first = crowd.ask("one")
    crowd.until(lambda: crowd.gated.begun == ["one"])
    check_refusal(crowd.asked("two"), 503, "not started")
    check_refusal(crowd.asked("three", X_Request_Timeout_Ms="600000"), 503, "not started")
    with crowd.service.client() as client:
        like = crowd.gated.release.products.product_id[0]
        check_refusal(client.get(f"/v1/similar/{like}"), 503, "not started")
    crowd.gated.gate.set()
    assert first.result(30).status_code == 200
    assert crowd.gated.begun == ["one"]
    assert crowd.figure("enclip_queue_seconds_count") == 4


def test_many_refusals_cost_no_turn(crowd_at) -> None:
    crowd = crowd_at()
    first = crowd.ask("one")
    crowd.until(lambda: crowd.gated.begun == ["one"])
    hasty = [crowd.ask(f"hasty {place}", X_Request_Timeout_Ms=str(1 + place)) for place in range(24)]
    assert {one.result(30).status_code for one in hasty} == {503}
    crowd.gated.gate.set()
    assert first.result(30).status_code == 200
    later = [crowd.ask(f"later {place}") for place in range(8)]
    assert {one.result(30).status_code for one in later} == {200}


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1.5", "600001", "", "1e3", "9" * 400])
def test_a_deadline_that_is_none_is_said_to_be(client: httpx.Client, value: str) -> None:
    answer = client.post("/v1/search", json={"text": "bag"}, headers={"X-Request-Timeout-Ms": value})
    assert answer.status_code == 422
    assert [entry["field"] for entry in answer.json()["errors"]] == ["X-Request-Timeout-Ms"]


def test_the_description_names_deadline_and_refusals(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for operation in (paths["/v1/search"]["post"], paths["/v1/similar/{product_id}"]["get"]):
        assert "X-Request-Timeout-Ms" in {parameter["name"] for parameter in operation["parameters"]}
        for status in ("429", "503"):
            assert "Retry-After" in operation["responses"][status]["description"]
            assert "application/problem+json" in operation["responses"][status]["content"]


def test_no_release_is_a_refusal_too(start_service: Callable[..., Service]) -> None:
    crowd = Crowd(start_service(World(alias=None)), None, None)  # type: ignore[arg-type]
    answer = crowd.asked("one")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert crowd.figure('enclip_refused_requests_total{reason="release"}') == 1


def test_a_stop_answers_all_that_wait(crowd_at) -> None:
    crowd = crowd_at()
    asked = [crowd.ask(f"search {place}") for place in range(16)]
    crowd.until(lambda: crowd.figure("enclip_waiting_searches") == 15)
    stopping = threading.Thread(target=crowd.service.stop)
    stopping.start()
    crowd.until(lambda: not listens(crowd.service.url))
    assert not any(one.done() for one in asked), "it ends only when they have their answers"
    crowd.gated.gate.set()
    answers = [one.result(30) for one in asked]
    stopping.join(30)
    assert {answer.status_code for answer in answers} == {200}
    assert all(len(answer.json()["results"]) == 3 for answer in answers)
    assert len(crowd.gated.begun) == 16


def listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/health/live")
    except httpx.TransportError:
        return False
    return True


def test_a_store_that_hangs_keeps_pictures_waiting_and_nothing_else(
    release: OpenRelease, start_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    num_viewers = 48  # more than there are threads for all routes together
    goes_on, read = threading.Event(), DrawnShop.read_picture
    monkeypatch.setattr(DrawnShop, "read_picture", lambda self, sha256: goes_on.wait(60) and read(self, sha256))
    service = start_service(World(alias=1, releases={1: release}))
    product_id = release.products.product_id[0]
    with service.client() as client, ThreadPoolExecutor(num_viewers) as threads:
        asked = [threads.submit(client.get, f"/v1/products/{product_id}/image") for _ in range(num_viewers)]
        try:
            until = time.monotonic() + 2
            while time.monotonic() < until:
                for path in ("/metrics", "/v1/catalog"):
                    assert client.get(path, timeout=5).status_code == 200
            assert not any(future.done() for future in asked)
        finally:
            goes_on.set()
        assert {future.result().status_code for future in asked} == {200}
