"""A guard ends what it started, however things end. Real processes, real signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.timeout(60)

# A service with a child in a session of its own, as Airflow's tasks have; both write down their ids.
SERVICE = """
import os, pathlib, signal, subprocess, sys, time
folder, stubborn = pathlib.Path(sys.argv[1]), sys.argv[2] == "stubborn"
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
(folder / "child").write_text(str(child.pid))
(folder / "service").write_text(str(os.getpid()))
if sys.argv[2] == "leaves":
    sys.exit(3)
time.sleep(600)
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the service under a guard; whatever a failing test leaves behind is killed."""
    started = []

    def start(kind: str = "obeys", *, grace_s: float = 20.0) -> subprocess.Popen[bytes]:
        guard = subprocess.Popen(guard_command(os.getpid(), tmp_path, kind, grace_s=grace_s))
        started.append(guard)
        ids(tmp_path)
        return guard

    yield start
    for guard in started:
        guard.kill()
        guard.wait()
    for name in ("service", "child"):
        if (tmp_path / name).exists():
            kill_if_alive(int((tmp_path / name).read_text()))


def guard_command(parent: int | str, folder: Path, kind: str, *, grace_s: float) -> list[str]:
    options = ["--parent", str(parent), "--grace", str(grace_s)]
    return [
        sys.executable,
        "-m",
        "enclip.standalone.guard",
        *options,
        "--",
        sys.executable,
        "-c",
        SERVICE,
        str(folder),
        kind,
    ]


def ids(folder: Path) -> list[int]:
    """The process ids of service and child, once both are written."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        texts = [path.read_text() if path.exists() else "" for path in (folder / "service", folder / "child")]
        if all(texts):
            return [int(text) for text in texts]
        time.sleep(0.02)
    raise AssertionError("the service did not start")


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill_if_alive(pid: int) -> None:
    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_service_and_its_child_in_another_session(
    guarded: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, number: signal.Signals
) -> None:
    guard = guarded()
    guard.send_signal(number)
    assert guard.wait(15) == 128 + signal.SIGTERM
    assert [is_alive(pid) for pid in ids(tmp_path)] == [False, False]


def test_a_service_that_ignores_sigterm_is_killed_after_the_grace(
    guarded: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    guard = guarded("stubborn", grace_s=1.0)
    start = time.monotonic()
    guard.terminate()
    assert guard.wait(20) == 128 + signal.SIGKILL
    assert time.monotonic() - start >= 1.0
    assert [is_alive(pid) for pid in ids(tmp_path)] == [False, False]


def test_a_second_signal_kills_at_once(guarded: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    guard = guarded("stubborn", grace_s=600.0)
    guard.terminate()
    time.sleep(0.5)
    assert guard.poll() is None
    guard.terminate()
    assert guard.wait(20) == 128 + signal.SIGKILL
    assert [is_alive(pid) for pid in ids(tmp_path)] == [False, False]


def test_a_service_that_ends_by_itself_leaves_no_child(
    guarded: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    guard = guarded("leaves")
    assert guard.wait(15) == 3
    assert [is_alive(pid) for pid in ids(tmp_path)] == [False, False]


def test_sigkill_of_the_parent_ends_everything(tmp_path: Path) -> None:
    # The parent is a process of its own here, since it is the one that gets killed.
    code = (
        "import os, subprocess, sys, time\n"
        "command = [str(os.getpid()) if part == 'PARENT' else part for part in sys.argv[1:]]\n"
        "subprocess.Popen(command, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, *guard_command("PARENT", tmp_path, "obeys", grace_s=20.0)])
    pids = ids(tmp_path)
    try:
        guard_pid = psutil.Process(parent.pid).children()[0].pid
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 20
        while any(map(is_alive, [*pids, guard_pid])) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [is_alive(pid) for pid in [*pids, guard_pid]] == [False, False, False]
    finally:
        for pid in pids:
            kill_if_alive(pid)


def test_a_guard_whose_parent_is_gone_starts_nothing(tmp_path: Path) -> None:
    nobody = 4_000_000  # above the largest process id that Linux gives by default
    assert subprocess.run(guard_command(nobody, tmp_path, "obeys", grace_s=1.0), timeout=20).returncode == 1
    assert not (tmp_path / "service").exists()


def test_a_command_that_does_not_exist_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    guard = [sys.executable, "-m", "enclip.standalone.guard", "--parent", str(os.getpid()), "--", "/no/such/command"]
    assert subprocess.run(guard, timeout=20).returncode == 127
    assert "/no/such/command" in capfd.readouterr().err
