"""A folder as a LoggedModel: packed as a pyfunc whose code is in this package, and found again on disk.

No pickle anywhere: the model is a source file (models-from-code) plus the folder's own files.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from enclip.blobs import TEMPORARY, writing
from enclip.errors import RegistryError, ReleaseError
from enclip.registry import names
from enclip.registry.connection import Connection

BASE_FOLDER = "base"  # in a delta's folder: the checkpoint that it changes, which is a package of its own
LINKED = "linked"  # folder of the cache: deltas with links to their bases
PYFUNC = Path(__file__).parent.parent / "pyfunc"
_CODE = {"checkpoint": "epoch.py", "release": "release.py"}
# Given, because inferring them costs MLflow 10 to 20 s a model. ENCLIP itself is not listed: it is on
# no package index, and a stranger's package of that name must never be installed in its place.
_REQUIREMENTS = ("mlflow", "torch", "open_clip_torch", "safetensors", "numpy", "pandas", "pillow")
_RELEASE_REQUIREMENTS = (*_REQUIREMENTS, "faiss-cpu", "scikit-learn", "pyarrow")


def log_package(
    connection: Connection,
    folder: Path,
    *,
    kind: str,
    name: str,
    mlflow_run_id: str,
    step: int,
    params: Mapping[str, object],
    tags: Mapping[str, str],
) -> str:
    """Log a folder as a LoggedModel that is READY; its `model_id`.

    Args:
        kind: "checkpoint" or "release": the pyfunc that answers for it, and its folder in the model.
        step: the epoch, for MLflow's charts.
    """
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    client = connection.client
    model = client.create_logged_model(
        connection.experiment_id,
        name=name,
        source_run_id=mlflow_run_id,
        tags=dict(tags),
        params={key: str(value) for key, value in params.items()},
        model_type=f"enclip-{kind}",
    )
    try:
        with tempfile.TemporaryDirectory(prefix="enclip-model-") as scratch:
            source = Path(scratch) / kind
            _link_tree(folder, source)
            target = Path(scratch) / "model"
            signature, example = _contract(kind)
            mlflow.pyfunc.save_model(
                path=str(target),
                python_model=str(PYFUNC / _CODE[kind]),
                artifacts={kind: str(source)},
                signature=signature,
                input_example=example,
                pip_requirements=[
                    f"{package}=={version(package)}"
                    for package in (_RELEASE_REQUIREMENTS if kind == "release" else _REQUIREMENTS)
                ],
                mlflow_model=Model(
                    artifact_path=model.artifact_location, run_id=mlflow_run_id, model_id=model.model_id
                ),
            )
            for cache in target.rglob("__pycache__"):
                shutil.rmtree(cache)
            with connection.uploading():
                client.log_model_artifacts(model.model_id, str(target))
        client.log_outputs(mlflow_run_id, models=[LoggedModelOutput(model.model_id, step=step)])
        client.finalize_logged_model(model.model_id, "READY")
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    return str(model.model_id)


def fetch_package(connection: Connection, source: str, kind: str, cache: Path) -> tuple[Path, Any]:
    """The folder that was logged, and its LoggedModel.

    Where MLflow keeps its artifacts on this machine, that is the stored folder itself, not a copy;
    otherwise it is downloaded once into the cache, whole or not at all.

    Raises:
        RegistryError: the LoggedModel or its files are gone; ReleaseError where they were pruned.
    """
    model_id = model_id_of(source)
    with connection.asking(f"read {source} from"):
        model = connection.client.get_logged_model(model_id)
    if pruned := model.tags.get(names.PRUNED):
        raise ReleaseError(
            f"The files of {model.name} ({source}) were pruned on {pruned[:10]}.",
            remedy="They cannot be had back; name another release, or retrain.",
        )
    location = f"{model.artifact_location}/artifacts/{kind}"
    if (local := _local_path(location)) is not None:
        if not local.is_dir():
            raise RegistryError(
                f"The files of {source} are gone from {local}.", remedy="Restore them, or roll back to another release."
            )
        return local, model
    target = download_of(source, kind, cache)
    if not target.is_dir():
        import mlflow

        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as scratch,
            connection.asking(f"download {source} from"),
        ):
            downloaded = mlflow.artifacts.download_artifacts(
                artifact_uri=location, dst_path=scratch, tracking_uri=connection.tracking_uri
            )
            try:
                Path(downloaded).rename(target)
            except OSError:
                if not target.is_dir():  # else another process was first
                    raise
    return target, model


def whole_model(found: Iterable[Any]) -> str | None:
    """The first LoggedModel that is complete and has its files; its `model_id`."""
    whole = (model for model in found if str(model.status) == "READY" and names.PRUNED not in model.tags)
    return next((str(model.model_id) for model in whole), None)


def download_of(source: str, kind: str, cache: Path) -> Path:
    """Where a package lies in the cache, if it was downloaded."""
    return cache / kind / model_id_of(source)


def with_link(folder: Path, base: Path, target: Path) -> Path:
    """A folder of links: to all in a package's folder, and to its base.

    Not in the package's own folder, which may be the store's. They are made anew each time: the package may lie
    elsewhere than the last time.
    """
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        for name, path in {**{path.name: path for path in folder.iterdir()}, BASE_FOLDER: base}.items():
            temporary = target / f"{TEMPORARY}{secrets.token_hex(4)}"
            temporary.symlink_to(path.absolute())
            temporary.replace(target / name)
    return target


def discard_download(folder: Path) -> None:
    """Remove a package from the cache; from the first moment nobody finds it there."""
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent, ignore_cleanup_errors=True) as scratch:
        folder.rename(Path(scratch) / folder.name)


def model_id_of(source: str) -> str:
    """`m-…` of a version's source `models:/m-…`. Raises RegistryError for any other source."""
    model_id = source.removeprefix("models:/")
    if not source.startswith("models:/m-") or "/" in model_id:
        raise RegistryError(
            f"{source!r} is not the source of a version that ENCLIP registered.", remedy="Name one made by `enclip`."
        )
    return model_id


