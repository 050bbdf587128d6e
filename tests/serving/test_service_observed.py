"""`enclip serve` as an operator watches it: its log as JSON, its query log, its traces; all of them at once."""

import base64
import io
import json
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from bench.served import eventually, served
from enclip.catalog.images import image_key
from enclip.config import Settings
from enclip.errors import ConfigError
from enclip.pipeline.platform import Platform, open_platform
from enclip.serving.run import bind, platform_app
from tests.serving.otlp_receiver import Collector, ReceivedSpan, collecting

pytestmark = pytest.mark.slow

KEY = "a-key-of-the-shop-0123456789"
WORDS = "Zweireihiger Mantel"  # found nowhere but in what is asked
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER = 2  # SPAN_KIND_SERVER
DONE_S = 20


@dataclass(frozen=True)
class Watched:
    """A running service, where it writes, and where its spans arrive."""

    process: "subprocess.Popen[bytes]"
    url: str
    log: Path
    query_log: Path
    collector: Collector

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"X-API-Key": KEY, "User-Agent": "the-agent"}, timeout=30)

    def log_lines(self, request_id: str) -> list[dict[str, Any]]:
        """What the log says of a request; each line is read as JSON."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line.get("request_id") == request_id]

    def queries(self, request_id: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.query_log.read_text().splitlines()]
        return [line for line in lines if line["request_id"] == request_id]

    def queries_once_written(self, request_id: str, *, number: int = 1) -> list[dict[str, Any]]:
        eventually(lambda: len(self.queries(request_id)) == number, timeout_s=DONE_S)
        return self.queries(request_id)


@pytest.fixture(scope="module")
def watched(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    with collecting() as collector:
        log, query_log = folder / "serve.log", folder / "queries.jsonl"
        writes = {
            "ENCLIP_LOG_FORMAT": "json",
            "ENCLIP_QUERY_LOG": str(query_log),
            "ENCLIP_API_KEYS": KEY,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with served(platform, log=log, **writes) as server:
            yield Watched(server.process, server.url, log, query_log, collector)


def picture() -> str:
    out = io.BytesIO()
    Image.new("RGB", (60, 80), "navy").save(out, "JPEG")
    return base64.b64encode(out.getvalue()).decode()


def test_a_trace_shows_where_a_search_spent_its_time(watched: Watched) -> None:
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-ID": "traced-1"}
    with watched.client() as client:
        answer = client.post("/v1/search", json={"text": WORDS, "image": picture(), "k": 3}, headers=headers)
    assert answer.status_code == 200
    collector = watched.collector
    collector.until(lambda: any(span.kind == SERVER for span in collector.of_trace(TRACE)))
    spans = collector.of_trace(TRACE)
    by_id = {span.id: span for span in spans}

    def parent(span: ReceivedSpan) -> str:
        return by_id[span.parent].name if span.parent in by_id else span.parent

    assert sorted((span.name, parent(span)) for span in spans) == [
        ("POST /v1/search", CALLER),
        ("encode picture", "search"),
        ("encode texts", "search"),  # found again: encoded on the way to its turn
        ("encode texts", "wait for turn"),
        ("search", "POST /v1/search"),
        ("search index", "search"),
        ("wait for turn", "POST /v1/search"),
    ]
    served = next(span for span in spans if span.kind == SERVER)
    assert served.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/search",
        "http.response.status_code": 200,
        "url.path": "/v1/search",
        "url.scheme": "http",
        "enclip.request_id": "traced-1",
    }
    assert not served.is_error
    search = next(span for span in spans if span.name == "search")
    assert search.attributes == {
        "enclip.release": answer.json()["release"],
        "enclip.num_members": 1,
        "enclip.k": 3,
        "enclip.offset": 0,
    }
    assert collector.services == {"enclip 0.1.0"}


def test_a_trace_holds_nothing_that_was_asked_and_nobody_who_asked(watched: Watched) -> None:
    with watched.client() as client:
        client.post("/v1/search", json={"text": WORDS, "without": WORDS})
        client.post("/v1/search", json={"like": WORDS})
        client.get("/v1/catalog", params={"category": WORDS})
        client.get("/v1/similar/nobody", headers={"X-Request-ID": "untold"})
    collector = watched.collector
    collector.until(lambda: any(span.attributes.get("enclip.request_id") == "untold" for span in collector.spans))
    sent = b"".join(collector.bodies)
    for secret in (WORDS, KEY, "127.0.0.1", "the-agent"):
        assert secret.encode() not in sent


def test_health_and_figures_are_not_traced(watched: Watched) -> None:
    with watched.client() as client:
        for path in ("/health/live", "/health/ready", "/metrics", "/static/style.css"):
            client.get(path)
        client.get("/v1/catalog", headers={"X-Request-ID": "after-health"})
    collector = watched.collector
    collector.until(lambda: any(span.attributes.get("enclip.request_id") == "after-health" for span in collector.spans))
    assert not [
        span for span in collector.spans if span.name.startswith(("GET /health", "GET /metrics", "GET /static"))
    ]


def test_a_problem_and_the_log_name_the_trace(watched: Watched) -> None:
    headers = {"traceparent": f"00-{'ab' * 16}-{CALLER}-01", "X-Request-ID": "lost-product"}
    with watched.client() as client:
        answer = client.get("/v1/similar/nobody", headers=headers)
    assert answer.status_code == 404
    assert answer.json()["trace_id"] == "ab" * 16
    eventually(lambda: bool(watched.log_lines("lost-product")), timeout_s=DONE_S)
    (line,) = watched.log_lines("lost-product")
    took_ms, at = line.pop("took_ms"), line.pop("time")
    assert took_ms >= 0
    assert at.endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "enclip.serving.envelope",
        "message": f"GET /v1/similar/{{product_id:path}} 404 {took_ms:.1f} ms",
        "request_id": "lost-product",
        "trace_id": "ab" * 16,
        "method": "GET",
        "route": "/v1/similar/{product_id:path}",
        "status": 404,
    }


def test_a_store_that_fails_is_in_the_log_with_the_requests_id(watched: Watched, platform: Platform) -> None:
    with watched.client() as client:
        (hit,) = client.post("/v1/search", json={"text": "bag", "k": 1}).json()["results"]
        sha256 = platform.catalog.image_sha256(hit["product_id"])
        file = platform.settings.home / "store" / image_key(sha256)
        aside = file.rename(file.with_suffix(".aside"))
        try:
            answer = client.get(hit["image"], headers={"X-Request-ID": "no-picture"})
        finally:
            aside.rename(file)
    assert answer.status_code == 503
    eventually(lambda: len(watched.log_lines("no-picture")) == 2, timeout_s=DONE_S)
    error, access = watched.log_lines("no-picture")
    assert (error["level"], error["logger"]) == ("ERROR", "enclip.serving.problems")
    assert error["trace_id"] == access["trace_id"] == answer.json()["trace_id"]
    collector = watched.collector
    collector.until(lambda: bool(collector.of_trace(error["trace_id"])))
    assert [span.is_error for span in collector.of_trace(error["trace_id"])] == [True]


def test_each_search_is_a_line_of_the_query_log(watched: Watched) -> None:
    body = {
        "text": WORDS,
        "image": picture(),
        "without": "red",
        "weights": {"text": 2},
        "filters": {"gender": ["Men", "Women"]},
        "k": 12,
        "offset": 1,
    }
    with watched.client() as client:
        answer = client.post("/v1/search", json=body, headers={"X-Request-ID": "asked-1"}).json()
    (line,) = watched.queries_once_written("asked-1")
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "request_id": "asked-1",
        "route": "/v1/search",
        "status": 200,
        "release": answer["release"],
        "text": WORDS,
        "image": True,
        "like": None,
        "without": "red",
        "weights": {"text": 2.0, "image": 1.0, "like": 1.0},
        "filters": {"category": [], "gender": ["Men", "Women"], "colour": [], "price_min": None, "price_max": None},
        "k": 12,
        "offset": 1,
        "spread": False,
        "product_ids": [hit["product_id"] for hit in answer["results"]][:10],
        "took_ms": answer["took_ms"],
    }
    assert len(answer["results"]) == 12
    assert stat.S_IMODE(watched.query_log.stat().st_mode) == 0o600


def test_searches_of_a_batch_and_of_likenesses_are_lines_and_nothing_else_is(watched: Watched) -> None:
    with watched.client() as client:
        hits = client.post("/v1/search", json={"text": "bag", "k": 1}).json()["results"]
        product_id = hits[0]["product_id"]
        searches = [{"text": "shirt"}, {"like": product_id, "k": 3}]
        client.post("/v1/embed", json={"inputs": [{"text": "shirt"}]}, headers={"X-Request-ID": "no-search"})
        client.post("/v1/search", json={"k": 3}, headers={"X-Request-ID": "no-search"})
        client.post("/v1/search/batch", json={"searches": searches}, headers={"X-Request-ID": "batched"})
        similar = client.get(f"/v1/similar/{product_id}?gender=Men", headers={"X-Request-ID": "alike"}).json()
        watched.queries_once_written("alike")
    assert [(line["text"], line["like"]) for line in watched.queries("batched")] == [
        ("shirt", None),
        (None, product_id),
    ]
    (alike,) = watched.queries("alike")
    assert (alike["route"], alike["like"]) == ("/v1/similar/{product_id:path}", product_id)
    assert alike["filters"]["gender"] == ["Men"]
    assert alike["product_ids"] == [hit["product_id"] for hit in similar["results"]][:10]
    assert watched.queries("no-search") == []


def test_a_search_that_fails_is_a_line_with_its_status_and_no_products(watched: Watched) -> None:
    with watched.client() as client:
        client.post("/v1/search", json={"like": "nobody"}, headers={"X-Request-ID": "failed-1"})
        client.post("/v1/search", json={"image": "QUJD"}, headers={"X-Request-ID": "failed-2"})
    (unknown,) = watched.queries_once_written("failed-1")
    assert (unknown["status"], unknown["product_ids"], unknown["took_ms"]) == (404, [], None)
    (no_picture,) = watched.queries_once_written("failed-2")
    assert (no_picture["status"], no_picture["image"]) == (422, True)


def test_neither_log_holds_pictures_keys_or_addresses(watched: Watched) -> None:
    with watched.client() as client:
        client.post("/v1/search", json={"image": picture()}, headers={"X-Request-ID": "secret-1"})
        client.post("/v1/search", json={"text": "x"}, headers={"X-Request-ID": "secret-2", "X-API-Key": KEY + "x"})
    watched.queries_once_written("secret-1")
    assert not watched.queries("secret-2")
    for log in (watched.log, watched.query_log):
        written = log.read_text().replace(f"Search at {watched.url}", "")
        for secret in (KEY, picture()[:40], "127.0.0.1", "the-agent"):
            assert secret not in written
    assert WORDS not in watched.log.read_text()


def test_what_was_searched_last_is_written_before_it_ends(watched: Watched) -> None:
    with watched.client() as client:
        client.post("/v1/search", json={"text": "the last"}, headers={"X-Request-ID": "last"})
    watched.process.send_signal(signal.SIGTERM)
    watched.process.wait(20)
    assert [line["text"] for line in watched.queries("last")] == ["the last"]
    spans = watched.collector.spans
    assert any(span.attributes.get("enclip.request_id") == "last" for span in spans)
    for line in watched.log.read_text().splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))


def test_a_collector_that_hangs_delays_neither_searches_nor_the_end(platform: Platform, tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as silent:
        silent.listen()
        collector = f"http://127.0.0.1:{silent.getsockname()[1]}"
        sends = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with served(platform, log=tmp_path / "serve.log", **sends) as server:
            started = time.monotonic()
            for _ in range(20):
                assert httpx.post(f"{server.url}/v1/search", json={"text": "bag"}).status_code == 200
            assert time.monotonic() - started < 5
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(15)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ENCLIP_QUERY_LOG", "/nowhere/queries.jsonl", "ENCLIP_QUERY_LOG /nowhere/queries.jsonl cannot be written"),
        ("ENCLIP_LOG_FORMAT", "xml", "ENCLIP_LOG_FORMAT is 'xml'"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER is 'zipkin'"),
    ],
)
def test_what_cannot_be_used_is_said_at_the_start(
    name: str,
    value: str,
    says: str,
    platform: Platform,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says):
        platform_app(open_platform(Settings(ENCLIP_HOME=home)))
