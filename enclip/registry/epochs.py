"""Epochs in the registry: each a LoggedModel with its step, metrics and dataset, and a version (D2)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from enclip.errors import RegistryError, WeightsError
from enclip.records import EpochVersion
from enclip.registry import names, runs
from enclip.registry.connection import Connection, all_pages
from enclip.registry.packages import log_package, model_id_of, whole_model
from enclip.release import Ingredient, file_sha256

WEIGHTS_FILE = "weights.safetensors"
MODEL_FILE = "model.json"

DESCRIPTION = (
    "One fine-tuned epoch, or a soup of several; epoch 0 is the base before fine-tuning. Weights are safetensors."
)


def log_epoch(
    connection: Connection,
    mlflow_run_id: str,
    folder: Path,
    *,
    instance: int,
    epoch: int,
    metrics: Mapping[str, float],
    snapshot: str,
    num_products: int,
    base: str,
    parent_version: int | None,
    ingredients: Sequence[Ingredient],
) -> EpochVersion:
    """Log and register an epoch or a soup, or find it: the same weights of the same run are never logged twice."""
    parent = connection.client.get_run(mlflow_run_id)
    run_id = parent.data.tags[names.RUN_ID]
    weights = file_sha256(folder / WEIGHTS_FILE)
    before = _versions(connection, run_id, pruned=False)
    for known in before:
        if (known.instance, known.epoch, known.weights_sha256) == (instance, epoch, weights):
            return replace(known, map_at_10=_map_at_10(metrics), metrics=names.finite(metrics))
    model = _model_facts(folder)
    child = runs.open_instance(connection, mlflow_run_id, instance, kind="soup" if ingredients else "instance")
    tags = {
        names.RUN_ID: run_id,
        names.INSTANCE: str(instance),
        names.EPOCH: str(epoch),
        names.WEIGHTS: weights,
        names.INIT_ID: str(model["init_id"]),
        names.DIM: str(int(model["dim"])),
        names.SNAPSHOT: snapshot,
        names.BASE: base,
    }
    if parent_version is not None:
        tags[names.PARENT_VERSION] = str(parent_version)
    if changed := base_weights(folder):
        base_versions = [
            known.version for known in before if (known.instance, known.weights_sha256) == (instance, changed)
        ]
        if not base_versions:
            raise WeightsError(
                f"{folder} has only what changed from the weights {changed[:12]}…, and run {run_id} has none such.",
                remedy="Register epoch 0 of the same training first.",
            )
        tags[names.DELTA_OF] = str(max(base_versions))
    # The UI's charts label a bar by the model's name, so the name says which epoch it is.
    name = f"i{instance}-e{epoch:02d}-{run_id}"
    what = f"Epoch {epoch} of instance {instance}"
    if ingredients:
        tags[names.INGREDIENTS] = json.dumps({part.version: part.weight for part in ingredients})
        name, what = f"soup-{name}", "Soup of versions " + ", ".join(str(part.version) for part in ingredients)
    model_id = _logged_before(connection, run_id, instance, epoch, weights) or log_package(
        connection,
        folder,
        kind=names.CHECKPOINT,
        name=names.model_name(name),
        mlflow_run_id=child,
        step=epoch,
        params={**parent.data.params, "instance": instance, "epoch": epoch},
        tags=tags,
    )
    dataset = runs.log_dataset(connection, child, snapshot=snapshot, num_rows=num_products, context="train")
    runs.log_metrics(connection, child, metrics, step=epoch, model_id=model_id, dataset=dataset)
    map_at_10 = _map_at_10(metrics)
    connection.ensure_registered_model(names.EPOCH_MODEL, DESCRIPTION)
    version = connection.register(
        names.EPOCH_MODEL,
        source=f"models:/{model_id}",
        run_id=child,
        model_id=model_id,
        tags={**tags, names.MAP_AT_10: f"{map_at_10:.4f}"},
        description=f"{what} in `{run_id}`: mAP@10 {map_at_10:.4f} on *select*.",
    )
    return _record(version, names.finite(metrics))


def epochs_of(connection: Connection, run_id: str) -> list[EpochVersion]:
    """The run's epochs by instance and epoch, with their metrics; no soups. Trained again, the newest counts."""
    metrics: dict[str, dict[str, float]] = {}
    for model in all_pages(
        lambda token: connection.client.search_logged_models(
            [connection.experiment_id],
            filter_string=f"tags.`{names.RUN_ID}` = {names.quoted(run_id)}",
            page_token=token,
        )
    ):
        metrics[f"models:/{model.model_id}"] = {metric.key: metric.value for metric in model.metrics or []}
    newest: dict[tuple[int, int], EpochVersion] = {}
    for epoch in sorted(_versions(connection, run_id, metrics, soups=False), key=lambda epoch: epoch.version):
        newest[epoch.instance, epoch.epoch] = epoch
    return [newest[key] for key in sorted(newest)]


