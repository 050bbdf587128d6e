"""The query log's file: rotated, and of no consequence to a search when it cannot be written."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from enclip.errors import ConfigError
from enclip.pipeline.open_release import OpenRelease
from enclip.serving.query_log import MAX_FILES, MAX_QUEUED, Note, QueryLog
from enclip.serving.schemas import SearchRequest
from tests.serving.service_world import Service, World

BROKEN = "The query log cannot be written"


def ask(service: Service, text: str, *, times: int = 1) -> None:
    with service.client() as client:
        for _ in range(times):
            assert client.post("/v1/search", json={"text": text, "k": 1}).status_code == 200


def figure(service: Service, outcome: str) -> float:
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    line = next(line for line in lines if line.startswith(f'enclip_query_log_lines_total{{outcome="{outcome}"}}'))
    return float(line.split()[-1])


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("not within 10 s")


def test_a_full_disk_fails_no_search_and_is_said_once(
    start_service: Callable[..., Service], release: OpenRelease, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "queries.jsonl"
    path.symlink_to("/dev/full")  # opens, and has no room for anything
    service = start_service(World(alias=3, releases={3: release}), query_log=QueryLog(path))
    ask(service, "lost", times=5)
    until(lambda: figure(service, "lost") == 5)
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert [BROKEN in error for error in errors] == [True], errors
    assert "No space left" in errors[0]

    path.unlink()  # room again
    ask(service, "kept", times=2)
    until(lambda: figure(service, "written") == 2)
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["kept", "kept"]
    assert figure(service, "lost") == 5


def test_what_nobody_can_write_is_refused_at_the_start(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "queries.jsonl", tmp_path):
        with pytest.raises(ConfigError, match=f"ENCLIP_QUERY_LOG {path} cannot be written"):
            QueryLog(path)


def test_the_file_is_rotated_and_the_oldest_go(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "queries.jsonl", max_bytes=2000)
    outcomes: list[str] = []
    log.start(outcomes.append)
    notes = [Note(3, {"text": f"shirt {number}"}) for number in range(500)]
    log.write(notes, route="/v1/search", status=200)
    log.stop()
    assert outcomes == ["written"] * 500
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + MAX_FILES
    assert all(file.stat().st_size <= 2000 and file.stat().st_mode & 0o777 == 0o600 for file in files)
    newest = [json.loads(line)["text"] for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    assert newest[-1] == "shirt 499"


def test_lines_that_find_the_queue_full_are_lost_and_counted(tmp_path: Path) -> None:
    fifo = tmp_path / "queries.jsonl"
    os.mkfifo(fifo)  # a disk that takes nothing more while 64 kB wait in it
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = QueryLog(fifo)
    outcomes: list[str] = []
    log.start(outcomes.append)
    log.write([Note(3, {"text": "x" * 1000}) for _ in range(MAX_QUEUED + 1000)], route="/v1/search", status=200)
    assert outcomes.count("lost") >= 500
    started = time.monotonic()
    log.stop(timeout_s=0.2)
    assert time.monotonic() - started < 2, "who stops the service does not wait for its disk"
    os.set_blocking(reader, True)
    while os.read(reader, 65_536):  # the disk is back; what waits is written, and the file closed
        pass
    os.close(reader)
    assert len(outcomes) == MAX_QUEUED + 1000


def test_without_a_log_nothing_is_kept(client: httpx.Client) -> None:
    assert client.post("/v1/search", json={"text": "shirt"}).status_code == 200
    assert 'enclip_query_log_lines_total{outcome="written"} 0.0' in client.get("/metrics").text


def test_what_somebody_typed_cannot_forge_a_line(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    log = QueryLog(path)
    log.start(lambda _outcome: None)
    text = 'a\u2028b\u202e{"release": 9}'
    search = SearchRequest(like='x\n{"release": 9}', text=text).model_dump(exclude={"image"})
    log.write([Note(3, search)], route="/v1/search", status=200)
    log.stop()
    (line,) = path.read_text().splitlines()
    assert line.isascii()
    assert json.loads(line)["like"] == 'x\n{"release": 9}'
