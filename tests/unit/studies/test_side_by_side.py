import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from enclip.config import Settings
from enclip.errors import TrainingError
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.platform import Platform, open_platform
from enclip.studies.definition import Setting
from enclip.studies.lab import Lab
from enclip.studies.run import STUDIES
from enclip.studies.side_by_side import train_side_by_side

from .conftest import Ran


@pytest.fixture(scope="module")
def other_home(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """The same catalog, of which nothing has been trained."""
    opened = open_platform(Settings(ENCLIP_HOME=tmp_path_factory.mktemp("side-by-side")))
    ingest_source(opened, str(platform.settings.home.parent / "drawn"))
    return opened


def test_trainings_at_once_are_those_of_one_after_the_other(
    platform: Platform, other_home: Platform, setting: Setting
) -> None:
    told: list[str] = []
    impossible = setting.instance(0, 0).varied(focus=("No such category",))
    wanted = setting.instances_of(0)
    train_side_by_side(other_home.settings, [*wanted, impossible, wanted[0]], jobs=2, tell=told.append)
    assert sum("epoch 2:" in line for line in told) == len(wanted)
    assert [line for line in told if "left out: Only 0 products" in line]
    again = Lab(other_home, tell=told.append)
    before = len(told)
    for training in wanted:
        here, there = again.train(training), Lab(platform).train(training)
        assert [epoch.quality for epoch in here] == pytest.approx([epoch.quality for epoch in there], abs=0.05)
    assert len(told) == before, "found, not trained again"


def test_a_training_that_was_killed_is_said_and_goes_on_another_time(other_home: Platform, setting: Setting) -> None:
    wanted = [training.varied(epochs=8) for training in setting.instances_of(1)]
    told: list[str] = []

    def kill_at_epoch_1(line: str) -> None:
        told.append(line)
        if "epoch 1:" in line:
            last = max(multiprocessing.active_children(), key=lambda child: child.pid or 0, default=None)
            if last:  # the one that a pool is slowest to watch over
                last.kill()

    with pytest.raises(TrainingError, match="was killed") as caught:
        train_side_by_side(other_home.settings, wanted, jobs=2, tell=kill_at_epoch_1)
    assert "fewer --jobs" in caught.value.remedy
    for child in multiprocessing.active_children():
        child.join(10)  # it has ended: the pool's own thread may be reaping it at this moment
    assert not multiprocessing.active_children()
    assert not any("epoch 8:" in line for line in told)

    train_side_by_side(other_home.settings, wanted, jobs=2, tell=told.append)
    assert sum("epoch 8:" in line for line in told) == len(wanted)


def test_ctrl_c_ends_all_of_them(other_home: Platform, setting: Setting, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "enclip", "study", "little-data", "--jobs=2", "--fold=0", "--epochs=200"]
    process = subprocess.Popen(
        [*command, f"--base={setting.base}", f"--folder={tmp_path}"],
        env={**os.environ, "ENCLIP_HOME": str(other_home.settings.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    with process:
        assert any("epoch 1:" in line for line in process.stdout)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        left = process.stdout.read()
        assert process.wait(60) == 130
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert "Traceback" not in left


@pytest.mark.parametrize(("name", "count"), [("ensemble", 3), ("little-data", 5), ("recipe", 12), ("ablation", 2)])
def test_a_study_names_all_trainings_that_it_asks_for(
    platform: Platform, setting: Setting, run: Callable[..., Ran], name: str, count: int, tmp_path: Path
) -> None:
    fold = 2
    trainings = STUDIES[name].trainings(setting, fold)
    assert len(set(trainings)) == count and {training.fold for training in trainings} == {fold}
    for training in trainings:
        Lab(platform).train(training)
    assert run(name, tmp_path, folds=(fold,)).trained == []