def _local_path(location: str) -> Path | None:
    parsed = urlparse(location)
    if parsed.scheme == "file" and parsed.netloc in ("", "localhost"):
        return Path(url2pathname(parsed.path))
    return Path(location) if not parsed.scheme else None


def _link_tree(folder: Path, target: Path) -> None:
    """The folder's files under another name, hard-linked where the file system lets us; without a delta's base."""

    def link(source: str, destination: str) -> None:
        try:
            os.link(source, destination)
        except OSError:
            shutil.copy2(source, destination)

    shutil.copytree(folder, target, copy_function=link, ignore=shutil.ignore_patterns(".tmp-*", BASE_FOLDER))


def _contract(kind: str) -> tuple[Any, Any]:
    """Signature and input example of a kind of model."""
    import numpy as np
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec

    text = ColSpec(DataType.string, "text", required=False)
    image = ColSpec(DataType.string, "image", required=False)
    example = pd.DataFrame({"text": ["navy blue shirt"]})
    if kind == "checkpoint":
        return ModelSignature(Schema([text, image]), Schema([TensorSpec(np.dtype("float32"), (-1, -1))])), example
    inputs: list[ColSpec | TensorSpec] = [text, image, ColSpec(DataType.long, "k", required=False)]
    inputs += [ColSpec(DataType.string, name, required=False) for name in ("category", "gender", "colour")]
    inputs += [ColSpec(DataType.double, name, required=False) for name in ("price_min", "price_max")]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.long, "query"),
        ColSpec(DataType.long, "rank"),
        ColSpec(DataType.string, "product_id"),
        ColSpec(DataType.double, "score"),
        ColSpec(DataType.string, "name"),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs)), example
