import subprocess
import sys
import time

import pytest

from enclip.errors import TrainingError
from enclip.models.distributed import Ranks, current, from_first, joined

from .small_models import CPU


def test_without_torchrun_a_process_is_alone():
    with joined({}, "cpu") as (ranks, device):
        assert ranks == Ranks(0, 1) == current()
        assert ranks.first
        assert device == CPU
        assert from_first({"a": 1}) == {"a": 1}


def test_a_missing_variable_is_named():
    with pytest.raises(TrainingError, match=r"RANK is not set.*torchrun"), joined({"WORLD_SIZE": "2"}, "cpu"):
        pass


def test_a_process_whose_launcher_is_killed_ends_too():
    child = (
        "import time\n"
        "from enclip.models.distributed import die_with_parent\n"
        "die_with_parent()\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    launcher = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE, text=True)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert _is_running(pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
