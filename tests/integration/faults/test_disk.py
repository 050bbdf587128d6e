"""A disk that is full or read-only: one clear error, and the same step succeeds once there is room."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enclip.errors import EnclipError
from tests.children import CHILDREN, in_child
from tests.conftest import unavailable

from .disks import NOT_ALLOWED, enter_namespace, leave_free, make_read_only, mount_small
from .world import BEFORE, STEPS, World, copy_home, open_home, state_of

pytestmark = pytest.mark.slow

ROOMS = (0, 60_000, 600_000)  # bytes: for nothing at all, for some records, for all but the largest files
TOLD = re.compile(r"(Free space|Make |Check its disk|Set ENCLIP_HOME|Check ENCLIP)")


def outcome_of(home: Path, step: str) -> str:
    """ "" where the step succeeds, else what its error says. Anything but an error of ours is a traceback to a user."""
    try:
        platform = open_home(home)
        STEPS[step](platform)
    except EnclipError as error:
        return str(error)
    return ""


def on_a_full_disk(before: Path, home: Path, step: str, answers: Any) -> None:
    enter_namespace()
    mount_small(home, megabytes=64)
    os.environ["TMPDIR"] = str(home)
    copy_home(before, home)
    outcomes = []
    for room in ROOMS:
        leave_free(home, room)
        outcomes.append(outcome_of(home, step))
    (home / "ballast").unlink()
    answers.put((outcomes, outcome_of(home, step), state_of(home)))


def on_a_read_only_disk(before: Path, home: Path, step: str, answers: Any) -> None:
    enter_namespace()
    mount_small(home, megabytes=64)
    copy_home(before, home)
    make_read_only(home)
    outcomes = [outcome_of(home, step)]
    make_read_only(home, on=False)
    answers.put((outcomes, outcome_of(home, step), state_of(home)))


def assert_told_and_then_done(fault: Callable[..., None], world: World, step: str) -> None:
    answers = CHILDREN.SimpleQueue()
    home = world.root / f"{fault.__name__}-{step}"
    exitcode = in_child(fault, world.root / f"after-{BEFORE[step]}", home, step, answers)
    if exitcode == NOT_ALLOWED:
        unavailable("mounts", "this user may not mount")
    assert exitcode == 0, "the step ended by another exception than ours, or by a signal"
    failures, at_last, state = answers.get()
    assert failures[0], "the fault had no effect"
    assert all(TOLD.search(failure) for failure in failures if failure), failures
    assert at_last == ""
    assert state == world.states[step]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_on_a_full_disk_says_so_and_is_done_once_there_is_room(world: World, step: str) -> None:
    assert_told_and_then_done(on_a_full_disk, world, step)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_in_a_read_only_home_says_so_and_is_done_once_it_is_writable(world: World, step: str) -> None:
    assert_told_and_then_done(on_a_read_only_disk, world, step)
