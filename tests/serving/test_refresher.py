"""Telling Airflow of changes: once for many, again after a failure, and never in the way of a write."""

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from enclip.errors import StoreError
from enclip.serving.refresh import Refresher

SETTLE_S, EVERY_S = 0.05, 0.4


class Airflow:
    """Counts what it is told; may refuse, or be slow."""

    def __init__(self) -> None:
        self.told_at: list[float] = []
        self.refusals: list[Exception] = []
        self.slow_s = 0.0

    def __call__(self) -> None:
        time.sleep(self.slow_s)
        self.told_at.append(time.monotonic())
        if self.refusals:
            raise self.refusals.pop(0)


@pytest.fixture
def airflow() -> Airflow:
    return Airflow()


@pytest.fixture
def refresher(airflow: Airflow) -> Iterator[Refresher]:
    opened = Refresher(airflow, settle_s=SETTLE_S, every_s=EVERY_S, first_retry_s=0.05)
    opened.start()
    yield opened
    opened.stop()


def eventually(condition: Callable[[], bool], *, timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_many_changes_are_told_once_and_those_after_it_once_more(refresher: Refresher, airflow: Airflow) -> None:
    for _ in range(50):
        refresher.ask()
    eventually(lambda: len(airflow.told_at) == 1)
    for _ in range(50):
        refresher.ask()
    assert refresher.state.waiting
    eventually(lambda: len(airflow.told_at) == 2)
    time.sleep(2 * EVERY_S)
    assert len(airflow.told_at) == 2
    assert airflow.told_at[1] - airflow.told_at[0] >= EVERY_S
    assert (refresher.state.waiting, refresher.state.num_told, refresher.state.num_failed) == (False, 2, 0)


def test_a_change_that_comes_while_it_is_told_is_told_too(refresher: Refresher, airflow: Airflow) -> None:
    airflow.slow_s = 0.3
    refresher.ask()
    eventually(lambda: not refresher.state.waiting)  # it is being told
    started = time.monotonic()
    refresher.ask()
    assert time.monotonic() - started < 0.2, "a write does not wait for Airflow"
    eventually(lambda: len(airflow.told_at) == 2)


def test_a_failure_is_said_and_tried_again(
    refresher: Refresher, airflow: Airflow, caplog: pytest.LogCaptureFixture
) -> None:
    airflow.refusals = [StoreError("Airflow is away."), StoreError("Airflow is away."), OSError("no route")]
    with caplog.at_level(logging.WARNING):
        refresher.ask()
        eventually(lambda: refresher.state.num_failed == 2)
        assert refresher.state.problem == "refresh_index could not be started: Airflow is away."
        eventually(lambda: refresher.state.num_told == 1)
    assert (refresher.state.problem, refresher.state.num_failed, refresher.state.waiting) == ("", 3, False)
    assert [record.getMessage().count("away") for record in caplog.records] == [1, 0], "once, and each other once"


def test_what_waits_is_told_at_the_end(airflow: Airflow) -> None:
    opened = Refresher(airflow, settle_s=60)
    opened.start()
    opened.ask()
    opened.stop()
    assert len(airflow.told_at) == 1


def test_an_airflow_that_hangs_does_not_keep_the_service_from_ending() -> None:
    ended = threading.Event()
    opened = Refresher(lambda: ended.wait(30) and None, settle_s=0)
    opened.start()
    opened.ask()
    started = time.monotonic()
    opened.stop(timeout_s=0.2)
    assert time.monotonic() - started < 2
    ended.set()


def test_without_an_airflow_nobody_is_told() -> None:
    opened = Refresher(None)
    opened.start()
    opened.ask()
    assert not opened.state.waiting
    assert not opened.is_told_by_itself
    opened.stop()
