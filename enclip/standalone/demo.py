"""The main job on this machine, end to end: ingest, retrain, refresh and search, through Airflow.

A demonstration that does the real thing: the DAGs, the registry, the gates and the search service are
those that `enclip up` runs. Only the catalog is drawn, unless the user names one.
"""

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from enclip.catalog.drawn import draw_catalog
from enclip.config import Settings
from enclip.errors import ConfigError, EnclipError
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.runs import EvaluationStep, GateStep, RunFolder, run_id_from
from enclip.pipeline.status import read_status
from enclip.standalone import outcome
from enclip.standalone.airflow_api import AirflowApi
from enclip.standalone.follow_runs import run_dag
from enclip.standalone.processes import Stopped, free_port, require_free_port, stop_signals
from enclip.standalone.up import RunningPlatform, only_one, platform_running

DAGS = frozenset({"ingest_catalog", "retrain", "refresh_index"})
DRAWN_FIRST, DRAWN_LATER, SEED = 560, 80, 0
# Enough to learn what is drawn, and no more: the catalog is small, so an epoch is short.
DRAWN_RECIPE = {"epochs": 8, "instances": 2}
PARSE_TIMEOUT_S = 120.0
FOLLOW_TIMEOUT_S = 60.0


def run_demo(
    settings: Settings,
    *,
    catalog: str | None = None,
    airflow_port: int = 8080,
    mlflow_port: int = 5000,
    search_port: int = 8000,
    console: Console | None = None,
    results: Path = Path("demo-results.png"),
) -> None:
    """Run the main job on a drawn catalog, or on one of the user's; show what came of it.

    Args:
        catalog: a source as `enclip ingest` takes it; None draws one, with a second batch for the
            index refresh.
        airflow_port: where Airflow can be watched meanwhile; a free port is taken instead of a busy one.
        mlflow_port: where links to MLflow will lead once `enclip up` runs; no server is started here.
        results: the picture of search results to write.

    Raises:
        ConfigError: the home holds a catalog that is not the demo's, or the source does not exist.
        EnclipError: a service or a run failed, or the first release was refused.
    """
    console = console or Console()
    start = time.monotonic()
    batches = own_batch(settings, catalog, console) if catalog else drawn_batches(settings)
    platform = open_platform(settings)
    with stop_signals():
        try:
            with platform_running(
                settings.model_copy(update={"mlflow_url": settings.mlflow_url or f"http://127.0.0.1:{mlflow_port}"}),
                airflow_port=_usable(airflow_port, "--airflow-port"),
                mlflow_port=None,
                search_port=_usable(search_port, "--search-port"),
                console=console,
                unpaused=False,
            ) as services:
                console.print(
                    f"Airflow: {services.airflow_url} (admin / {services.password})   Search: {services.search_url}",
                    highlight=False,
                    soft_wrap=True,
                )
                _main_job(platform, services, console, batches=batches, drawn=not catalog, results=results)
                for dag_id in DAGS:
                    services.api.pause(dag_id, False)  # `enclip up` goes on from here by itself
        except Stopped as stopped:
            raise EnclipError(
                f"The demo was stopped by {stopped}; nothing is left running.", remedy="Run it again."
            ) from None
    console.print(f"Done in {time.monotonic() - start:.0f} s. Nothing is left running.", highlight=False)
    console.print("`make up` (or `enclip up`) opens Airflow, MLflow and the search page on what was made.")


def _main_job(
    platform: Platform,
    services: RunningPlatform,
    console: Console,
    *,
    batches: list[str],
    drawn: bool,
    results: Path,
) -> None:
    api, processes = services.api, services.processes
    processes.wait_until(lambda: _parsed(api), what="Airflow's reading of the DAG files", timeout_s=PARSE_TIMEOUT_S)
    for dag_id in DAGS:
        api.pause(dag_id, True)

    def run(dag_id: str, conf: dict[str, Any], title: str) -> str:
        return run_dag(api, processes, console, dag_id=dag_id, conf=conf, title=title)

    first, *later = batches
    _show_ingest(api, console, run("ingest_catalog", {"source": first}, f"Ingest {first}"))
    retrained = run_id_from(
        run("retrain", DRAWN_RECIPE if drawn else {}, "Retrain: fine-tune, ensemble, gate, promote"), "retrain"
    )
    evaluation = _show_run(platform, console, retrained)
    _require_champion(platform, retrained)
    for batch in later:
        _show_ingest(api, console, run("ingest_catalog", {"source": batch}, f"Ingest a second batch, {batch}"))
        refreshed = run_id_from(run("refresh_index", {}, "Refresh the index"), "refresh")
        evaluation = _show_run(platform, console, refreshed)
    status = read_status(platform)
    outcome.show_alias(console, status)
    champion = status["champion"]["release"]
    seconds = processes.wait_until(
        lambda: outcome.ready_release(services.search_url) == champion,
        what=f"The search service with release {champion}",
        timeout_s=FOLLOW_TIMEOUT_S,
    )
    console.print(f"The search service answers from release {champion} (waited {seconds:.1f} s).", highlight=False)
    answers = [
        (text, outcome.found(services.search_url, text, api_keys=platform.settings.api_keys))
        for text in outcome.example_queries(evaluation)
    ]
    if answers:
        outcome.show_answer(console, *answers[0])
        outcome.draw_results(results, services.search_url, answers)
        console.print(f"More of what was found: {results.absolute()}", highlight=False, soft_wrap=True)


