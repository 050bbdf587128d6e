"""Services that are started, watched and ended together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from enclip.errors import ConfigError
from enclip.standalone.processes import (
    Processes,
    Service,
    ServiceError,
    Stopped,
    answers,
    free_port,
    get_json,
    require_free_port,
    stop_signals,
)

pytestmark = pytest.mark.timeout(60)


def service(folder: Path, code: str, *, name: str = "Sleeper") -> Service:
    return Service(name, (sys.executable, "-c", code), folder / f"{name}.log")


def family() -> set[psutil.Process]:
    """Living descendants of the test process; other tests' servers may be among them."""
    return {child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}


def test_leaving_the_block_ends_every_service(tmp_path: Path) -> None:
    before = family()
    with Processes() as processes:
        for name in ("one", "two"):
            processes.start(service(tmp_path, "import time; time.sleep(600)", name=name))
        processes.wait_until(lambda: len(family() - before) >= 4, what="both under guards", timeout_s=20)
    assert family() <= before


def test_children_from_before_the_block_live_on(tmp_path: Path) -> None:
    earlier = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with Processes() as processes:
            processes.start(service(tmp_path, "import time; time.sleep(600)"))
        assert earlier.poll() is None
    finally:
        earlier.kill()
        earlier.wait()


def test_a_service_whose_guard_is_killed_does_not_get_lost(tmp_path: Path) -> None:
    before = family()
    with Processes() as processes:
        processes.start(service(tmp_path, "import time; time.sleep(600)"))
        (guard,) = (family() - before) & set(psutil.Process().children())
        processes.wait_until(lambda: bool(guard.children()), what="the service", timeout_s=20)
        child = guard.children()[0]
        guard.kill()
        with pytest.raises(ServiceError):
            processes.wait_until(lambda: False, what="never", timeout_s=20)
        assert child.is_running()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_service_that_ends_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes() as processes:
        processes.start(service(tmp_path, "print('the disk is full'); raise SystemExit(5)"))
        with pytest.raises(ServiceError, match="Sleeper ended with status 5") as caught:
            processes.wait_until(lambda: False, what="never", timeout_s=20)
    assert "the disk is full" in caught.value.remedy


def test_a_service_that_never_gets_ready_is_an_error_that_names_the_logs(tmp_path: Path) -> None:
    with Processes() as processes:
        processes.start(service(tmp_path, "import time; time.sleep(600)"))
        with pytest.raises(ServiceError, match="Airflow was not ready after 0 s") as caught:
            processes.wait_until(lambda: False, what="Airflow", timeout_s=0.3)
    assert str(tmp_path / "Sleeper.log") in caught.value.remedy


def test_run_waits_for_the_end_and_reports_failure_and_time_out(tmp_path: Path) -> None:
    with Processes() as processes:
        processes.run(service(tmp_path, "pass"), timeout_s=20)
        with pytest.raises(ServiceError, match="status 7"):
            processes.run(service(tmp_path, "raise SystemExit(7)"), timeout_s=20)
        with pytest.raises(ServiceError, match="took more than 1 s"):
            processes.run(service(tmp_path, "import time; time.sleep(600)"), timeout_s=1)


def test_a_log_that_cannot_be_written_is_an_error_that_names_the_service(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with Processes() as processes, pytest.raises(ServiceError, match="Sleeper cannot be started"):
        processes.start(Service("Sleeper", ("true",), tmp_path / "file" / "x.log"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_stop_end_the_block_and_are_put_back_after_it(tmp_path: Path, number: signal.Signals) -> None:
    before, others = signal.getsignal(number), family()
    with pytest.raises(Stopped, match=number.name), stop_signals(), Processes() as processes:
        processes.start(service(tmp_path, "import time; time.sleep(600)"))
        os.kill(os.getpid(), number)
        time.sleep(20)
    assert signal.getsignal(number) is before
    assert family() <= others


def test_a_taken_port_is_named_with_the_option_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} .*--search-port"):
            require_free_port(port, option="--search-port")
    require_free_port(free_port(), option="--search-port")


def test_health_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    port = free_port()
    (tmp_path / "health").write_text('{"status": "ok"}')
    command = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path))
    with Processes() as processes:
        processes.start(Service("Web", command, tmp_path / "web.log"))
        url = f"http://127.0.0.1:{port}"
        assert processes.wait_until(lambda: answers(f"{url}/health"), what="Web", timeout_s=20) < 20
        assert get_json(f"{url}/health") == {"status": "ok"}
        assert not answers(f"{url}/missing")
    assert not answers(f"{url}/health")
