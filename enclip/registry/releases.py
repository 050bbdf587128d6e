"""Releases in the registry: versions of `enclip`, and the aliases that name one of them."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enclip.blobs import write_whole
from enclip.errors import RegistryError
from enclip.registry import names, runs
from enclip.registry.connection import Connection, all_pages
from enclip.registry.packages import log_package, model_id_of, whole_model
from enclip.release import MANIFEST, Manifest

DESCRIPTION = "A product search, pinned whole: ensemble, index, clusters and catalog snapshot."


@dataclass(frozen=True, slots=True)
class ReleaseVersion:
    """One version of `enclip`, as the registry's list shows it."""

    version: int
    source: str
    mlflow_run_id: str
    run_id: str
    created_at_ms: int
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_pruned(self) -> bool:
        """Whether its files have gone, or are going."""
        return names.PRUNED in self.tags


def log_release(connection: Connection, mlflow_run_id: str, folder: Path, manifest: Manifest) -> int:
    """Log and register a release, or find it: the same content of the same run is never registered twice."""
    content = _content(manifest)
    for known in list_releases(connection, run_id=manifest.run_id):
        if known.tags.get(names.CONTENT) == content and not known.is_pruned:
            return known.version
    tags = {
        names.RUN_ID: manifest.run_id,
        names.KIND: manifest.kind,
        names.SNAPSHOT: manifest.snapshot,
        names.CONTENT: content,
    }
    model_id = _logged_before(connection, manifest.run_id, content) or log_package(
        connection,
        folder,
        kind=names.RELEASE,
        name=names.model_name(f"release-{manifest.run_id}"),
        mlflow_run_id=mlflow_run_id,
        step=0,
        params={
            "base": manifest.base,
            "members": ", ".join(f"{member.version}×{member.weight:.3f}" for member in manifest.members),
            "clusters": manifest.clusters.count,
            "pull": manifest.clusters.pull,
            "feedback": manifest.clusters.feedback,
            "num_products": manifest.num_products,
        },
        tags=tags,
    )
    connection.ensure_registered_model(names.RELEASE_MODEL, DESCRIPTION)
    version = connection.register(
        names.RELEASE_MODEL,
        source=f"models:/{model_id}",
        run_id=mlflow_run_id,
        model_id=model_id,
        tags=tags,
        description=f"{len(manifest.members)} members over {manifest.num_products} products: {manifest.chosen_because}",
    )
    return int(version.version)


def report_release(
    connection: Connection,
    release: ReleaseVersion,
    *,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    description: str,
    folder: Path | None,
) -> None:
    """Put what was measured where people look: on the version, on its LoggedModel, and in its run."""
    client = connection.client
    model_id = model_id_of(release.source)
    for key, value in tags.items():
        client.set_model_version_tag(names.RELEASE_MODEL, str(release.version), key, value)
    if description:
        client.update_model_version(names.RELEASE_MODEL, str(release.version), description=description)
    if metrics:
        runs.log_metrics(connection, release.mlflow_run_id, metrics, model_id=model_id)
    if folder is not None:
        with connection.uploading():
            client.log_model_artifacts(model_id, str(folder), "report")
        runs.log_folder(connection, release.mlflow_run_id, folder, f"release-{release.version}")


def list_releases(connection: Connection, *, run_id: str | None = None) -> list[ReleaseVersion]:
    """The releases, oldest first; with `run_id`, those that the run built."""
    where = f"name = '{names.RELEASE_MODEL}'"
    if run_id is not None:
        where += f" and tags.`{names.RUN_ID}` = {names.quoted(run_id)}"
    found = all_pages(lambda token: connection.client.search_model_versions(where, page_token=token))
    return sorted((_record(version) for version in found), key=lambda release: release.version)


def get_release(connection: Connection, version: int) -> ReleaseVersion:
    """One release. Raises RegistryError naming those that exist."""
    from mlflow.exceptions import MlflowException

    try:
        return _record(connection.client.get_model_version(names.RELEASE_MODEL, str(version)))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise RegistryError(f"There is no release {version}.", remedy=what_exists(connection)) from error


def aliases(connection: Connection) -> dict[str, int]:
    """Every alias and the release it names. (A version does not know its aliases in MLflow.)"""
    from mlflow.exceptions import MlflowException

    try:
        model = connection.client.get_registered_model(names.RELEASE_MODEL)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    return {alias: int(version) for alias, version in model.aliases.items()}


def aliased(connection: Connection, alias: str) -> int | None:
    """The release that one alias names. Unlike `aliases` it takes no longer when there are thousands of releases."""
    from mlflow.exceptions import MlflowException

    try:
        return int(connection.client.get_model_version_by_alias(names.RELEASE_MODEL, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no such alias
            return None
        raise


def what_exists(connection: Connection) -> str:
    """The sentence that an error about a wrong name ends with."""
    versions = [release.version for release in list_releases(connection) if not release.is_pruned]
    if not versions:
        return "There are no releases yet: run `enclip retrain`, or the retrain DAG."
    named = ", ".join(f"{alias} ({version})" for alias, version in sorted(aliases(connection).items()))
    shown = ", ".join(map(str, versions[-10:]))
    earlier = f"{len(versions) - 10} earlier ones and " if len(versions) > 10 else ""
    return f"Name one of {earlier}{shown}" + (f", or an alias: {named}." if named else "; no alias is set.")


def fetch_manifest(connection: Connection, source: str, cache: Path) -> bytes:
    """The bytes of a release's manifest, without its other files; kept in the cache."""
    kept = cache / "manifests" / f"{model_id_of(source)}.json"
    if not kept.is_file():
        import mlflow

        model = connection.client.get_logged_model(model_id_of(source))
        with tempfile.TemporaryDirectory() as scratch:
            downloaded = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{model.artifact_location}/artifacts/{names.RELEASE}/{MANIFEST}",
                dst_path=scratch,
                tracking_uri=connection.tracking_uri,
            )
            write_whole(kept, Path(os.fspath(downloaded)).read_bytes())
    return kept.read_bytes()


def _content(manifest: Manifest) -> str:
    """Digest of what a release is; when it was built is no part of it."""
    bare = manifest.model_copy(update={"created_at": ""})
    return hashlib.sha256(bare.model_dump_json().encode()).hexdigest()


def _logged_before(connection: Connection, run_id: str, content: str) -> str | None:
    """A LoggedModel that a crash left without its version."""
    found = connection.client.search_logged_models(
        [connection.experiment_id],
        filter_string=f"tags.`{names.RUN_ID}` = {names.quoted(run_id)} "
        f"and tags.`{names.CONTENT}` = {names.quoted(content)}",
    )
    return whole_model(found)


def _record(version: Any) -> ReleaseVersion:
    return ReleaseVersion(
        version=int(version.version),
        source=version.source,
        mlflow_run_id=version.run_id or "",
        run_id=version.tags.get(names.RUN_ID, ""),
        created_at_ms=int(version.creation_timestamp),
        tags=dict(version.tags),
    )