def drawn_batches(settings: Settings) -> list[str]:
    """Two drawn folders in the home. Raises ConfigError where the home holds another catalog."""
    _, others = _holdings(settings)
    if others:
        raise ConfigError(
            f"ENCLIP_HOME {settings.home} holds {others} products of yours; drawn ones would mix with them.",
            remedy="Set ENCLIP_HOME to another folder, or run the demo on your catalog with --catalog PATH.",
        )
    first, later = _drawn_folders(settings)
    draw_catalog(first, num_products=DRAWN_FIRST, seed=SEED)
    draw_catalog(later, num_products=DRAWN_LATER, seed=SEED, start=DRAWN_FIRST)
    return [str(first), str(later)]


def own_batch(settings: Settings, catalog: str, console: Console) -> list[str]:
    """The user's source, absolute. A home in which a demo has drawn its catalog is set aside, not mixed in.

    Raises:
        ConfigError: the folder does not exist, or the drawn state cannot be set aside.
    """
    source = catalog
    if not catalog.startswith(("s3://", "hf:")):
        path = Path(catalog).expanduser().absolute()
        if not path.exists():
            raise ConfigError(f"There is no catalog at {path}.", remedy="Name a folder with styles.csv and images/.")
        source = str(path)
    drawn, others = _holdings(settings)
    if drawn and not others:
        # A champion of drawn things would be what the user's first release is measured against.
        console.print(f"The drawn demo's state now lies in {_set_aside(settings)}.", highlight=False, soft_wrap=True)
    return [source]


def _set_aside(settings: Settings) -> Path:
    """Rename the home; where it lies now."""
    if settings.database_url or settings.store_url or settings.mlflow_tracking_uri:
        raise ConfigError(
            "The database holds a demo's drawn catalog, and only embedded state can be set aside.",
            remedy="Name another ENCLIP_DATABASE_URL, ENCLIP_STORE_URL and MLFLOW_TRACKING_URI.",
        )
    number = 1
    while (target := settings.home.with_name(f"{settings.home.name}-drawn-{number}")).exists():
        number += 1
    with only_one(settings):
        settings.home.rename(target)
    return target


def _drawn_folders(settings: Settings) -> tuple[Path, Path]:
    folder = settings.home / "demo"
    return folder / "first", folder / "later"


def _holdings(settings: Settings) -> tuple[int, int]:
    """Live products that a demo has drawn, and other live ones."""
    platform = open_platform(settings)
    try:
        drawn = sum(
            1 for folder in _drawn_folders(settings) for _ in platform.catalog.carried_by(str(folder.resolve()))
        )
        return drawn, platform.catalog.counts().live - drawn
    finally:
        platform.database.dispose()


def _usable(port: int, option: str) -> int:
    try:
        require_free_port(port, option=option)
    except ConfigError:
        return free_port()
    return port


def _parsed(api: AirflowApi) -> bool:
    errors = api.import_errors()
    if errors:
        raise EnclipError(f"Airflow cannot read the DAG files: {errors[0]}")
    return api.dag_ids() >= DAGS


def _show_ingest(api: AirflowApi, console: Console, dag_run_id: str) -> None:
    report = api.xcom("ingest_catalog", dag_run_id, "ingest")
    counts = ", ".join(f"{report[name]} {name}" for name in ("accepted", "unchanged", "rejected", "gone"))
    console.print(f"  {counts}", highlight=False)
    for row in report["rejections"][:5]:
        console.print(f"  set aside: row {row['row']}, {row['product_id']}: {row['reason']}", markup=False)


def _show_run(platform: Platform, console: Console, run_id: str) -> EvaluationStep:
    folder = RunFolder(platform.blobs, run_id)
    evaluation = folder.read("evaluation", EvaluationStep)
    outcome.show_figures(console, evaluation)
    outcome.show_gates(console, folder.read("gate", GateStep))
    return evaluation


def _require_champion(platform: Platform, run_id: str) -> None:
    if platform.registry.alias("champion") is None:
        gate = RunFolder(platform.blobs, run_id).read("gate", GateStep)
        raise EnclipError(
            f"There is no champion to search with: {gate.summary}",
            remedy="Train longer (`enclip retrain --epochs 20`), or promote it by hand (`enclip promote VERSION`).",
        )
