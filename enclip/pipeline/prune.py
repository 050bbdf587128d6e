"""Free the disk of what nobody goes back to: old releases, epochs that none of the others has, working files.

Versions stay in the registry with their metrics; what goes is weights, indexes, and what can be made again.
Pictures, snapshots and the records of runs stay: releases and reports refer to them.
"""

import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from enclip.blobs import TEMPORARY, Blobs, writing
from enclip.errors import RegistryError
from enclip.ledger import YEAR_DAYS, unsurpassed_since
from enclip.pipeline.platform import Platform
from enclip.pipeline.promote import aliases_held
from enclip.pipeline.runs import ChoiceStep, Plan, RunFolder, StudentStep, is_run_id
from enclip.pipeline.shards import snapshot_part
from enclip.recipes import Retention
from enclip.registry import EPOCH_MODEL, LINKED, RELEASE_MODEL, Registry, StoredVersion
from enclip.release import Member

Kind = Literal["releases", "epochs", "embeddings", "working files"]
KINDS: dict[Kind, str] = {
    "releases": "their indexes; manifests, metrics and reports stay",
    "epochs": "their weights; metrics stay",
    "embeddings": "and students, between the steps of runs that have ended",
    "working files": "of this machine",
}
MARKED_AT_ONCE = 20  # releases, while no alias may move and nobody else writes to an embedded database
# What a run leaves for its own later steps: in the blob store, and in scratch where it trained.
_BLOBS = ("embeddings/", "names/", "colours/", "students/")
_SCRATCH = (
    *("training/*", "releases/*", "soups/*", "students/*", "pixels/*"),
    *(f"registry/*/{TEMPORARY}*", f"registry/{LINKED}/*"),
)


