"""Lines of the service's log: which request they belong to, wherever they come from."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enclip.errors import ConfigError
from enclip.pipeline.open_release import OpenRelease
from enclip.records import Ranking
from enclip.serving.logs import JsonLines, TextLines
from enclip.serving.tracing import start_tracing
from tests.serving.service_world import Service, World

deep = logging.getLogger("enclip.retrieval.deep")


class TalkingRelease:
    """A release that logs from the thread that searches, and fails where it is asked to."""

    def __init__(self, release: OpenRelease) -> None:
        self._release = release

    def __getattr__(self, name: str) -> Any:
        return getattr(self._release, name)

    def search(self, *, text: str, **options: Any) -> Ranking:
        deep.warning("Searching.")
        if text == "fail":
            raise ZeroDivisionError("two\nlines")
        return self._release.search(text=text, **options)


@pytest.fixture
def service(start_service: Callable[..., Service], release: OpenRelease) -> Service:
    return start_service(World(alias=3, releases={3: TalkingRelease(release)}))


def written(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(formatter)
    root, ours = logging.getLogger(), logging.getLogger("enclip.serving")
    level = ours.level
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    yield handler.stream
    ours.setLevel(level)
    root.removeHandler(handler)


@pytest.fixture
def as_json() -> Iterator[io.StringIO]:
    yield from written(JsonLines())


@pytest.fixture
def as_text() -> Iterator[io.StringIO]:
    yield from written(TextLines())


def test_a_line_from_the_searching_thread_has_the_requests_id(service: Service, as_json: io.StringIO) -> None:
    with service.client() as client:
        for name in ("one", "two"):
            client.post("/v1/search", json={"text": "shirt"}, headers={"X-Request-ID": name})
    service.stop()  # a request's own line comes after its answer
    lines = [json.loads(line) for line in as_json.getvalue().splitlines()]
    ours = [(line["logger"], line.get("request_id")) for line in lines if line["logger"].startswith("enclip.")]
    assert ours == [
        ("enclip.retrieval.deep", "one"),
        ("enclip.serving.envelope", "one"),
        ("enclip.retrieval.deep", "two"),
        ("enclip.serving.envelope", "two"),
    ]


def test_a_traceback_is_one_line_with_the_requests_id(service: Service, as_json: io.StringIO) -> None:
    with service.client() as client:
        answer = client.post("/v1/search", json={"text": "fail"}, headers={"X-Request-ID": "broken"})
    assert answer.status_code == 500
    assert "trace_id" not in answer.json()  # nothing is traced here
    lines = [json.loads(line) for line in as_json.getvalue().splitlines()]
    (error,) = [line for line in lines if line["level"] == "ERROR"]
    assert error["request_id"] == "broken"
    assert "Traceback" in error["exception"]
    assert "ZeroDivisionError: two\nlines" in error["exception"]


def test_text_has_the_requests_id_at_the_end_of_the_line(service: Service, as_text: io.StringIO) -> None:
    with service.client() as client:
        client.post("/v1/search", json={"text": "shirt"}, headers={"X-Request-ID": "one"})
    service.stop()
    lines = [line for line in as_text.getvalue().splitlines() if " enclip." in line]
    assert lines[0] == "WARNING enclip.retrieval.deep: Searching. one"
    assert lines[1].startswith("INFO enclip.serving.envelope: POST /v1/search 200 ")
    assert lines[1].endswith(" ms one")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "TRUE"},
    ],
)
def test_nothing_is_traced_unless_the_environment_says_so(environ: dict[str, str]) -> None:
    assert start_tracing(environ) is None


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "Traces cannot be sent by 'grpc'"),
    ],
)
def test_what_cannot_send_traces_is_refused(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        start_tracing(environ)
