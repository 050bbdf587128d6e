"""Old versions give up their files and stay: metrics, tags, reports and manifests are kept (D2).

A version is marked first and freed then, so that nobody relies on what is about to go, and what a crash
left half done is found and finished.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from enclip.errors import RegistryError
from enclip.registry import names
from enclip.registry.connection import Connection, all_pages
from enclip.registry.epochs import MODEL_FILE
from enclip.registry.packages import model_id_of
from enclip.release import MANIFEST

FOLDERS = {names.EPOCH_MODEL: names.CHECKPOINT, names.RELEASE_MODEL: names.RELEASE}
KEPT = (MODEL_FILE, MANIFEST)  # small, and what a version is


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version of `enclip-epoch` or `enclip`, and what became of its files."""

    model: str
    version: int
    source: str
    location: str
    created_at: datetime
    is_pruned: bool  # its files go, or have gone: nobody may rely on them
    is_freed: bool  # they have gone, all of them
    delta_of: int | None = None  # the version without whose files its own are of no use

    @property
    def folder(self) -> str:
        """Where its files lie in the LoggedModel's artifacts, and in a cache."""
        return FOLDERS[self.model]


def stored_versions(connection: Connection, model: str) -> list[StoredVersion]:
    """All versions of a registered model, oldest first; none whose LoggedModel somebody has deleted."""
    found = all_pages(lambda token: connection.client.search_model_versions(f"name = '{model}'", page_token=token))
    models = all_pages(
        lambda token: connection.client.search_logged_models([connection.experiment_id], page_token=token)
    )
    locations = {f"models:/{logged.model_id}": logged.artifact_location for logged in models}
    versions = [
        StoredVersion(
            model=model,
            version=int(version.version),
            source=version.source,
            location=locations[version.source],
            created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
            is_pruned=names.PRUNED in version.tags,
            is_freed=names.FREED in version.tags,
            delta_of=int(version.tags[names.DELTA_OF]) if names.DELTA_OF in version.tags else None,
        )
        for version in found
        if version.source in locations
    ]
    return sorted(versions, key=lambda version: version.version)


def mark(connection: Connection, version: StoredVersion) -> None:
    """Say that a version's files go."""
    connection.client.set_model_version_tag(version.model, str(version.version), names.PRUNED, _now())


def num_bytes(connection: Connection, version: StoredVersion) -> int:
    """What freeing a version would give back."""
    return sum(file.file_size or 0 for file in _files(_repository(connection, version), _root(version)))


def free(connection: Connection, version: StoredVersion) -> None:
    """Mark a version, also where those look who fetch it, and delete its files. Again: harmless.

    Raises:
        RegistryError: the store kept some of them.
    """
    if not version.is_pruned:
        mark(connection, version)
    connection.client.set_logged_model_tags(model_id_of(version.source), {names.PRUNED: _now()})
    repository = _repository(connection, version)
    for file in list(_files(repository, _root(version))):
        repository.delete_artifacts(file.path)
    # S3 answers 200 to a deletion that it refuses, and MLflow does not look further.
    if left := [file.path for file in _files(repository, _root(version))]:
        raise RegistryError(
            f"{len(left)} files of {version.model} {version.version} are still there, such as {left[0]}.",
            remedy="Let MLflow's store delete files, and run again.",
        )
    connection.client.set_model_version_tag(version.model, str(version.version), names.FREED, _now())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _root(version: StoredVersion) -> str:
    return f"artifacts/{version.folder}"


def _repository(connection: Connection, version: StoredVersion) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(version.location, tracking_uri=connection.tracking_uri)


def _files(repository: Any, folder: str) -> Iterator[Any]:
    """Every file below a folder but those that are kept."""
    for entry in repository.list_artifacts(folder):
        if entry.is_dir:
            yield from _files(repository, entry.path)
        elif entry.path.rsplit("/", 1)[-1] not in KEPT:
            yield entry
