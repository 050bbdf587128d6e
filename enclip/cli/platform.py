"""`enclip up`, `enclip demo`."""

from typing import Annotated

import typer

from enclip.config import Settings

AirflowPort = Annotated[int, typer.Option(min=1, max=65535, help="Airflow's port.")]
MlflowPort = Annotated[int, typer.Option(min=1, max=65535, help="MLflow's port.")]
SearchPort = Annotated[int, typer.Option(min=1, max=65535, help="The search service's port.")]


def up(airflow_port: AirflowPort = 8080, mlflow_port: MlflowPort = 5000, search_port: SearchPort = 8000) -> None:
    """Run Airflow, MLflow and search on this machine until Ctrl-C; leaves no process behind."""
    from enclip.standalone.up import run_up

    run_up(Settings(), airflow_port=airflow_port, mlflow_port=mlflow_port, search_port=search_port)


def demo(
    catalog: Annotated[str, typer.Option(help="Run the main job on this catalog instead of a drawn one.")] = "",
    airflow_port: AirflowPort = 8080,
    mlflow_port: MlflowPort = 5000,
    search_port: SearchPort = 8000,
) -> None:
    """The main job, end to end: ingest, retrain through Airflow, refresh, search."""
    from enclip.standalone.demo import run_demo

    run_demo(
        Settings(),
        catalog=catalog or None,
        airflow_port=airflow_port,
        mlflow_port=mlflow_port,
        search_port=search_port,
    )
