"""Pruning: on real registries, what nobody goes back to loses its files, and nothing else does."""

import json
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from sqlalchemy import update
from typer.testing import CliRunner

from enclip.cli import app
from enclip.errors import RegistryError, ReleaseError
from enclip.ledger import Promotion, PromotionRow
from enclip.pipeline.members import member_of
from enclip.pipeline.platform import Platform
from enclip.pipeline.promote import previous_release, promote, promote_by_hand, set_challenger
from enclip.pipeline.prune import prune
from enclip.pipeline.runs import ChoiceStep, Origin, Plan, RunFolder, remember_last
from enclip.recipes import Retention, RetrainRecipe
from enclip.registry import CHAMPION, EPOCH_MODEL, RELEASE_MODEL, StoredVersion
from enclip.release import Ingredient, Manifest, read_manifest, write_manifest
from tests.integration.faults.world import copy_home, open_home

MakeRelease = Callable[..., tuple[str, Manifest]]
MakeCheckpoint = Callable[..., Path]
SOON = datetime.now(UTC) + timedelta(days=60)
# Release 3 is champion, 2 was before, 1 had the best mAP@10, 4 is the challenger; nobody needs 5, and 6 is the newest.
FIGURES = {1: "0.42", 2: "0.31", 3: "0.30"}
CHALLENGER, UNUSED, NEWEST = 4, 5, 6


def fill(platform: Platform, folder: Path, make_release: MakeRelease) -> None:
    """Six releases, each over an epoch of its own; what the newest has is a soup of an epoch that no other has."""
    registry = platform.registry
    for version in range(1, 7):
        release = folder / f"release-{version}"
        run, manifest = make_release(release, registry, run_id=f"run-{version}", ensemble=f"ensemble {version}")
        if version == NEWEST:
            run, other = make_release(folder / "other", registry, run_id="other", ensemble="only in the soup")
            part = other.members[0]
            soup = manifest.members[0].model_copy(
                update={"ingredients": (Ingredient(version=part.version, instance=0, epoch=1, weight=1.0),)}
            )
            manifest = write_manifest(release, manifest.model_copy(update={"members": (soup,)}))
        assert registry.log_release(run, release, manifest) == version
        if version in FIGURES:
            registry.report_release(version, tags={"map_at_10": FIGURES[version]})
            promote(platform, version, expected_champion=registry.alias(CHAMPION), by="test", reason="")
    set_challenger(platform, CHALLENGER)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, make_release: MakeRelease) -> Path:
    root = tmp_path_factory.mktemp("prune")
    platform = open_home(root / "home")
    fill(platform, root / "releases", make_release)
    platform.database.dispose()
    return root / "home"


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return copy_home(template, tmp_path / "home")


@pytest.fixture
def platform(home: Path) -> Platform:
    return open_home(home)


def have_files(platform: Platform, model: str) -> set[int]:
    """The versions whose files lie where they were logged."""
    name = {EPOCH_MODEL: "weights.safetensors", RELEASE_MODEL: "embeddings.npy"}[model]
    return {
        version.version
        for version in platform.registry.stored_versions(model)
        if (Path(version.location.removeprefix("file://")) / "artifacts" / version.folder / name).exists()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".db-shm"}


def a_plan(run_id: str, snapshot: str) -> Plan:
    return Plan(
        run_id=run_id,
        kind="retrain",
        snapshot=snapshot,
        num_products=3,
        recipe=RetrainRecipe(),
        parent_release=None,
        mlflow_run_id="m",
        origin=Origin(),
    )


def delete_model(platform: Platform, release: int) -> None:
    source = platform.registry.release(release).source
    platform.registry._connection.client.delete_logged_model(source.removeprefix("models:/"))


