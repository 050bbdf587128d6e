"""The MLflow server over the embedded store: the UI to what the steps write by themselves."""

import sys

from enclip.config import Settings
from enclip.standalone.processes import Service


def server(settings: Settings, *, port: int) -> Service:
    """The tracking server as a service, on the loopback, over the SQLite file that the steps use too."""
    hosts = f"127.0.0.1:{port},localhost:{port},127.0.0.1,localhost"
    command = (
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", settings.resolved_tracking_uri),
        *("--default-artifact-root", settings.artifact_root.as_uri()),
        "--no-serve-artifacts",
        *("--allowed-hosts", hosts),
    )
    env = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    return Service("MLflow", command, settings.home / "logs" / "mlflow.log", env)


def health_url(port: int) -> str:
    """Answers 200 once the server serves."""
    return f"http://127.0.0.1:{port}/health"
