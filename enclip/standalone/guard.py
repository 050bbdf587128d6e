"""Run one command so that nothing of it outlives the process that asked for it.

    python -m enclip.standalone.guard --parent PID --grace SECONDS -- COMMAND…

A guard is the parent of one service. It ends the service and all that the service started, children in
sessions of their own included, when

- it gets SIGTERM, SIGINT or SIGHUP;
- its own parent dies, even by SIGKILL (the kernel then sends SIGTERM: PR_SET_PDEATHSIG);
- the service ends by itself and leaves children behind.

Airflow's components and the training command put children into new sessions, where a signal to a
process group does not reach them. The guard is a child subreaper, so orphans become its children and
cannot get out of sight. Imports nothing but the standard library and psutil: one runs per service.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection

import psutil  # type: ignore[import-untyped]

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
AWAITED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
# What is left once the service itself has ended has no work of its own to finish.
LEFTOVER_GRACE_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit status, or 128 + the signal that ended it."""
    parser = argparse.ArgumentParser(prog="enclip.standalone.guard", description=__doc__.partition("\n")[0])
    parser.add_argument("--parent", type=int, required=True, help="process id that this guard must not outlive")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("command", nargs="+", help="the service, after --")
    options = parser.parse_args(arguments)

    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    adopt_orphans()
    die_with_parent()
    if os.getppid() != options.parent:
        return 1  # the parent died before the kernel was asked to tell
    return _run(options.command, grace_s=options.grace)


def die_with_parent(signal_number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when the thread that started it ends."""
    _prctl(PR_SET_PDEATHSIG, signal_number)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_descendants(*, grace_s: float, spare: Collection[int] = ()) -> None:
    """End all descendants of this process: SIGTERM, and SIGKILL to those that live after `grace_s`.

    Children whose ids are in `spare` are left alone, with all that they started.
    """
    deadline = time.monotonic() + grace_s
    told: set[int] = set()
    while descendants := _living_descendants(spare):
        late = time.monotonic() > deadline
        for process in descendants:
            if late or process.pid not in told:
                told.add(process.pid)
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.05)


def _run(command: list[str], *, grace_s: float) -> int:
    try:
        # The child must not inherit our blocked signals; its own session makes one process group of it.
        child = os.posix_spawnp(command[0], command, os.environ, setsigmask=(), setsid=True)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127
    status = None
    deadline = float("inf")
    while status is None:
        received = _wait(deadline)
        status = _reap(child)
        if status is None and received != signal.SIGCHLD:
            asked_before = deadline < float("inf")
            late = received is None or asked_before
            deadline = time.monotonic() + grace_s if not late else 0.0
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL if late else signal.SIGTERM)
    end_descendants(grace_s=LEFTOVER_GRACE_S)
    return status


def _wait(deadline: float) -> int | None:
    """The next awaited signal; None at the deadline."""
    if deadline == float("inf"):
        return signal.sigwait(AWAITED)
    received = signal.sigtimedwait(AWAITED, max(0.05, deadline - time.monotonic()))
    return received.si_signo if received else None


def _reap(child: int) -> int | None:
    """Collect every ended child; the exit status of the given one when it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, raw = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(raw)
                status = code if code >= 0 else 128 - code
    return status


def _living_descendants(spare: Collection[int]) -> list[psutil.Process]:
    """Descendants that still run; what has ended and waits to be collected does not."""
    living = []
    for child in psutil.Process().children():
        if child.pid in spare:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [child, *child.children(recursive=True)]
            living += [process for process in family if _runs(process)]
    return living


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


if __name__ == "__main__":
    sys.exit(main())