@pytest.mark.parametrize(
    ("days", "keep_releases", "kept"),
    [(0, 1, {1, 2, 3, 4, 5, 6}), (60, 2, {1, 2, 3, 4, 5, 6}), (60, 1, {1, 2, 3, 4, 6})],
    ids=["all are young", "the two newest, what has an alias, and the best", "the newest alone beside them"],
)
def test_what_keeps_its_files(platform: Platform, days: int, keep_releases: int, kept: set[int]) -> None:
    done = prune(platform, Retention(keep_releases=keep_releases), now=datetime.now(UTC) + timedelta(days=days))
    assert set(done.kept) == kept
    assert have_files(platform, RELEASE_MODEL) == kept
    assert have_files(platform, EPOCH_MODEL) == (set(range(1, 8)) if UNUSED in kept else set(range(1, 8)) - {UNUSED})


def test_the_best_release_is_kept_for_a_year(platform: Platform) -> None:
    with platform.database.begin() as connection:
        connection.execute(update(PromotionRow).values(at=datetime.now(UTC) - timedelta(days=366)))
    assert prune(platform, Retention(keep_releases=1), now=SOON).kept == (2, 3, 4, 6)


def test_what_is_pruned_says_so_and_keeps_its_figures(platform: Platform) -> None:
    registry = platform.registry
    manifest = registry.release_manifest(UNUSED)
    member = manifest.members[0]
    prune(platform, Retention(keep_releases=1), now=SOON)

    again = open_home(platform.settings.home).registry
    assert again.release_manifest(UNUSED) == manifest
    assert again.epoch(member.version).metrics["val_map_at_10"] == 0.3
    assert UNUSED not in {release.version for release in again.releases()}
    for fetch, source in ((again.fetch_release, UNUSED), (again.fetch_epoch, member.source)):
        with pytest.raises(ReleaseError, match="were pruned on 20"):
            fetch(source)
    with pytest.raises(RegistryError, match="Name one of 1, 2, 3, 4, 6, or an alias"):
        again.resolve(99)


def test_it_cannot_become_champion(platform: Platform) -> None:
    prune(platform, Retention(keep_releases=1), now=SOON)
    with pytest.raises(RegistryError, match="were pruned"):
        promote_by_hand(platform, UNUSED)
    assert platform.registry.alias(CHAMPION) == 3
    promote_by_hand(platform, 4)  # and the next move is as if it had not been tried
    assert platform.registry.alias(CHAMPION) == 4


