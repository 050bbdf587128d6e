"""Old versions give up their files and stay: metrics, tags, reports and manifests are kept (D2).

A version is marked first and freed then, so that nobody relies on what is about to go, and what a crash
left half done is found and finished.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from enclip.registry import names
from enclip.registry.connection import Connection
from enclip.registry.epochs import MODEL_FILE, _all_pages
from enclip.registry.packages import model_id_of
from enclip.release import MANIFEST

KINDS = {names.EPOCH_MODEL: names.CHECKPOINT, names.RELEASE_MODEL: names.RELEASE}
KEPT = (MODEL_FILE, MANIFEST)  # small, and what a version is


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version of `enclip-epoch` or `enclip`, and what became of its files."""

    model: str
    version: int
    source: str
    location: str
    created_at: datetime
    pruned_at: str  # "" while its files are there
    is_freed: bool  # they have gone, all of them

    @property
    def kind(self) -> str:
        """The folder of its files: "checkpoint" or "release"."""
        return KINDS[self.model]


def stored_versions(connection: Connection, model: str) -> list[StoredVersion]:
    """All versions of a registered model, oldest first; none whose LoggedModel somebody has deleted."""
    found = _all_pages(lambda token: connection.client.search_model_versions(f"name = '{model}'", page_token=token))
    models = _all_pages(
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
            pruned_at=version.tags.get(names.PRUNED, ""),
            is_freed=names.FREED in version.tags,
        )
        for version in found
        if version.source in locations
    ]
    return sorted(versions, key=lambda version: version.version)


def mark(connection: Connection, version: StoredVersion, at: str) -> None:
    """Say that a version's files go: from now on nobody gets them."""
    connection.client.set_logged_model_tags(model_id_of(version.source), {names.PRUNED: at})
    connection.client.set_model_version_tag(version.model, str(version.version), names.PRUNED, at)


def num_bytes(connection: Connection, version: StoredVersion) -> int:
    """What freeing a version would give back."""
    repository = _repository(connection, version)
    return sum(file.file_size or 0 for file in _files(repository, f"artifacts/{version.kind}"))


def free(connection: Connection, version: StoredVersion) -> None:
    """Delete a version's files. Again: harmless."""
    repository = _repository(connection, version)
    freed = 0
    for file in _files(repository, f"artifacts/{version.kind}"):
        repository.delete_artifacts(file.path)
        freed += file.file_size or 0
    connection.client.set_model_version_tag(version.model, str(version.version), names.FREED, f"{freed / 1e6:.1f}")


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
