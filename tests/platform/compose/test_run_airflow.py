"""infra/run_airflow.py ends a service whose SIGTERM came at a moment in which Python loses exceptions."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN_AIRFLOW = Path(__file__).parents[3] / "infra/run_airflow.py"

# Stands in for Airflow: the same handler, two moments of the bad kind, and then a long loop.
SERVICE = """
import signal, sys, time, weakref

class Collected: pass

def stop(number, frame):
    print(f"asked by {number}", flush=True)
    sys.exit(0)

def collect(then):
    thing = Collected()
    watch = weakref.ref(thing, lambda _: then())
    del thing

def main():
    signal.signal(signal.SIGTERM, stop)
    collect(lambda: %s)
    collect(lambda: time.sleep(1))
    time.sleep(2)
    sys.exit("nobody has stopped me")

if __name__ == "__main__":
    main()
"""
SIGTERM_ARRIVES = "signal.raise_signal(signal.SIGTERM)"
ANOTHER_EXIT = "sys.exit(3)"


def test_python_alone_loses_the_request(tmp_path: Path) -> None:
    done = _run(tmp_path, ["-m", "airflow"], SIGTERM_ARRIVES)
    assert (done.returncode, done.stdout) == (1, "asked by 15\n")
    assert "Exception ignored in" in done.stderr
    assert "nobody has stopped me" in done.stderr


def test_a_lost_request_is_made_again_until_it_gets_through(tmp_path: Path) -> None:
    done = _run(tmp_path, [str(RUN_AIRFLOW)], SIGTERM_ARRIVES)
    assert (done.returncode, done.stdout) == (0, "asked by 15\nasked by 14\nasked by 14\n"), done.stderr
    assert done.stderr.count("Exception ignored in") == 2


@pytest.mark.parametrize("happens", [ANOTHER_EXIT, "None"])
def test_nothing_else_stops_a_service(tmp_path: Path, happens: str) -> None:
    done = _run(tmp_path, [str(RUN_AIRFLOW)], happens)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr


def _run(folder: Path, command: list[str], happens: str) -> subprocess.CompletedProcess[str]:
    (folder / "airflow").mkdir()
    (folder / "airflow/__init__.py").touch()
    (folder / "airflow/__main__.py").write_text(SERVICE % happens)
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
