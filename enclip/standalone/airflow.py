"""Airflow on one machine: its settings, its database, its components as services.

The components are started one by one and not through `airflow standalone`, which leaves scheduler,
triggerer and API server behind when it is ended, and whose log servers listen on every network
interface with no setting against it.
"""

import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from enclip.blobs import write_whole
from enclip.config import Settings
from enclip.cores import available_cores
from enclip.errors import ConfigError
from enclip.standalone.environment import environment_of
from enclip.standalone.processes import Service

USER = "admin"
DAGS = Path(__file__).parents[2] / "dags"
# Airflow's own command line can miss SIGTERM; see there.
RUN_AIRFLOW = Path(__file__).parents[2] / "infra/run_airflow.py"
MIGRATION_TIMEOUT_S = 300.0


def environment(
    settings: Settings, *, port: int, mlflow_url: str, unpaused: bool, dags: Path = DAGS
) -> Mapping[str, str]:
    """What Airflow and its tasks need to find: the same for each component.

    Args:
        settings: passed on to the tasks, so that they act on this home wherever they run.
        port: of Airflow's API and UI.
        mlflow_url: where task links to MLflow lead.
        unpaused: whether DAGs that Airflow has not seen before run on their schedules at once.

    Raises:
        ConfigError: no DAG folder beside the package.
    """
    if not (dags / "retrain.py").is_file():
        raise ConfigError(f"No DAGs in {dags}.", remedy="Run from a checkout of the repository.")
    home = settings.home / "airflow"
    url = f"http://127.0.0.1:{port}"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": str(not unpaused),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Each slot is a process with a copy of Airflow; training itself takes one slot and all cores.
        "AIRFLOW__CORE__PARALLELISM": str(max(2, min(8, available_cores()))),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_password_file(settings)),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "15",
        # A task whose process died with an earlier `enclip up` goes on after this, not after five minutes.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        **environment_of(settings.model_copy(update={"airflow_url": url, "mlflow_url": mlflow_url})),
        # The tasks' `enclip` and the components' `airflow` are those of this environment.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }


def migration(settings: Settings, env: Mapping[str, str]) -> Service:
    """The command that creates or migrates Airflow's database; run it before the components."""
    return Service("Airflow's migration", _airflow("db", "migrate"), _log(settings, "migrate"), env)


def components(settings: Settings, env: Mapping[str, str], *, triggerer: bool = True) -> tuple[Service, ...]:
    """Scheduler, DAG processor, API server and, unless told otherwise, the triggerer.

    Nothing of ENCLIP defers, so the triggerer matters to a user's own DAGs and to the UI's health
    lamp only.
    """
    # Task logs are read from the folder; a server for them would listen on all interfaces.
    commands = {
        "api-server": ("api-server",),
        "scheduler": ("scheduler", "--skip-serve-logs"),
        "dag-processor": ("dag-processor",),
    }
    if triggerer:
        commands["triggerer"] = ("triggerer", "--skip-serve-logs")
    return tuple(
        Service(f"Airflow's {name}", _airflow(*command), _log(settings, name), env)
        for name, command in commands.items()
    )


def password(settings: Settings) -> str:
    """The password of Airflow's user `admin`; made on first use and kept in a file only this user reads."""
    file = _password_file(settings)
    try:
        known = json.loads(file.read_text())[USER]
    except (OSError, ValueError, KeyError):
        known = secrets.token_urlsafe(12)
        # Airflow keeps its signing keys in this folder too.
        file.parent.mkdir(parents=True, exist_ok=True)
        file.parent.chmod(0o700)
        write_whole(file, (json.dumps({USER: known}) + "\n").encode())
        file.chmod(0o600)
    return str(known)


def _password_file(settings: Settings) -> Path:
    return settings.home / "airflow" / "passwords.json"


def _log(settings: Settings, name: str) -> Path:
    return settings.home / "logs" / f"airflow-{name}.log"


def _airflow(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(RUN_AIRFLOW), *arguments)
