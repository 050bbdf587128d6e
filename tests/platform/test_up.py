"""`enclip up` for real: everything answers, only on the loopback, and nothing of it stays behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from enclip.catalog.drawn import draw_catalog
from enclip.standalone.airflow_api import AirflowApi
from enclip.standalone.processes import answers, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

START_S = 300
STOP_S = 60


@dataclass(frozen=True)
class Up:
    """A platform that runs, in a session of its own, as from a terminal."""

    process: subprocess.Popen[bytes]
    home: Path
    api: AirflowApi
    urls: dict[str, str]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def listening(self) -> set[str]:
        """Addresses that any of its processes listens on; tasks' come and go meanwhile."""
        addresses = set()
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                connections = process.net_connections(kind="inet")
                addresses |= {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
        return addresses


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[Callable[[], Up]]:
    home = tmp_path / "home"
    log = tmp_path / "up.log"
    started: list[subprocess.Popen[bytes]] = []

    def start() -> Up:
        ports = {name: free_port() for name in ("airflow", "mlflow", "search")}
        options = [f"--{name}-port={port}" for name, port in ports.items()]
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "enclip", "up", *options],
                env={**os.environ, "ENCLIP_HOME": str(home)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        wait_for(lambda: "Press Ctrl-C" in log.read_text(), START_S, log, process)
        password = re.search(r"admin / (\S+)", log.read_text())
        assert password
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        return Up(process, home, AirflowApi(urls["airflow"], user="admin", password=password[1]), urls)

    yield start
    for process in started:
        process.kill()
        process.wait()
    for left in processes_of(home):
        left.kill()


def wait_for(ready: Callable[[], bool], timeout_s: float, log: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + timeout_s
    while not ready():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.2)


def processes_of(home: Path) -> list[psutil.Process]:
    """Every process on this machine that was started for this home, whoever its parent is now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ENCLIP_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def ended(home: Path, timeout_s: float) -> list[str]:
    """What is left of this home's processes when none is left, or when the time is up."""
    end = time.monotonic() + timeout_s
    while (left := processes_of(home)) and time.monotonic() < end:
        time.sleep(0.1)
    return [" ".join(process.cmdline()) for process in left]


def test_it_serves_on_the_loopback_only_and_ctrl_c_in_the_middle_of_a_training_leaves_nothing(
    start_up: Callable[[], Up], tmp_path: Path
) -> None:
    up = start_up()
    assert answers(up.urls["mlflow"] + "/health")
    assert answers(up.urls["search"] + "/health/live")
    assert up.api.healthy()
    assert up.listening() == {"127.0.0.1"}

    # A second platform on the same home would corrupt it.
    second = subprocess.run(
        [sys.executable, "-m", "enclip", "up", *(f"--{n}-port={free_port()}" for n in ("airflow", "mlflow", "search"))],
        env={**os.environ, "ENCLIP_HOME": str(up.home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert "already" in second.stderr

    up.api.pause("retrain", True)  # else the ingest's event would start a run of its own
    up.api.pause("refresh_index", True)
    folder = draw_catalog(tmp_path / "catalog", num_products=60, seed=3)
    ingest = up.api.trigger("ingest_catalog", {"source": str(folder)})
    assert [task.state for task in list(up.api.follow("ingest_catalog", ingest))[-1]] == ["success"] * 3
    report = up.api.xcom("ingest_catalog", ingest, "ingest")
    assert (report["accepted"], report["rejected"]) == (60, 0)

    run = up.api.trigger("retrain", {"epochs": 200, "instances": 1})
    up.api.pause("retrain", False)
    for tasks in up.api.follow("retrain", run):
        training = [process for process in processes_of(up.home) if "train" in process.cmdline()]
        if training and any(task.task_id == "train" and task.state == "running" for task in tasks):
            break
    assert os.getsid(training[0].pid) != os.getsid(up.process.pid)

    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(STOP_S) == 0
    assert ended(up.home, 5) == []


def test_sigkill_leaves_nothing_either(start_up: Callable[[], Up]) -> None:
    up = start_up()
    assert len(processes_of(up.home)) > 5
    up.process.kill()
    assert ended(up.home, STOP_S) == []
