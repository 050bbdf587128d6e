"""Airflow, MLflow and the search service on this machine, until somebody stops them."""

import contextlib
import fcntl
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from enclip.config import Settings
from enclip.errors import ConfigError
from enclip.standalone import airflow, mlflow
from enclip.standalone.airflow_api import AirflowApi
from enclip.standalone.environment import environment_of
from enclip.standalone.processes import Processes, Service, Stopped, answers, require_free_port, stop_signals

# Cold starts on a slow disk take minutes; a service that ends by itself is noticed at once.
START_TIMEOUT_S = 300.0
GPU_POOL = "gpu"


@dataclass(frozen=True)
class RunningPlatform:
    """The services, their addresses, and Airflow's API."""

    processes: Processes
    api: AirflowApi
    airflow_url: str
    mlflow_url: str
    search_url: str
    password: str


def run_up(
    settings: Settings, *, airflow_port: int, mlflow_port: int, search_port: int, console: Console | None = None
) -> None:
    """Run the platform until SIGINT, SIGTERM or SIGHUP; no process stays behind, however this ends.

    MLflow is not started where the settings name a tracking server.

    Raises:
        ConfigError: a port is taken, or another `enclip up` runs on this home.
        ServiceError: a service did not start, or ended by itself; quotes the end of its log.
    """
    console = console or Console()
    with stop_signals():
        try:
            with platform_running(
                settings, airflow_port=airflow_port, mlflow_port=mlflow_port, search_port=search_port, console=console
            ) as platform:
                console.print(_addresses(platform, settings))
                console.print("Press Ctrl-C to stop everything.")
                try:
                    platform.processes.wait()
                finally:
                    _say(console, "Stopping …")
        except Stopped:
            _say(console, "Stopped. Nothing is left running.")


@contextlib.contextmanager
def platform_running(
    settings: Settings,
    *,
    airflow_port: int,
    mlflow_port: int | None,
    search_port: int,
    console: Console,
    unpaused: bool = True,
) -> Iterator[RunningPlatform]:
    """The platform, started and healthy within the block, gone after it.

    Args:
        mlflow_port: None leaves MLflow's server out; the steps write to its store without it.
        unpaused: whether DAGs seen for the first time start running on their schedules.

    Raises:
        ConfigError, ServiceError: as `run_up`.
    """
    own_mlflow = mlflow_port is not None and not settings.mlflow_tracking_uri.startswith(("http:", "https:"))
    require_free_port(airflow_port, option="--airflow-port")
    require_free_port(search_port, option="--search-port")
    if own_mlflow:
        require_free_port(mlflow_port or 0, option="--mlflow-port")
    airflow_url, search_url = f"http://127.0.0.1:{airflow_port}", f"http://127.0.0.1:{search_port}"
    mlflow_url = f"http://127.0.0.1:{mlflow_port}" if own_mlflow else settings.resolved_mlflow_url
    env = airflow.environment(settings, port=airflow_port, mlflow_url=mlflow_url, unpaused=unpaused)
    password = airflow.password(settings)
    api = AirflowApi(airflow_url, user=airflow.USER, password=password)
    with only_one(settings), Processes() as processes, console.status("Starting …") as status:
        if own_mlflow:
            processes.start(mlflow.server(settings, port=mlflow_port or 0))
        status.update("Preparing Airflow's database …")
        processes.run(airflow.migration(settings, env), timeout_s=airflow.MIGRATION_TIMEOUT_S)
        for component in airflow.components(settings, env):
            processes.start(component)
        if own_mlflow:
            # Its server makes the store's tables, and the search service is the next to want them.
            status.update("Waiting for MLflow …")
            processes.wait_until(
                lambda: answers(mlflow.health_url(mlflow_port or 0)), what="MLflow", timeout_s=START_TIMEOUT_S
            )
        processes.start(search(with_airflow(settings, airflow_url, password), port=search_port))
        status.update("Waiting for Airflow …")
        processes.wait_until(api.healthy, what="Airflow", timeout_s=START_TIMEOUT_S)
        api.ensure_pool(GPU_POOL, slots=1, description="One training at a time.")
        status.update("Waiting for the search service …")
        processes.wait_until(
            lambda: answers(f"{search_url}/health/live"), what="The search service", timeout_s=START_TIMEOUT_S
        )
        status.stop()
        yield RunningPlatform(processes, api, airflow_url, mlflow_url, search_url, password)


def with_airflow(settings: Settings, url: str, password: str) -> Settings:
    """The settings of a search service that starts `refresh_index` in this Airflow."""
    own = {"airflow_api_url": url, "airflow_user": airflow.USER, "airflow_password": SecretStr(password)}
    return settings.model_copy(update=own)


def search(settings: Settings, *, port: int) -> Service:
    """The search service on the loopback."""
    command = (sys.executable, "-m", "enclip", "serve", "--host", "127.0.0.1", "--port", str(port))
    return Service("The search service", command, settings.home / "logs" / "search.log", environment_of(settings))


@contextlib.contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the home's lock; the kernel lets go of it however this process ends. Raises ConfigError."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with open(settings.home / "up.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"The platform runs on {settings.home} already.", remedy="Stop it, or set another ENCLIP_HOME."
            ) from None
        yield


def _addresses(platform: RunningPlatform, settings: Settings) -> Table:
    table = Table(title="ENCLIP is up", title_justify="left")
    for column in ("", "open", "sign in"):
        table.add_column(column)
    table.add_row("Airflow", platform.airflow_url, f"{airflow.USER} / {platform.password}")
    table.add_row("MLflow", platform.mlflow_url, "")
    locked = bool(settings.api_keys.get_secret_value())
    table.add_row("Search", platform.search_url, "a key of ENCLIP_API_KEYS" if locked else "")
    table.caption = f"Logs: {settings.home / 'logs'}"
    return table


def _say(console: Console, text: str) -> None:
    # The terminal may be gone: that is what SIGHUP says.
    with contextlib.suppress(OSError):
        console.print(text)