def epoch_version(connection: Connection, version: int) -> EpochVersion:
    """One version of `enclip-epoch`, with its metrics. Raises RegistryError where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        found = connection.client.get_model_version(names.EPOCH_MODEL, str(version))
    except MlflowException as error:
        raise RegistryError(f"There is no version {version} of {names.EPOCH_MODEL}.") from error
    model = connection.client.get_logged_model(model_id_of(found.source))
    return _record(found, {metric.key: metric.value for metric in model.metrics or []})


def base_weights(folder: Path) -> str:
    """SHA-256 of the weights of which a checkpoint's folder has only the changes; "" where it has all."""
    delta = _card(folder).get("delta")
    return str(delta["base_sha256"]) if delta else ""


def source_of(connection: Connection, weights_sha256: str) -> str:
    """The source of a version with these weights that has its files. Raises WeightsError where there is none."""
    found = all_pages(
        lambda token: connection.client.search_logged_models(
            [connection.experiment_id],
            filter_string=f"tags.`{names.WEIGHTS}` = {names.quoted(weights_sha256)}",
            page_token=token,
        )
    )
    model_id = whole_model(found)
    if model_id is None:
        raise WeightsError(
            f"No version of {names.EPOCH_MODEL} has the weights {weights_sha256[:12]}… any more, of which an epoch has "
            f"only the changes.",
            remedy="Restore that epoch 0 in MLflow, or name another release.",
        )
    return f"models:/{model_id}"


def _versions(
    connection: Connection,
    run_id: str,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    *,
    soups: bool = True,
    pruned: bool = True,
) -> list[EpochVersion]:
    where = f"name = '{names.EPOCH_MODEL}' and tags.`{names.RUN_ID}` = {names.quoted(run_id)}"
    found = all_pages(lambda token: connection.client.search_model_versions(where, page_token=token))
    return [
        _record(version, (metrics or {}).get(version.source, {}))
        for version in found
        if (soups or names.INGREDIENTS not in version.tags) and (pruned or names.PRUNED not in version.tags)
    ]


def _map_at_10(metrics: Mapping[str, float]) -> float:
    return float(metrics.get(names.VAL_MAP_AT_10, 0.0))


def _model_facts(folder: Path) -> dict[str, Any]:
    """What the checkpoint's `model.json` says. Raises WeightsError where it is missing or incomplete."""
    facts = _card(folder)
    try:
        return {"init_id": facts["init_id"], "dim": int(facts["dim"])}
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder / MODEL_FILE} does not describe a checkpoint: {error!r}.") from error


def _card(folder: Path) -> dict[str, Any]:
    """The checkpoint's `model.json`. Raises WeightsError where it is missing or none."""
    try:
        return dict(json.loads((folder / MODEL_FILE).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{folder / MODEL_FILE} does not describe a checkpoint: {error!r}.") from error


def _logged_before(connection: Connection, run_id: str, instance: int, epoch: int, weights: str) -> str | None:
    """A LoggedModel that a crash left without its version."""
    found = connection.client.search_logged_models(
        [connection.experiment_id],
        filter_string=f"tags.`{names.RUN_ID}` = {names.quoted(run_id)} "
        f"and tags.`{names.INSTANCE}` = '{instance}' and tags.`{names.EPOCH}` = '{epoch}' "
        f"and tags.`{names.WEIGHTS}` = {names.quoted(weights)}",
    )
    return whole_model(found)


def _record(version: Any, metrics: Mapping[str, float]) -> EpochVersion:
    tags = version.tags
    return EpochVersion(
        version=int(version.version),
        source=version.source,
        mlflow_run_id=version.run_id or "",
        instance=int(tags[names.INSTANCE]),
        epoch=int(tags[names.EPOCH]),
        weights_sha256=tags[names.WEIGHTS],
        init_id=tags[names.INIT_ID],
        dim=int(tags[names.DIM]),
        map_at_10=float(metrics.get(names.VAL_MAP_AT_10, tags[names.MAP_AT_10])),
        metrics=dict(metrics),
    )
