"""Trainings of a study at the same time: small networks use several cores better one by one than together."""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from threading import Thread

import torch

from enclip.config import Settings
from enclip.errors import EnclipError, TrainingError
from enclip.pipeline.platform import open_platform
from enclip.studies.lab import Lab, Tell, Training

_told: "SimpleQueue[str | None]"


def train_side_by_side(settings: Settings, trainings: Sequence[Training], *, jobs: int, tell: Tell) -> None:
    """Train what is not cached yet, `jobs` at once, each in a process of its own with its part of the cores.

    A training that cannot be done is passed over: the study that asks for it meets the error itself.

    Raises:
        TrainingError: a process was killed, as it is where they need more memory than there is.
    """
    wanted = list(dict.fromkeys(trainings))
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    told: SimpleQueue[str | None] = context.SimpleQueue()

    def listen() -> None:
        for line in iter(told.get, None):
            tell(line)

    teller = Thread(target=listen, daemon=True)
    teller.start()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    try:
        pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(threads, told))
        try:
            for training in [pool.submit(_train, settings, training) for training in wanted]:
                training.result()
            pool.shutdown()
        except BaseException as error:  # Ctrl-C too: what was not begun is not begun, what was goes on another time
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise TrainingError(
                    f"One of {jobs} trainings at once was killed.",
                    remedy="Run again with fewer --jobs, if memory is short; finished epochs are kept.",
                ) from error
            raise
    finally:
        told.put(None)
        teller.join()


def _begin(threads: int, told: "SimpleQueue[str | None]") -> None:
    global _told
    torch.set_num_threads(threads)
    _told = told


def _train(settings: Settings, wanted: Training) -> None:
    try:
        Lab(open_platform(settings), tell=_told.put).train(wanted)
    except EnclipError as error:
        _told.put(f"left out: {error.what.splitlines()[0]}")
