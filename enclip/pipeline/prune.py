"""Free the disk of what nobody goes back to: old releases, epochs that none of the others has, working files.

Versions stay in the registry with their metrics; what goes is weights, indexes, and what can be made again.
Pictures, snapshots and the records of runs stay: releases and reports refer to them.
"""

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from enclip import ledger
from enclip.blobs import TEMPORARY, Blobs, writing
from enclip.pipeline.embed import snapshot_part
from enclip.pipeline.evaluate import YEAR_DAYS
from enclip.pipeline.platform import Platform
from enclip.pipeline.promote import LOCK
from enclip.pipeline.runs import VALID_ID, Plan, RunFolder, StudentStep
from enclip.recipes import Retention
from enclip.registry import EPOCH_MODEL, RELEASE_MODEL, Registry, StoredVersion

Kind = Literal["releases", "epochs", "embeddings", "working files"]
KINDS: dict[Kind, str] = {
    "releases": "their indexes; manifests, metrics and reports stay",
    "epochs": "their weights; metrics stay",
    "embeddings": "and students, between the steps of runs that have ended",
    "working files": "of this machine",
}
# What a run leaves for its own later steps: in the blob store, and in scratch where it trained.
_BLOBS = ("embeddings/", "names/", "students/")
_FOLDERS = ("training", "releases", "soups", "students", "pixels")


@dataclass(frozen=True, slots=True)
class Load:
    """Something that takes room on a disk and can go."""

    kind: Kind
    num_bytes: int
    remove: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Pruning:
    """What goes, and the releases that keep their files."""

    kept: tuple[int, ...]
    loads: tuple[Load, ...]

    def summary(self) -> dict[str, Any]:
        """`{"kept_releases": [1, 2], "pruned": {"epochs": {"count": 3, "mb": 75.2}, …}}`."""
        sizes = {kind: [load.num_bytes for load in self.loads if load.kind == kind] for kind in KINDS}
        pruned = {kind: {"count": len(found), "mb": round(sum(found) / 1e6, 1)} for kind, found in sizes.items()}
        return {"kept_releases": list(self.kept), "pruned": pruned}


def prune(
    platform: Platform,
    retention: Retention,
    *,
    dry_run: bool = False,
    now: datetime | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Pruning:
    """Delete what nobody goes back to; with `dry_run`, only say what that is. Killed at any point, run it again.

    A release keeps its files where an alias names it, where it is young or among the newest, or the best of the
    year, which gates compare with; an epoch where it is young or such a release has it, be it in a soup.
    Releases are marked under the lock under which the alias moves, so that none of them becomes champion.

    Raises:
        RegistryError: the registry does not answer, or the manifest of a release that is kept cannot be read.
    """
    registry = platform.registry
    since = (now or datetime.now(UTC)) - timedelta(days=retention.keep_days)
    mark = partial(registry.mark_pruned, at=datetime.now(UTC).isoformat(timespec="seconds"))
    with nullcontext() if dry_run else ledger.locked(platform.database, LOCK):
        releases = registry.stored_versions(RELEASE_MODEL)
        kept = _kept(platform, releases, retention, since)
        old = [release for release in releases if release.version not in kept]
        if not dry_run:
            for release in old:
                if not release.pruned_at:
                    mark(release)
    used = _used_epochs(registry, kept)
    epochs = registry.stored_versions(EPOCH_MODEL)
    unused = [epoch for epoch in epochs if epoch.version not in used and epoch.created_at < since]
    pruning = Pruning(
        kept=tuple(sorted(kept)),
        loads=(
            *(_version_load(registry, "releases", release) for release in old if not release.is_freed),
            *(_version_load(registry, "epochs", epoch) for epoch in unused if not epoch.is_freed),
            *_stale_blobs(platform.blobs, since),
            *(_path_load(path) for path in _stale_paths(platform.scratch, since)),
            *(_path_load(path) for path in map(registry.download_of, (*old, *unused)) if path.is_dir()),
        ),
    )
    if not dry_run:
        for epoch in unused:
            if not epoch.pruned_at:
                mark(epoch)
        for done, load in enumerate(pruning.loads, start=1):
            load.remove()
            if on_progress is not None:
                on_progress(done, len(pruning.loads))
    return pruning


def _kept(platform: Platform, releases: Sequence[StoredVersion], retention: Retention, since: datetime) -> set[int]:
    """The releases that keep their files; none that has lost them already."""
    whole = [release for release in releases if not release.pruned_at]
    versions = {release.version for release in whole}
    kept = {release.version for release in whole[-retention.keep_releases :]}
    kept |= {release.version for release in whole if release.created_at >= since}
    kept |= versions.intersection(platform.registry.aliases().values())
    best = ledger.best_promoted_since(platform.database, days=YEAR_DAYS, among=versions)
    return kept if best is None else kept | {best}


def _used_epochs(registry: Registry, releases: Collection[int]) -> set[int]:
    """Versions of `enclip-epoch` that these releases refer to: members, what soups are made of, the base."""
    used: set[int] = set()
    for release in releases:
        manifest = registry.release_manifest(release)
        used |= {member.version for member in manifest.members}
        used |= {part.version for part in manifest.checkpoints}
        if manifest.base_version is not None:
            used.add(manifest.base_version)
    return used


def _version_load(registry: Registry, kind: Kind, version: StoredVersion) -> Load:
    return Load(kind, registry.num_bytes(version), partial(registry.free, version))


def _stale_blobs(blobs: Blobs, since: datetime) -> Iterator[Load]:
    """Embeddings and students that were made long ago and that no run of late goes on with."""
    late = {blob.key.split("/")[1] for blob in blobs.listing("runs/") if blob.written_at >= since}
    used: set[str] = set()
    for run_id in filter(VALID_ID.fullmatch, late - {"last"}):
        folder = RunFolder(blobs, run_id)
        if plan := folder.find("plan", Plan):
            used.add(snapshot_part(plan.snapshot))
        if (student := folder.find("distil", StudentStep)) and student.key:
            used.add(student.key)
    for prefix in _BLOBS:
        for blob in blobs.listing(prefix):
            if blob.written_at < since and not any(part in blob.key for part in used):
                yield Load("embeddings", blob.num_bytes, partial(blobs.delete, blob.key))


def _stale_paths(scratch: Path, since: datetime) -> Iterator[Path]:
    """Working files that were not written to for long, and what killed processes left."""
    for folder in _FOLDERS:
        for path in sorted((scratch / folder).glob("*")):
            if max((found.lstat().st_mtime for found in _whole(path)), default=0.0) < since.timestamp():
                yield path


def _path_load(path: Path) -> Load:
    size = sum(found.lstat().st_size for found in _whole(path) if found.is_file())
    return Load("working files", size, partial(_remove, path))


def _whole(path: Path) -> Iterator[Path]:
    yield path
    yield from path.rglob("*")


def _remove(path: Path) -> None:
    """Remove a file or folder, whole or not at all for who looks at it meanwhile."""
    with (
        writing(path),
        tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as going,
        suppress(FileNotFoundError),
    ):
        path.rename(Path(going) / path.name)
