"""Trainings of a study at the same time: small networks use several cores better one by one than together."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from threading import Event, Thread

import torch

from enclip.config import Settings
from enclip.cores import available_cores
from enclip.errors import EnclipError, TrainingError
from enclip.pipeline.platform import open_platform
from enclip.studies.lab import Lab, Tell, Training

LISTENS_EVERY_S, ENDS_WITHIN_S = 0.1, 10

_told: "SimpleQueue[str]"


def train_side_by_side(settings: Settings, trainings: Sequence[Training], *, jobs: int, tell: Tell) -> None:
    """Train what is not cached yet, `jobs` at once, each in a process of its own with its part of the cores.

    A training that cannot be done is passed over: the study that asks for it meets the error itself.

    Raises:
        TrainingError: a process was killed, as it is where they need more memory than there is.
    """
    wanted = list(dict.fromkeys(trainings))
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    told: SimpleQueue[str] = context.SimpleQueue()
    ended = Event()

    def listen() -> None:
        while not ended.wait(LISTENS_EVERY_S) or not told.empty():
            while not told.empty():
                tell(told.get())

    teller = Thread(target=listen, daemon=True)
    teller.start()
    threads = max(1, available_cores() // jobs)
    try:
        pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(threads, told))
        try:
            begun = [pool.submit(_train, settings, training) for training in wanted]
            # A pool watches over the process that a submission began from the next submission on. Without one the
            # death of the last process would be known only when another has trained to its end.
            pool.submit(int)
            for future in begun:
                future.result()
            pool.shutdown()
        except BaseException as error:  # Ctrl-C too: what was not begun is not begun, what was goes on another time
            pool.shutdown(wait=False, cancel_futures=True)
            children = multiprocessing.active_children()
            for child in children:
                child.terminate()
            for child in children:
                child.join(ENDS_WITHIN_S)
            if isinstance(error, BrokenProcessPool):
                raise TrainingError(
                    f"One of {jobs} trainings at once was killed.",
                    remedy="Run again with fewer --jobs, if memory is short; finished epochs are kept.",
                ) from error
            raise
    finally:
        # Not by a last line: a process that was killed may hold the lock of the queue for ever, or leave half a line.
        ended.set()
        teller.join(ENDS_WITHIN_S)


def _begin(threads: int, told: "SimpleQueue[str]") -> None:
    global _told
    torch.set_num_threads(threads)
    _told = told


def _train(settings: Settings, wanted: Training) -> None:
    try:
        Lab(open_platform(settings), tell=_told.put).train(wanted)
    except EnclipError as error:
        _told.put(f"left out: {error.what.splitlines()[0]}")
