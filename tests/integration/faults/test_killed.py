"""kill -9: run again, a step ends as in a run that was never killed."""

import os
import resource
import signal
from itertools import count
from pathlib import Path

import pytest

from enclip.models.training import Progress
from enclip.pipeline.train import train
from tests.children import in_child

from .world import BEFORE, RUN, STEPS, World, die_in_step, open_home, state_of

pytestmark = pytest.mark.slow

# Steps that write often die at every so many-th write; a promotion at each one.
STRIDE = {"ingest": 97, "snapshot": 2, "train": 41, "choose": 29, "distil": 7, "embed": 5, "cluster": 25}


def assert_goes_on(world: World, home: Path, step: str, *, killed: str) -> None:
    """The step is run again in a home whose last process died, and ends as in the unbroken run."""
    platform = open_home(home)
    STEPS[step](platform)
    platform.database.dispose()
    assert state_of(home) == world.states[step], f"killed {killed}"


@pytest.mark.parametrize("step", [*STRIDE, "promote"])
def test_a_step_killed_at_any_write_ends_as_if_it_never_was(world: World, step: str) -> None:
    for at in count(1, STRIDE.get(step, 1)):
        home = world.home_after(BEFORE[step])
        exitcode = in_child(die_in_step, home, step, at)
        assert exitcode in (0, -signal.SIGKILL)
        assert_goes_on(world, home, step, killed=f"before write {at}")
        if exitcode == 0:
            break
    assert at > 1


def die_in_training(home: Path, epoch: int, step: int, file_limit: int) -> None:
    """Die at a step of an epoch; with a limit, in the first file that then grows beyond so many bytes."""

    def on_progress(now: Progress) -> None:
        if (now.epoch, now.step) == (epoch, step) and not file_limit:
            os.kill(os.getpid(), signal.SIGKILL)
        if (now.epoch, now.step) == (epoch, step):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    train(open_home(home), RUN, environment={}, on_progress=on_progress)


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (2, 8)])
def test_a_training_killed_in_the_middle_of_an_epoch_ends_with_the_same_weights(
    world: World, epoch: int, step: int
) -> None:
    home = world.home_after("snapshot")
    assert in_child(die_in_training, home, epoch, step, 0) == -signal.SIGKILL
    assert_goes_on(world, home, "train", killed=f"in epoch {epoch}")


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt"])
def test_a_training_killed_in_the_middle_of_a_file_ends_with_the_same_weights(world: World, name: str) -> None:
    """The system itself ends the process at a byte of the file."""
    written = world.root / "after-train" / "scratch" / "training" / RUN / "i0"
    weights = (written / "epoch-01" / "weights.safetensors").stat().st_size
    state = (written / "state.pt").stat().st_size
    limit = {"weights.safetensors": weights // 2, "state.pt": (weights + state) // 2}[name]
    home = world.home_after("snapshot")

    assert in_child(die_in_training, home, 1, 5, limit) == -signal.SIGXFSZ

    checkpoint = home / "scratch" / "training" / RUN / "i0" / "epoch-01" / "weights.safetensors"
    assert checkpoint.exists() == (name == "state.pt")  # half of a file is never published
    assert_goes_on(world, home, "train", killed=f"in {name}")
