"""MLflow runs: one for a retraining, one below it for each instance (seed) that is fine-tuned."""

from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any, Literal

from enclip.registry.connection import Connection
from enclip.registry.names import INSTANCE, KIND, PARENT_RUN, RUN_ID, dataset_digest, finite, quoted

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
_MAX_PARAM_CHARS = 6000


def open_run(
    connection: Connection, run_id: str, kind: str, params: Mapping[str, object], tags: Mapping[str, str]
) -> str:
    """The MLflow run of `run_id`, made on first use; opened again, it runs again and gains what is new."""
    if commit := tags.get("git_commit"):
        tags = {**tags, "mlflow.source.git.commit": commit}  # the name under which MLflow's pages show it
    return _one_run(
        connection,
        where=f"tags.`{RUN_ID}` = {quoted(run_id)} and tags.`{KIND}` = {quoted(kind)}",
        name=run_id,
        tags={RUN_ID: run_id, KIND: kind, **tags},
        params=params,
    )


def open_instance(
    connection: Connection, parent: str, instance: int, *, kind: Literal["instance", "soup"] = "instance"
) -> str:
    """The run of one instance below a retraining's run, or that of its soup."""
    return _one_run(
        connection,
        where=f"tags.`{PARENT_RUN}` = {quoted(parent)} and tags.`{INSTANCE}` = {quoted(str(instance))} "
        f"and tags.`{KIND}` = {quoted(kind)}",
        name=f"{kind} {instance}",
        tags={PARENT_RUN: parent, INSTANCE: str(instance), KIND: kind},
        params={},
    )


def close_run(connection: Connection, mlflow_run_id: str, status: RunStatus) -> None:
    """End a run and those below it."""
    below = connection.client.search_runs(
        [connection.experiment_id], f"tags.`{PARENT_RUN}` = {quoted(mlflow_run_id)}", max_results=1000
    )
    for run_id in [run.info.run_id for run in below] + [mlflow_run_id]:
        connection.client.set_terminated(run_id, status=status)


def log_params(connection: Connection, mlflow_run_id: str, params: Mapping[str, object]) -> None:
    """Parameters of a run; those it has keep their value."""
    _add(connection, connection.client.get_run(mlflow_run_id), {}, params)


def log_metrics(
    connection: Connection,
    mlflow_run_id: str,
    metrics: Mapping[str, float],
    *,
    step: int = 0,
    model_id: str | None = None,
    dataset: tuple[str, str] | None = None,
) -> None:
    """Metrics of a run and, where named, of a LoggedModel on a dataset (name, snapshot digest)."""
    from mlflow.entities import Metric

    name, digest = dataset or (None, None)
    now = int(time() * 1000)
    connection.client.log_batch(
        mlflow_run_id,
        metrics=[
            Metric(
                key,
                value,
                now,
                step,
                model_id=model_id,
                dataset_name=name,
                dataset_digest=dataset_digest(digest) if digest else None,
                run_id=mlflow_run_id,
            )
            for key, value in sorted(finite(metrics).items())
        ],
    )


def log_dataset(
    connection: Connection, mlflow_run_id: str, *, snapshot: str, num_rows: int, context: str
) -> tuple[str, str]:
    """Say which snapshot a run reads; name and digest for `log_metrics`. Saying it twice is harmless."""
    import json

    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    dataset = Dataset(
        name="catalog",
        digest=dataset_digest(snapshot),
        source_type="code",
        source=json.dumps({"snapshot": snapshot}),
        profile=json.dumps({"num_rows": num_rows}),
    )
    inputs = [DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)])]
    try:
        connection.client.log_inputs(mlflow_run_id, datasets=inputs)
    except MlflowException as error:
        # MLflow looks for the data set and then inserts it: of two runs at once one loses, and finds it next time.
        if "datasets.digest" not in str(error):
            raise
        connection.client.log_inputs(mlflow_run_id, datasets=inputs)
    return dataset.name, snapshot


def log_folder(connection: Connection, mlflow_run_id: str, folder: Path, path: str) -> None:
    """Upload a folder's files as the run's artifacts under `path`."""
    with connection.uploading():
        connection.client.log_artifacts(mlflow_run_id, str(folder), artifact_path=path or None)


def _one_run(
    connection: Connection, *, where: str, name: str, tags: Mapping[str, str], params: Mapping[str, object]
) -> str:
    run = _earliest(connection, where)
    if run is None:
        made = connection.client.create_run(
            connection.experiment_id, tags={**tags, "mlflow.source.name": "enclip"}, run_name=name
        )
        run = _earliest(connection, where) or made
        if run.info.run_id != made.info.run_id:  # another process was first
            connection.client.delete_run(made.info.run_id)
    mlflow_run_id = str(run.info.run_id)
    if run.info.status != "RUNNING":
        connection.client.update_run(mlflow_run_id, status="RUNNING")
    _add(connection, run, tags, params)
    return mlflow_run_id


def _earliest(connection: Connection, where: str) -> Any | None:
    found = connection.client.search_runs(
        [connection.experiment_id], where, max_results=1, order_by=["attributes.start_time ASC"]
    )
    return found[0] if found else None


def _add(connection: Connection, run: Any, tags: Mapping[str, str], params: Mapping[str, object]) -> None:
    from mlflow.entities import Param, RunTag

    # A parameter, once logged, cannot change: a run that is cleared and started again keeps its first ones.
    connection.client.log_batch(
        run.info.run_id,
        params=[
            Param(key, str(value)[:_MAX_PARAM_CHARS])
            for key, value in params.items()
            if key not in run.data.params and str(value) != ""
        ],
        tags=[RunTag(key, str(value)) for key, value in tags.items() if run.data.tags.get(key) != str(value)],
    )
