"""Processes of a test's own, which may die: they fork from one that has everything loaded and nothing open.

There is one such process in a test run, started by the first child, so its modules are named here alone.
"""

import gc
import multiprocessing
from collections.abc import Callable
from typing import Any

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(
    [
        "tests.integration.faults.world",
        "mlflow.pyfunc",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.store.model_registry.sqlalchemy_store",
        "alembic.command",
        "sklearn.cluster",
        "sklearn.manifold",
    ]
)


def in_child(function: Callable[..., None], *args: Any) -> int:
    """Run a function in a process of its own; its exit code, negative for the signal that ended it."""
    child = CHILDREN.Process(target=_run, args=(function, *args))
    child.start()
    child.join(300)
    assert child.exitcode is not None, f"{function.__name__}{args} hangs"
    return child.exitcode


def _run(function: Callable[..., None], *args: Any) -> None:
    gc.disable()  # a collection would copy everything that the parent has loaded
    function(*args)