def test_while_releases_are_marked_nobody_is_promoted(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = platform.registry
    mark = registry.mark_pruned

    def promoted_meanwhile(version: StoredVersion) -> None:
        promotion = pool.submit(promote_by_hand, open_home(platform.settings.home), UNUSED)
        promotions.append(promotion)
        with pytest.raises(TimeoutError):
            promotion.result(1.0)
        mark(version)

    promotions: list[Future[Promotion]] = []
    monkeypatch.setattr(registry, "mark_pruned", promoted_meanwhile)
    with ThreadPoolExecutor(1) as pool:
        prune(platform, Retention(keep_releases=1), now=SOON)
        (promotion,) = promotions
        with pytest.raises(RegistryError, match="were pruned"):
            promotion.result(30)
    assert registry.alias(CHAMPION) == 3


def test_where_somebody_moved_the_alias_in_mlflow_the_champion_before_is_kept(platform: Platform) -> None:
    with platform.database.begin() as connection:
        connection.execute(update(PromotionRow).values(map_at_10=None))  # the alias alone says what to keep
    platform.registry.set_alias(CHAMPION, CHALLENGER)
    assert prune(platform, Retention(keep_releases=1), now=SOON).kept == (3, 4, 6)
    assert previous_release(platform) == 3


def test_those_that_will_be_the_years_best_are_kept(platform: Platform) -> None:
    with platform.database.begin() as connection:
        for release, figure in ((1, 0.3), (2, 0.5), (3, 0.4)):
            move = update(PromotionRow).where(PromotionRow.to_release == release)
            connection.execute(move.values(map_at_10=figure))
    promote_by_hand(platform, NEWEST)
    promote_by_hand(platform, CHALLENGER)
    assert prune(platform, Retention(keep_releases=1), now=SOON).kept == (2, 3, 4, 6)


def test_a_run_of_late_keeps_what_it_was_planned_with(platform: Platform, make_checkpoint: MakeCheckpoint) -> None:
    registry = platform.registry
    member = registry.release_manifest(1).members[0]
    run = registry.open_run("long", kind="retrain", params={})
    folder = make_checkpoint(platform.settings.home / "base", "base")
    base = registry.log_epoch(run, folder, instance=0, epoch=0, metrics={}, snapshot="5" * 64, num_products=20)
    plan = a_plan("long", "5" * 64).model_copy(update={"parent_release": UNUSED, "base_version": base.version})
    RunFolder(platform.blobs, "long").write("plan", plan)
    choice = ChoiceStep(members=(member,), candidates=(), best_member=0, chosen_because="")
    RunFolder(platform.blobs, "long").write("choose", choice)
    _make_older(platform, days=90)
    remember_last(platform.blobs, "lately")  # a file beside the runs, which is none
    assert UNUSED in prune(platform, Retention(keep_releases=1)).kept
    assert have_files(platform, EPOCH_MODEL) == set(range(1, 9))

    for path in (platform.settings.home / "store" / "runs").rglob("*"):
        os.utime(path, (0, 0))
    assert UNUSED not in prune(platform, Retention(keep_releases=1)).kept
    assert base.version not in have_files(platform, EPOCH_MODEL)


def test_a_delta_that_is_kept_keeps_its_base(platform: Platform, make_checkpoint: MakeCheckpoint) -> None:
    """Epochs 0 to 2 of one training, of which a run of late has chosen the last; then nobody needs any of them."""
    registry = platform.registry
    run = registry.open_run("deltas", kind="retrain", params={})
    home = platform.settings.home
    base = make_checkpoint(home / "base", "base")
    folders = [base, *(make_checkpoint(home / str(epoch), f"delta {epoch}", base) for epoch in (1, 2))]
    whole, unused, chosen = (
        registry.log_epoch(run, folder, instance=0, epoch=epoch, metrics={}, snapshot="5" * 64, num_products=20)
        for epoch, folder in enumerate(folders)
    )
    RunFolder(platform.blobs, "deltas").write("plan", a_plan("deltas", "5" * 64))
    choice = ChoiceStep(members=(member_of(chosen, 8),), candidates=(), best_member=0, chosen_because="")
    RunFolder(platform.blobs, "deltas").write("choose", choice)
    linked = registry.fetch_epoch(chosen.source)
    _make_older(platform, days=90)
    prune(platform, Retention(keep_releases=1))
    assert have_files(platform, EPOCH_MODEL) >= {whole.version, chosen.version}
    assert unused.version not in have_files(platform, EPOCH_MODEL)
    assert (open_home(home).registry.fetch_epoch(chosen.source) / "base").is_dir()

    for path in (home / "store" / "runs").rglob("*"):
        os.utime(path, (0, 0))
    for path in (linked, *linked.iterdir()):
        os.utime(path, (0, 0), follow_symlinks=False)
    prune(platform, Retention(keep_releases=1))
    assert not have_files(platform, EPOCH_MODEL) & {whole.version, unused.version, chosen.version}
    assert not linked.exists()


def test_a_young_delta_keeps_an_old_base(platform: Platform, make_checkpoint: MakeCheckpoint) -> None:
    registry = platform.registry
    run = registry.open_run("slow", kind="retrain", params={})
    folder = make_checkpoint(platform.settings.home / "base", "base")
    base = registry.log_epoch(run, folder, instance=0, epoch=0, metrics={}, snapshot="5" * 64, num_products=20)
    _make_older(platform, days=90)
    delta = make_checkpoint(platform.settings.home / "delta", "delta", folder)
    epoch = registry.log_epoch(run, delta, instance=0, epoch=1, metrics={}, snapshot="5" * 64, num_products=20)
    prune(platform, Retention(keep_releases=1))
    assert have_files(platform, EPOCH_MODEL) >= {base.version, epoch.version}


def test_what_was_pruned_is_registered_anew_when_it_is_made_again(
    platform: Platform, template: Path, make_checkpoint: MakeCheckpoint
) -> None:
    prune(platform, Retention(keep_releases=1), now=SOON)
    registry = platform.registry
    run = registry.open_run(f"run-{UNUSED}", kind="retrain", params={})
    folder = template.parent / "releases" / f"release-{UNUSED}"
    manifest = read_manifest(folder)
    release = registry.log_release(run, folder, manifest)
    assert release == NEWEST + 1
    assert registry.fetch_release(release).is_dir()

    weights = make_checkpoint(platform.settings.home / "again", f"ensemble {UNUSED}")
    epoch = registry.log_epoch(run, weights, instance=0, epoch=1, metrics={}, snapshot="5" * 64, num_products=20)
    assert epoch.version != manifest.members[0].version
    assert (registry.fetch_epoch(epoch.source) / "weights.safetensors").is_file()


def test_a_store_that_keeps_files_is_no_success(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """As S3 does where deleting is forbidden: it answers 200."""
    with monkeypatch.context() as stubborn:
        stubborn.setattr(LocalArtifactRepository, "delete_artifacts", lambda *_: None)
        with pytest.raises(RegistryError, match="still there, such as"):
            prune(platform, Retention(keep_releases=1), now=SOON)
    assert prune(platform, Retention(keep_releases=1), now=SOON).summary()["pruned"]["releases"]["count"] == 1
    assert UNUSED not in have_files(platform, RELEASE_MODEL)


def test_a_version_whose_model_somebody_deleted_is_passed_over(platform: Platform) -> None:
    delete_model(platform, UNUSED)
    prune(platform, Retention(keep_releases=1), now=SOON)
    assert UNUSED not in have_files(platform, EPOCH_MODEL)  # its member, which no other release has


def test_nothing_is_pruned_where_the_champions_model_was_deleted(platform: Platform) -> None:
    delete_model(platform, 3)
    with pytest.raises(RegistryError, match="The alias champion names release 3, whose model was deleted"):
        prune(platform, Retention(keep_releases=1), now=SOON)
    assert have_files(platform, EPOCH_MODEL) == set(range(1, 8))


def test_what_runs_left_goes_when_no_run_of_late_has_it(platform: Platform) -> None:
    old, young = (datetime.now(UTC) - timedelta(days=days) for days in (40, 20))
    blobs, scratch = platform.blobs, platform.scratch
    snapshots = {"late": "a" * 64, "gone": "b" * 64}
    for run_id, snapshot in snapshots.items():
        RunFolder(blobs, run_id).write("plan", a_plan(run_id, snapshot))
        blobs.put(f"embeddings/{'c' * 24}/{snapshot[:24]}-s64/0-of-1.npy", b"12345")
    blobs.put("students/new/weights.safetensors", b"new")
    blobs.put("images/aa", b"picture")
    for path in (platform.settings.home / "store").rglob("*"):
        when = young if "/late/" in str(path) or "/new/" in str(path) else old
        os.utime(path, (when.timestamp(), when.timestamp()))
    for name, when in (("old", old), ("young", young)):
        folder = scratch / "training" / name
        folder.mkdir(parents=True)
        (folder / "state.pt").write_bytes(b"123")
        for path in (folder / "state.pt", folder):
            os.utime(path, (when.timestamp(), when.timestamp()))
    (scratch / "studies").mkdir()

    done = prune(platform, Retention())

    assert [blob.key for blob in blobs.listing("embeddings/")] == [f"embeddings/{'c' * 24}/{'a' * 24}-s64/0-of-1.npy"]
    assert len(list(blobs.listing("students/"))) == len(list(blobs.listing("images/"))) == 1
    assert [path.name for path in (scratch / "training").iterdir()] == ["young"]
    assert (scratch / "studies").is_dir()
    counts = {kind: part["count"] for kind, part in done.summary()["pruned"].items()}
    assert counts == {"releases": 0, "epochs": 0, "embeddings": 1, "working files": 1}


def test_the_command_says_what_would_go_and_deletes_only_when_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLIP_HOME", str(home))
    _make_older(open_home(home), days=90)
    before = contents(home / "mlartifacts")
    shown = CliRunner().invoke(app, ["prune", "--keep-releases", "1"])
    assert shown.exit_code == 0, shown.output
    assert "Would be freed" in shown.output and "add --yes" in shown.output
    would = json.loads(CliRunner().invoke(app, ["prune", "--keep-releases", "1", "--json"]).stdout)
    assert contents(home / "mlartifacts") == before

    done = json.loads(CliRunner().invoke(app, ["prune", "--keep-releases", "1", "--json", "--yes"]).stdout)
    assert done == {**would, "deleted": True}
    gone = before.keys() - contents(home / "mlartifacts").keys()
    assert done["pruned"]["releases"]["count"] == done["pruned"]["epochs"]["count"] == 1
    freed = sum(len(before[path]) for path in gone)
    assert freed / 1e6 == pytest.approx(sum(part["mb"] for part in done["pruned"].values()), abs=0.2)
    assert {Path(path).name for path in gone} == {"weights.safetensors", "embeddings.npy"}

    again = json.loads(CliRunner().invoke(app, ["prune", "--keep-releases", "1", "--json", "--yes"]).stdout)
    assert not any(part["count"] for part in again["pruned"].values())


def _make_older(platform: Platform, *, days: int) -> None:
    """Set MLflow's clock back for what is there."""
    from sqlalchemy import create_engine, text

    engine = create_engine(f"sqlite:///{platform.settings.home}/mlflow.db")
    with engine.begin() as connection:
        shift = {"ms": days * 86_400_000}
        connection.execute(text("UPDATE model_versions SET creation_time = creation_time - :ms"), shift)
    engine.dispose()


@pytest.mark.parametrize(("option", "value"), [("--keep-days", "3"), ("--keep-releases", "0")])
def test_too_little_is_refused_by_name(home: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str) -> None:
    monkeypatch.setenv("ENCLIP_HOME", str(home))
    result = CliRunner().invoke(app, ["prune", option, value])
    assert result.exit_code
    assert option in str(result.exception)


def test_through_a_server_files_and_downloads_go(mlflow_server: str, tmp_path: Path, make_release: MakeRelease) -> None:
    """As compose runs it: a server keeps the artifacts, and each machine has a cache of its own."""
    first, second = (open_home(tmp_path / name, MLFLOW_TRACKING_URI=mlflow_server) for name in ("first", "second"))
    run, manifest = make_release(tmp_path / "release", first.registry, run_id="served", ensemble="served")
    old = first.registry.log_release(run, tmp_path / "release", manifest)
    (tmp_path / "release" / "embeddings.npy").write_bytes(b"n" * 9)
    new = first.registry.log_release(run, tmp_path / "release", write_manifest(tmp_path / "release", manifest))
    caches = [platform.registry.fetch_release(version) for platform in (first, second) for version in (old, new)]

    prune(first, Retention(keep_releases=1), now=SOON)
    assert [cache.is_dir() for cache in caches] == [False, True, True, True]
    prune(second, Retention(keep_releases=1), now=SOON)
    assert [cache.is_dir() for cache in caches] == [False, True, False, True]
    artifacts = first.registry._connection.client.list_logged_model_artifacts(
        first.registry.release(old).source.removeprefix("models:/"), "artifacts/release"
    )
    assert [entry.path for entry in artifacts] == ["artifacts/release/manifest.json"]
    assert first.registry.fetch_release(new).is_dir()
