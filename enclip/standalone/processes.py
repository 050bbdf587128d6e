"""Child processes that are started, watched and ended together."""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psutil  # type: ignore[import-untyped]

from enclip.errors import ConfigError, EnclipError
from enclip.standalone.guard import adopt_orphans, end_descendants

log = logging.getLogger(__name__)

POLL_S = 0.25
GRACE_S = 25.0
# A guard ends its service within the grace, kills what is left, and then ends itself.
GUARD_GRACE_S = GRACE_S + 10.0
LOG_TAIL_LINES = 12
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServiceError(EnclipError):
    """A service of the platform that did not start or ended unasked."""


class Stopped(BaseException):
    """A person or the system asked this process to end. Not an Exception, as KeyboardInterrupt is not."""


@dataclass(frozen=True)
class Service:
    """A long-running command. Its output goes to `log_file`, which is begun anew."""

    name: str
    command: tuple[str, ...]
    log_file: Path
    env: Mapping[str, str] = field(default_factory=dict)


class Processes:
    """Services under guards. Leaving the `with` block ends them all, and waits until they are gone.

    Children that this process had before the block are not touched. Start services from the main
    thread: the kernel ties a guard's life to the thread that started it.
    """

    def __init__(self) -> None:
        self._running: dict[str, tuple[Service, subprocess.Popen[bytes]]] = {}
        self._not_ours: frozenset[int] = frozenset()

    def __enter__(self) -> Self:
        # Should a guard itself be killed, its service becomes our child instead of getting lost.
        adopt_orphans()
        self._not_ours = frozenset(child.pid for child in psutil.Process().children())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while True:
            try:
                return self.stop()
            except (Stopped, KeyboardInterrupt):
                continue  # between our handler and theirs; nothing may stay behind

    def start(self, service: Service) -> None:
        """Start a service. Raises ServiceError where the log cannot be written or the guard not started."""
        guard = (sys.executable, "-m", "enclip.standalone.guard")
        command = (*guard, "--parent", str(os.getpid()), "--grace", str(GRACE_S), "--", *service.command)
        try:
            service.log_file.parent.mkdir(parents=True, exist_ok=True)
            with open(service.log_file, "wb") as output:
                process = subprocess.Popen(
                    command,
                    env={**os.environ, **service.env},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C in a terminal then reaches this process alone, which ends the rest in order.
                    start_new_session=True,
                )
        except OSError as error:
            raise ServiceError(f"{service.name} cannot be started: {error}.") from error
        self._running[service.name] = (service, process)

    def run(self, service: Service, *, timeout_s: float) -> None:
        """Run a command to its end. Raises ServiceError where it fails or takes too long."""
        self.start(service)
        process = self._running.pop(service.name)[1]
        try:
            status = process.wait(timeout_s)
        except BaseException as error:
            _end([process])
            if isinstance(error, subprocess.TimeoutExpired):
                raise ServiceError(f"{service.name} took more than {timeout_s:.0f} s.", remedy=_tail(service)) from None
            raise
        if status != 0:
            raise ServiceError(f"{service.name} ended with status {status}.", remedy=_tail(service))

    def check(self) -> None:
        """Raises ServiceError, with the end of its log, where a service has ended by itself."""
        for service, process in self._running.values():
            if process.poll() is not None:
                raise ServiceError(f"{service.name} ended with status {process.returncode}.", remedy=_tail(service))

    def wait_until(self, ready: Callable[[], bool], *, what: str, timeout_s: float) -> float:
        """Wait until `ready()` holds, watching all services; the seconds that it took.

        Raises:
            ServiceError: a service ended, or the time is up.
        """
        start = time.monotonic()
        while not ready():
            self.check()
            if time.monotonic() - start > timeout_s:
                logs = ", ".join(str(service.log_file) for service, _ in self._running.values())
                raise ServiceError(f"{what} was not ready after {timeout_s:.0f} s.", remedy=f"See {logs}.")
            time.sleep(POLL_S)
        return time.monotonic() - start

    def wait(self) -> None:
        """Wait for ever. Raises ServiceError when a service ends; `Stopped` comes through."""
        while True:
            self.check()
            time.sleep(1.0)

    def stop(self) -> None:
        """End every service and everything it started; a further signal meanwhile kills them at once."""
        _end([process for _, process in self._running.values()])
        self._running.clear()
        end_descendants(grace_s=0.0, spare=self._not_ours)


def _end(guards: list[subprocess.Popen[bytes]]) -> None:
    """Tell the guards to end their services and wait for them; a guard that is told twice kills."""
    signals: list[int] = []
    with _handled(lambda number, _frame: signals.append(number)):
        told = 0
        deadline = time.monotonic() + GUARD_GRACE_S
        while living := [guard for guard in guards if guard.poll() is None]:
            late = time.monotonic() > deadline
            if told <= len(signals) or late:
                told += 1
                for guard in living:
                    guard.send_signal(signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(0.05)


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP raise `Stopped` in the main thread."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    with _handled(stop):
        yield


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def require_free_port(port: int, *, option: str) -> None:
    """Raises ConfigError where something listens on the port of this machine's loopback already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} cannot be used: {error.strerror}.", remedy=f"Choose another one with {option}."
            ) from error


def free_port() -> int:
    """A port of the loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a GET of the URL gives a 2xx within two seconds."""
    try:
        with direct.open(url, timeout=2) as response:
            return 200 <= int(response.status) < 300
    except (OSError, ValueError):
        return False


def get_json(url: str, *, timeout_s: float = 10) -> Any:
    """The JSON behind a URL of this machine. Raises OSError (urllib's errors are) or ValueError."""
    with direct.open(url, timeout=timeout_s) as response:
        return json.load(response)


def post_json(url: str, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> Any:
    """The JSON answer to a JSON request to this machine. Raises OSError or ValueError."""
    headers = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with direct.open(request, timeout=30) as response:
        return json.load(response)


# A proxy in the environment has no way to this machine's own loopback.
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _tail(service: Service) -> str:
    try:
        lines = service.log_file.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    except OSError:
        lines = []
    return "\n".join([f"The end of {service.log_file}:", *(f"  {line}" for line in lines)])
