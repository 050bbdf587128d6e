"""`enclip serve` as a process of its own, over a real catalog, a real MLflow and releases registered in it."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.served import Server, eventually, run_enclip, served
from enclip.catalog.images import image_key
from enclip.config import Settings
from enclip.errors import ConfigError
from enclip.pipeline.platform import Platform, open_platform
from enclip.serving.run import THREAD_VARIABLES, bind, platform_app

pytestmark = pytest.mark.slow

FOLLOW_S = 5.0  # promised to users
WRITE_KEY = "write-key-0123456789"


@pytest.fixture(scope="module")
def server(platform: Platform, home: Path) -> Iterator[Server]:
    with served(platform, log=home / "serve.log") as running:
        yield running


@pytest.fixture(scope="module")
def replica(platform: Platform, home: Path) -> Iterator[str]:
    """A second service on the same home, through which products may be changed."""
    with served(platform, log=home / "replica.log", ENCLIP_WRITE_KEYS=WRITE_KEY) as running:
        yield running.url


@pytest.fixture
def url(server: Server) -> str:
    return server.url


@pytest.mark.parametrize(("number", "compares"), [("0", False), ("1", True)])
def test_comparing_is_on_where_a_release_may_be_kept_for_it(tmp_path: Path, number: str, compares: bool) -> None:
    opened = open_platform(Settings(ENCLIP_HOME=tmp_path, ENCLIP_COMPARED_RELEASES=number))
    paths = platform_app(opened).openapi()["paths"]
    assert "/v1/search" in paths
    assert ("/v1/compare" in paths, "/v1/judgements" in paths) == (compares, compares)


def test_it_serves_the_champion_with_pictures_from_the_store(url: str, platform: Platform) -> None:
    answer = httpx.post(f"{url}/v1/search", json={"text": "navy blue shirt", "k": 100}).json()
    assert answer["release"] == 1
    ids = {hit["product_id"] for hit in answer["results"]}
    assert ids == set(platform.catalog.products().product_id[0::2])
    hit = answer["results"][0]
    sha256 = platform.catalog.image_sha256(hit["product_id"])
    assert httpx.get(url + hit["image"]).content == platform.blobs.get(image_key(sha256))


def test_it_follows_the_alias_in_time_and_no_request_fails(url: str, platform: Platform) -> None:
    halves = {
        1: set(platform.catalog.products().product_id[0::2]),
        2: set(platform.catalog.products().product_id[1::2]),
    }
    ended = threading.Event()
    failures: list[str] = []
    asked: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not ended.is_set():
                answer = client.post("/v1/search", json={"text": "red bag", "k": 100})
                ids = {hit["product_id"] for hit in answer.json().get("results", [])}
                if answer.status_code != 200 or ids != halves[answer.json()["release"]]:
                    failures.append(answer.text[:500])
                asked.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for version in (2, 1):  # forward, and back as a rollback would
            platform.registry.set_alias("champion", version)
            took_s = eventually(
                lambda version=version: httpx.get(f"{url}/health/ready").json()["release"] == version, timeout_s=20
            )
            assert took_s < FOLLOW_S
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[:2]
    assert len(asked) > 20


def test_a_product_withdrawn_from_the_catalog_is_gone_in_time(url: str, platform: Platform) -> None:
    gone = str(platform.catalog.products().product_id[0])
    assert httpx.get(f"{url}/v1/similar/{gone}").status_code == 200
    assert platform.catalog.withdraw([gone]) == 1
    eventually(lambda: httpx.get(f"{url}/v1/similar/{gone}").status_code == 404, timeout_s=FOLLOW_S)
    answer = httpx.post(f"{url}/v1/search", json={"text": "red bag", "k": 100}).json()
    assert gone not in {hit["product_id"] for hit in answer["results"]}


def ids_of(url: str, release: int) -> set[str]:
    """What a service finds, once it answers from a release."""
    eventually(lambda: httpx.get(f"{url}/health/ready").json()["release"] == release, timeout_s=20)
    answer = httpx.post(f"{url}/v1/search", json={"text": "red bag", "k": 100}).json()
    assert answer["release"] == release
    return {hit["product_id"] for hit in answer["results"]}


def test_what_is_withdrawn_through_one_replica_is_gone_from_the_other_and_from_older_releases(
    url: str, replica: str, platform: Platform
) -> None:
    now, later = sorted(ids_of(url, 1))[4:6]
    with httpx.Client(base_url=replica, headers={"X-API-Key": WRITE_KEY}) as writer:
        assert now in ids_of(url, 1) & ids_of(replica, 1)
        assert writer.delete(f"/v1/products/{now}").json()["state"] == "withdrawn"
        assert now not in ids_of(replica, 1), "gone with the answer"
        took_s = eventually(lambda: now not in ids_of(url, 1), timeout_s=20)
        assert took_s < FOLLOW_S

        platform.registry.set_alias("champion", 2)
        assert later not in ids_of(url, 2) | ids_of(replica, 2)
        assert writer.delete(f"/v1/products/{later}").json()["served"] == "absent"
        platform.registry.set_alias("champion", 1)  # back, as a rollback would
        assert not {now, later} & ids_of(replica, 1)
        took_s = eventually(lambda: not {now, later} & ids_of(url, 1), timeout_s=20)
        assert took_s < FOLLOW_S

        product = platform.catalog.entry(now).product
        fields = ("name", "gender", "master_category", "sub_category", "article_type", "base_colour", "season", "year")
        whole = {name: getattr(product, name) for name in (*fields, "usage", "price")}
        back = writer.put(f"/v1/products/{now}", json=whole).json()
        assert (back["state"], back["served"], back["refresh"]) == ("live", "current", "by hand")
        assert now in ids_of(replica, 1)
        assert eventually(lambda: now in ids_of(url, 1), timeout_s=20) < FOLLOW_S
    assert WRITE_KEY not in (platform.settings.home / "replica.log").read_text()


def test_every_library_gets_one_thread_even_if_numpy_came_first() -> None:
    program = """
