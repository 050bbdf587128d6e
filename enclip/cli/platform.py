"""`enclip up`, `enclip demo`, `enclip prune`."""

from typing import Annotated

import typer

from enclip.cli import render
from enclip.cli.options import Json, platform
from enclip.cli.recipe import naming_options
from enclip.config import Settings
from enclip.recipes import Retention

AirflowPort = Annotated[int, typer.Option(min=1, max=65535, help="Airflow's port.")]
MlflowPort = Annotated[int, typer.Option(min=1, max=65535, help="MLflow's port.")]
SearchPort = Annotated[int, typer.Option(min=1, max=65535, help="The search service's port.")]
KEEP = Retention.model_fields


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


def prune(
    keep_releases: Annotated[int, typer.Option(help=KEEP["keep_releases"].description)] = Retention().keep_releases,
    keep_days: Annotated[int, typer.Option(help=KEEP["keep_days"].description)] = Retention().keep_days,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Free the disk of old releases, of epochs that no kept release has, and of working files.

    Releases that an alias names and the year's best always keep their files. Versions stay in MLflow with
    their metrics; pictures, snapshots and the records of runs stay too. Cannot be undone; killed, run it again.
    """
    from enclip.pipeline.prune import KINDS, prune

    with naming_options():
        retention = Retention(keep_releases=keep_releases, keep_days=keep_days)
    with render.progress("Pruning") as advance:
        done = prune(platform(), retention, dry_run=not yes, on_progress=advance).summary()
    if json:
        render.print_json({"deleted": yes, **done})
        return
    render.table(
        "Freed" if yes else "Would be freed",
        ("what", "number", "MB", "of it"),
        [(kind, part["count"], f"{part['mb']:,.1f}", KINDS[kind]) for kind, part in done["pruned"].items()],
    )
    render.out.print(f"Releases that keep their files: {', '.join(map(str, done['kept_releases'])) or 'none'}.")
    if not yes and any(part["count"] for part in done["pruned"].values()):
        render.note("Nothing has been deleted. To delete, add --yes.")