@dataclass(frozen=True, slots=True)
class Prunable:
    """Something that takes room and can go."""

    kind: Kind
    num_bytes: int
    remove: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Pruning:
    """What goes, and the releases that keep their files."""

    kept: tuple[int, ...]
    prunables: tuple[Prunable, ...]

    def summary(self) -> dict[str, Any]:
        """`{"kept_releases": [1, 2], "pruned": {"epochs": {"count": 3, "mb": 75.2}, …}}`."""
        sizes = {kind: [found.num_bytes for found in self.prunables if found.kind == kind] for kind in KINDS}
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

    A release keeps its files where an alias or a run of late names it, where it is young or among the newest, or where
    gates compare with it, as the year's best, or will. An epoch keeps its weights where it is young, where such a
    release or a run of late has it, be it in a soup, or where an epoch that is kept is a delta of it. Releases are
    marked while no promotion moves an alias.

    Raises:
        RegistryError: the registry does not answer, keeps files that it was told to delete, or has lost a release that
            an alias names; or the manifest of a release that is kept cannot be read. StoreError: the same of blobs.
    """
    registry = platform.registry
    since = (now or datetime.now(UTC)) - timedelta(days=retention.keep_days)
    releases, epochs = registry.stored_versions(RELEASE_MODEL), registry.stored_versions(EPOCH_MODEL)
    runs = _runs_since(platform.blobs, since)
    gone = {release.version for release in releases if release.is_pruned}
    for start in range(0, len(releases), MARKED_AT_ONCE):
        with nullcontext() if dry_run else aliases_held(platform):
            wanted = _kept_releases(platform, releases, retention, since, runs)
            for release in releases[start : start + MARKED_AT_ONCE]:
                if release.version not in wanted | gone:
                    gone.add(release.version)
                    if not dry_run:
                        registry.mark_pruned(release)
    old = [release for release in releases if release.version in gone]
    kept = {release.version for release in releases} - gone
    used = _used_epochs(registry, kept, runs)
    needed = [epoch for epoch in epochs if epoch.version in used or epoch.created_at >= since]
    used |= _known(*(epoch.delta_of for epoch in needed if not epoch.is_pruned))
    unused = [epoch for epoch in epochs if epoch.version not in used and epoch.created_at < since]
    files = [
        *(_files_of(registry, "releases", release) for release in old if not release.is_freed),
        *(_files_of(registry, "epochs", epoch) for epoch in unused if not epoch.is_freed),
        *(_path(path) for path in map(registry.download_of, (*old, *unused)) if path.is_dir()),
        *_stale_paths(platform.scratch, since),
    ]
    # Looked at last and deleted first: a run that is planned meanwhile may find an old one's, and count on them.
    blobs = _stale_blobs(platform.blobs, since, _runs_since(platform.blobs, since))
    pruning = Pruning(kept=tuple(sorted(kept)), prunables=(*blobs, *files))
    if not dry_run:
        for done, found in enumerate(pruning.prunables, start=1):
            found.remove()
            if on_progress is not None:
                on_progress(done, len(pruning.prunables))
    return pruning


@dataclass(frozen=True, slots=True)
class _Run:
    """What a run of late may still read."""

    plan: Plan
    choice: ChoiceStep | None
    student: StudentStep | None

    @property
    def releases(self) -> set[int]:
        return _known(self.plan.parent_release, self.plan.built_from)

    @property
    def epochs(self) -> set[int]:
        members: list[Member] = []
        if self.choice is not None:
            members = [*self.choice.members, *([self.choice.base] if self.choice.base else [])]
        return _versions_of(members) | _known(self.plan.base_version)

    def reads(self, key: str) -> bool:
        """Whether a blob is of its snapshot, or its student."""
        student = self.student.key if self.student is not None else ""
        return snapshot_part(self.plan.snapshot) in key or bool(student and key.startswith(f"{student}/"))


def _runs_since(blobs: Blobs, since: datetime) -> list[_Run]:
    """The runs that have written a record since then."""
    names = {blob.key.split("/")[1] for blob in blobs.listing("runs/") if blob.written_at >= since}
    folders = [RunFolder(blobs, name) for name in sorted(names) if is_run_id(name)]
    return [
        _Run(plan, folder.find("choose", ChoiceStep), folder.find("distil", StudentStep))
        for folder in folders
        if (plan := folder.find("plan", Plan)) is not None
    ]


def _kept_releases(
    platform: Platform, releases: Sequence[StoredVersion], retention: Retention, since: datetime, runs: Sequence[_Run]
) -> set[int]:
    """The releases that keep their files; none that has lost them already."""
    aliases = platform.registry.aliases()
    there = {release.version for release in releases}
    for name, version in aliases.items():
        if version not in there:
            raise RegistryError(
                f"The alias {name} names release {version}, whose model was deleted in MLflow; nothing is pruned.",
                remedy="Restore it there, or move the alias.",
            )
    whole = [release for release in releases if not release.is_pruned]
    wanted = {release.version for release in whole[-retention.keep_releases :]}
    wanted |= {release.version for release in whole if release.created_at >= since}
    wanted |= set(aliases.values()).union(*(run.releases for run in runs))
    versions = {release.version for release in whole}
    return versions & {*wanted, *unsurpassed_since(platform.database, days=YEAR_DAYS, among=versions)}


def _used_epochs(registry: Registry, releases: Collection[int], runs: Sequence[_Run]) -> set[int]:
    """Versions of `enclip-epoch` that these releases and runs refer to."""
    used = set[int]().union(*(run.epochs for run in runs))
    for release in releases:
        manifest = registry.release_manifest(release)
        used |= _versions_of(manifest.members) | _known(manifest.base_version)
    return used


def _known(*versions: int | None) -> set[int]:
    return {version for version in versions if version is not None}


def _versions_of(members: Sequence[Member]) -> set[int]:
    """Members, and what soups are made of."""
    return {member.version for member in members} | {part.version for member in members for part in member.checkpoints}


def _files_of(registry: Registry, kind: Kind, version: StoredVersion) -> Prunable:
    return Prunable(kind, registry.num_bytes(version), partial(registry.free, version))


def _stale_blobs(blobs: Blobs, since: datetime, runs: Sequence[_Run]) -> Iterator[Prunable]:
    """Embeddings and students that were made long ago and that no run of late may read."""
    for prefix in _BLOBS:
        for blob in blobs.listing(prefix):
            if blob.written_at < since and not any(run.reads(blob.key) for run in runs):
                yield Prunable("embeddings", blob.num_bytes, partial(blobs.delete, blob.key))


def _stale_paths(scratch: Path, since: datetime) -> Iterator[Prunable]:
    """Working files that were not written to for long, and what killed processes left."""
    for pattern in _SCRATCH:
        for path in sorted(scratch.glob(pattern)):
            if max((found.st_mtime for found in _stats(path)), default=since.timestamp()) < since.timestamp():
                yield _path(path)


def _path(path: Path) -> Prunable:
    return Prunable("working files", sum(found.st_size for found in _stats(path)), partial(_remove, path))


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or of a folder and all in it; what vanishes meanwhile is left out."""
    with suppress(FileNotFoundError):
        yield path.lstat()
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                yield Path(folder, name).lstat()


def _remove(path: Path) -> None:
    """Remove a file or folder, whole or not at all for who looks at it meanwhile."""
    with (
        writing(path),
        tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as going,
        suppress(FileNotFoundError),
    ):
        path.rename(Path(going) / path.name)