import enclip.records, enclip.serving.run, json, threading, threadpoolctl
enclip.serving.run.limit_threads()
import faiss, torch
found = []
def look():
    pools = [(pool["internal_api"], pool["num_threads"]) for pool in threadpoolctl.threadpool_info()]
    found.extend([*pools, ("faiss", faiss.omp_get_max_threads()), ("torch", torch.get_num_threads())])
thread = threading.Thread(target=look)
thread.start()
thread.join()
print(json.dumps(found))
"""
    environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert {"openblas", "openmp", "faiss", "torch"} <= {name for name, _ in found}
    assert {threads for _, threads in found} == {1}, found


def test_a_taken_port_is_said_in_one_line(url: str, home: Path, tmp_path: Path) -> None:
    port = url.rsplit(":", 1)[1]
    process = run_enclip("serve", "--port", port, home=home, log=tmp_path / "log")
    assert process.wait(60) == 1
    said = (tmp_path / "log").read_text()
    assert f"Cannot listen on 127.0.0.1:{port}" in said
    assert "--port" in said
    assert "Traceback" not in said


def test_a_port_that_another_listens_on_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="Cannot listen"):
        bind("127.0.0.1", taken.getsockname()[1])


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        bind("192.0.2.1", 0)


def test_on_sigterm_it_answers_all_that_it_accepted_and_ends(server: Server, home: Path) -> None:
    """Sixteen clients search on while it is told to stop; its log says which requests reached it."""
    process, url = server.process, server.url
    answered: dict[str, int] = {}

    def ask(place: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            for number in itertools.count():
                request_id = f"stop-{place}-{number}"
                try:
                    answer = client.post("/v1/search", json={"text": "bag"}, headers={"X-Request-ID": request_id})
                except httpx.TransportError:
                    return  # its port is closed, or the request came too late to be read
                answered[request_id] = answer.status_code if len(answer.json()["results"]) == 20 else 0

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(answered) > 100, timeout_s=60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)
    for thread in threads:
        thread.join(30)
    accepted = re.findall(r"POST /v1/search (\d+) .* (stop-\d+-\d+)$", (home / "serve.log").read_text(), re.MULTILINE)
    assert {request_id: int(status) for status, request_id in accepted} == answered
    assert set(answered.values()) == {200}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health/live")
