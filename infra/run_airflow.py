"""Airflow's command line, for services that end whenever they are told to: `python run_airflow.py scheduler …`.

Airflow's scheduler and DAG processor answer SIGTERM by raising SystemExit wherever they happen to be. If
that is a callback of the garbage collector (SQLAlchemy and `weakref` have some), Python prints "Exception
ignored in" and goes on, and so does the service: it starts further tasks, until it and they are killed at
the end of the grace period. Here such a service is asked again, until the request gets through.
"""

import signal
import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

AGAIN_S = 0.2


def ask_again(lost: "UnraisableHookArgs") -> None:
    """A `sys.unraisablehook`: if what was lost is SIGTERM's SystemExit, its handler is called again soon."""
    sys.__unraisablehook__(lost)
    handler = signal.getsignal(signal.SIGTERM)
    if lost.exc_type is SystemExit and _raised_in(lost.exc_traceback) is getattr(handler, "__code__", None):
        # Not from here, where it would be lost again; and by no thread, since the collector can come at
        # a moment in which starting one would wait for ever.
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)


def _raised_in(trace: TracebackType | None) -> object:
    """The code of the innermost function of a traceback."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code if trace is not None else None


if __name__ == "__main__":
    sys.unraisablehook = ask_again
    from airflow.__main__ import main

    main()
