"""The registry on a real MLflow (SQLite and a folder), and on a real MLflow server."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Barrier

import pytest

from enclip.errors import RegistryError, ReleaseError, WeightsError
from enclip.pipeline.describe import MOST_CHARS, shortened
from enclip.registry import CHAMPION, Registry
from enclip.registry.runs import log_dataset
from enclip.release import Manifest

SNAPSHOT = sha256(b"snapshot").hexdigest()
# Categories are a shop's free text; MLflow refuses a metric that is no plain path, or is long.
ODD_METRICS = {
    "map_at_10/Tops/": 0.5,
    "map_at_10/../A//B": 0.5,
    f"map_at_10/{'x' * 300}": 0.5,
    f"map_at_10/{'x' * 301}": 0.5,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(home: Path) -> Registry:
    return Registry(f"sqlite:///{home}/mlflow.db", home / "mlartifacts", home / "cache")


def log(registry: Registry, mlflow_run_id: str, folder: Path, *, epoch: int, value: float):
    return registry.log_epoch(
        mlflow_run_id,
        folder,
        instance=0,
        epoch=epoch,
        metrics={"val_map_at_10": value, "map_at_10/Lips & Eyes": 0.5, **ODD_METRICS, "broken": float("nan")},
        snapshot=SNAPSHOT,
        num_products=200,
    )


def test_nothing_is_opened_before_the_first_call(tmp_path: Path) -> None:
    Registry(f"sqlite:///{tmp_path}/new/mlflow.db", tmp_path / "new/art", tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_there_says_how_to_get_one(registry: Registry) -> None:
    assert registry.alias(CHAMPION) is None
    with pytest.raises(RegistryError, match="no releases yet"):
        registry.resolve("champion")


def test_a_run_is_opened_once_and_keeps_its_parameters(registry: Registry) -> None:
    first = registry.open_run("run-a", kind="retrain", params={"epochs": 3}, tags={"dag_id": "retrain"})
    registry.close_run(first, status="FAILED")
    again = registry.open_run("run-a", kind="retrain", params={"epochs": 4, "seed": 1}, tags={"dag_run_id": "m1"})
    assert again == first
    run = registry._connection.client.get_run(first)
    assert run.data.params == {"epochs": "3", "seed": "1"}
    assert (run.data.tags["dag_id"], run.data.tags["dag_run_id"]) == ("retrain", "m1")
    assert run.info.status == "RUNNING"


def test_every_epoch_is_a_model_with_step_metrics_dataset_and_version(
    registry: Registry, tmp_path: Path, make_checkpoint: Callable[[Path, str], Path]
) -> None:
    run = registry.open_run("run-b", kind="retrain", params={"epochs": 2})
    logged = []
    for epoch in (0, 1):
        folder = make_checkpoint(tmp_path / str(epoch), f"weights {epoch}")
        logged.append(log(registry, run, folder, epoch=epoch, value=0.1 * (epoch + 1)))
    assert [version.epoch for version in registry.epochs("run-b")] == [0, 1]
    assert registry.epochs("run-b")[1].metrics["val_map_at_10"] == pytest.approx(0.2)
    assert registry.epoch(logged[1].version) == registry.epochs("run-b")[1]

    client = registry._connection.client
    model = client.get_logged_model(logged[1].source.removeprefix("models:/"))
    (metric,) = [metric for metric in model.metrics if metric.key == "val_map_at_10"]
    assert (metric.step, metric.dataset_name, metric.dataset_digest) == (1, "catalog", SNAPSHOT[:36])
    keys = {metric.key for metric in model.metrics}
    assert {"map_at_10/Lips _ Eyes", "map_at_10/Tops", "map_at_10/A/B"} <= keys
    assert [len(key) for key in keys if "xxx" in key] == [250, 250]
    assert "broken" not in {metric.key for metric in model.metrics}
    assert client.get_model_version("enclip-epoch", str(logged[1].version)).tags["map_at_10"] == "0.2000"
    (output, *_) = client.get_run(logged[1].mlflow_run_id).outputs.model_outputs
    assert output.step in (0, 1)
    assert client.get_run(logged[1].mlflow_run_id).data.tags["mlflow.parentRunId"] == run

    import mlflow

    packed = mlflow.models.Model.load(str(registry.fetch_epoch(logged[1].source).parent.parent))
    assert packed.signature is not None
    assert packed.saved_input_example_info is not None


def test_a_folder_that_is_no_checkpoint_is_refused(
    registry: Registry, tmp_path: Path, make_checkpoint: Callable[[Path, str], Path]
) -> None:
    run = registry.open_run("run-x", kind="retrain", params={})
    folder = make_checkpoint(tmp_path / "x", "weights x")
    (folder / "model.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"model\.json"):
        log(registry, run, folder, epoch=1, value=0.1)


def test_logging_the_same_epoch_again_makes_no_second_version(
    registry: Registry, tmp_path: Path, make_checkpoint: Callable[[Path, str], Path]
) -> None:
    run = registry.open_run("run-c", kind="retrain", params={})
    folder = make_checkpoint(tmp_path / "c", "weights c")
    first = log(registry, run, folder, epoch=1, value=0.3)
    assert log(registry, run, folder, epoch=1, value=0.3).version == first.version

    # A crash between the LoggedModel and its version: the model is used, not logged again.
    client = registry._connection.client
    client.delete_model_version("enclip-epoch", str(first.version))
    healed = log(registry, run, folder, epoch=1, value=0.3)
    assert (healed.source, healed.version) == (first.source, first.version + 1)

    # Trained again after its task was cleared: other weights, a new version, and the newest counts.
    other = make_checkpoint(tmp_path / "c2", "weights c2")
    newer = log(registry, run, other, epoch=1, value=0.4)
    assert [version.version for version in registry.epochs("run-c")] == [newer.version]


def test_weights_come_back_and_damage_is_noticed(
    registry: Registry, home: Path, tmp_path: Path, make_checkpoint: Callable[[Path, str], Path]
) -> None:
    run = registry.open_run("run-d", kind="retrain", params={})
    folder = make_checkpoint(tmp_path / "d", "weights d")
    epoch = log(registry, run, folder, epoch=1, value=0.3)
    fetched = registry.fetch_epoch(epoch.source)
    assert (fetched / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()
    assert json.loads((fetched / "model.json").read_text())["dim"] == 8

    (fetched / "weights.safetensors").write_bytes(b"other")
    fresh = Registry(registry.tracking_uri, home / "mlartifacts", home / "cache")
    with pytest.raises(WeightsError, match="not what"):
        fresh.fetch_epoch(epoch.source)


def test_a_delta_is_stored_without_its_base_and_fetched_with_it(
    registry: Registry, tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    run = registry.open_run("run-delta", kind="retrain", params={})
    base_folder = make_checkpoint(tmp_path / "0", "base of deltas")
    folder = make_checkpoint(tmp_path / "1", "delta", base_folder)
    with pytest.raises(WeightsError, match=r"only what changed .* run run-delta has none such.*epoch 0"):
        log(registry, run, folder, epoch=1, value=0.2)
    base = log(registry, run, base_folder, epoch=0, value=0.1)
    epoch = log(registry, run, folder, epoch=1, value=0.2)
    assert log(registry, run, folder, epoch=1, value=0.2).version == epoch.version

    client = registry._connection.client
    stored = client.get_logged_model(epoch.source.removeprefix("models:/"))
    package = Path(stored.artifact_location.removeprefix("file://")) / "artifacts" / "checkpoint"
    assert sorted(path.name for path in package.iterdir()) == ["model.json", "weights.safetensors"]
    for tags in (stored.tags, client.get_model_version("enclip-epoch", str(epoch.version)).tags):
        assert tags["enclip.delta_of"] == str(base.version)
    assert "enclip.delta_of" not in client.get_model_version("enclip-epoch", str(base.version)).tags

    fetched = registry.fetch_epoch(epoch.source)
    for name in ("weights.safetensors", "model.json"):
        assert (fetched / name).read_bytes() == (folder / name).read_bytes()
        assert (fetched / "base" / name).read_bytes() == (base_folder / name).read_bytes()
    assert registry.fetch_epoch(epoch.source) == fetched
    assert sorted(path.name for path in fetched.iterdir()) == ["base", "model.json", "weights.safetensors"]
    assert registry.with_base(fetched) == fetched
    assert registry.fetch_epoch(base.source) == registry.with_base(registry.fetch_epoch(base.source))
    assert sorted(path.name for path in package.iterdir()) == ["model.json", "weights.safetensors"]


def test_a_delta_whose_base_is_damaged_or_gone_is_refused(
    registry: Registry, home: Path, tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    run = registry.open_run("run-orphan", kind="retrain", params={})
    base_folder = make_checkpoint(tmp_path / "0", "base to lose")
    base = log(registry, run, base_folder, epoch=0, value=0.1)
    epoch = log(registry, run, make_checkpoint(tmp_path / "1", "orphan", base_folder), epoch=1, value=0.2)
    weights = registry.fetch_epoch(base.source) / "weights.safetensors"
    weights.write_bytes(b"other")
    fresh = Registry(registry.tracking_uri, home / "mlartifacts", home / "cache")
    with pytest.raises(WeightsError, match="not what"):
        fresh.fetch_epoch(epoch.source)
    (stored,) = [found for found in registry.stored_versions("enclip-epoch") if found.version == base.version]
    registry.free(stored)
    with pytest.raises(WeightsError, match=r"No version of enclip-epoch has the weights .*Restore that epoch 0"):
        fresh.fetch_epoch(epoch.source)

    # Of another run, for a base is the same weights wherever they were logged.
    other = registry.open_run("run-other", kind="retrain", params={})
    again = log(registry, other, base_folder, epoch=0, value=0.1)
    assert (fresh.fetch_epoch(epoch.source) / "base").resolve() == fresh.fetch_epoch(again.source).resolve()


def test_a_release_is_registered_once_reported_on_and_fetched(
    registry: Registry, tmp_path: Path, make_release: Callable[..., tuple[str, Manifest]]
) -> None:
    release_folder = tmp_path / "release"
    run, manifest = make_release(release_folder, registry, run_id="run-e", ensemble="e")
    version = registry.log_release(run, release_folder, manifest)
    later = manifest.model_copy(update={"created_at": "2026-02-02T00:00:00Z"})
    assert registry.log_release(run, release_folder, later) == version
    assert registry.release_manifest(version) == manifest
    assert (registry.fetch_release(version) / "embeddings.npy").read_bytes() == b"eee"

    report = tmp_path / "report"
    report.mkdir()
    (report / "gates.json").write_text("{}")
    for _ in range(2):
        registry.report_release(
            version,
            tags={"map_at_10": "0.3"},
            metrics={"map_at_10": 0.3},
            description="# Hello",
            artifacts=report,
        )
    client = registry._connection.client
    shown = client.get_model_version("enclip", str(version))
    assert (shown.description, shown.tags["map_at_10"]) == ("# Hello", "0.3")
    model = client.get_logged_model(shown.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics} == {"map_at_10": 0.3}
    assert [file.path for file in client.list_artifacts(run, f"release-{version}")] == [f"release-{version}/gates.json"]

    registry.set_alias(CHAMPION, version)
    assert registry.resolve("champion") == registry.resolve(str(version)) == registry.resolve(version) == version
    assert registry.aliases() == {CHAMPION: version}
    with pytest.raises(RegistryError, match=r"champion \(1\)"):
        registry.resolve("winner")
    with pytest.raises(RegistryError, match="no release 99"):
        registry.resolve(99)

    other_folder = tmp_path / "release2"
    run, other = make_release(other_folder, registry, run_id="run-e", ensemble="e", products=4)
    assert registry.log_release(run, other_folder, other) == version + 1
    assert [release.version for release in registry.releases(run_id="run-e")] == [version, version + 1]
    (registry.fetch_release(version + 1) / "embeddings.npy").write_bytes(b"eeee!")
    fresh = Registry(registry.tracking_uri, None, tmp_path / "cache")
    with pytest.raises(ReleaseError, match=r"embeddings\.npy"):
        fresh.fetch_release(version + 1)
    registry.drop_alias(CHAMPION)
    registry.drop_alias(CHAMPION)
    assert registry.aliases() == {}


def test_two_processes_may_open_a_new_registry_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from enclip.registry import Registry; home = Path(sys.argv[1]);"
        "registry = Registry(f'sqlite:///{home}/mlflow.db', home / 'art', home / 'cache');"
        "print(registry.open_run('same', kind='retrain', params={'seed': 1}))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=120)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert answers[0] and len(set(answers)) == 1


def test_an_absent_server_is_named_and_its_password_is_not(tmp_path: Path) -> None:
    registry = Registry("http://ann:secret@127.0.0.1:9", None, tmp_path)
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9") as raised:
        registry.aliases()
    assert "secret" not in str(raised.value)
    assert "MLFLOW_TRACKING_URI" in str(raised.value)


def test_a_description_of_any_length_fits_a_server_s_database(
    postgres_url: str, tmp_path: Path, make_release: Callable[..., tuple[str, Manifest]]
) -> None:
    """SQLite takes any length; Postgres refuses what MLflow's column does not hold."""
    registry = Registry(postgres_url, tmp_path / "mlartifacts", tmp_path / "cache")
    run, manifest = make_release(tmp_path / "release", registry, run_id="run-p", ensemble="p")
    version = registry.log_release(run, tmp_path / "release", manifest)
    rows = "".join(f"| Category {number} | 0.5 | 0.4 | 12 |\n" for number in range(300))
    whole = f"**Promoted**\n\n### Members\n\n| 1 |\n\n### By category\n\n{rows}\n### Gates\n\n| floor | pass |\n"
    told = shortened(whole)

    registry.report_release(version, tags={}, metrics={}, description=told)

    shown = registry._connection.client.get_model_version("enclip", str(version)).description
    assert shown == told
    assert "### Members" in shown and "### Gates" in shown and "### By category" not in shown
    assert "report/description.md" in shown
    assert shortened(told) == told
    assert len(shortened("x" * 20_000)) == MOST_CHARS
    with pytest.raises(RegistryError):
        registry.report_release(version, tags={}, metrics={}, description=whole)


def test_through_a_server_files_are_downloaded_whole_and_once(
    mlflow_server: str,
    tmp_path: Path,
    make_checkpoint: Callable[..., Path],
    make_release: Callable[..., tuple[str, Manifest]],
) -> None:
    registry = Registry(mlflow_server, None, tmp_path / "cache")
    run = registry.open_run("run-s", kind="retrain", params={})
    folder = make_checkpoint(tmp_path / "s", "weights s")
    epoch = log(registry, run, folder, epoch=1, value=0.3)
    assert log(registry, run, folder, epoch=1, value=0.3).version == epoch.version
    delta = log(registry, run, make_checkpoint(tmp_path / "s2", "delta s", folder), epoch=2, value=0.4)
    linked = registry.fetch_epoch(delta.source)
    assert linked.is_relative_to(tmp_path / "cache")
    assert (linked / "weights.safetensors").read_bytes() == b"delta s" * 1000
    assert (linked / "base" / "weights.safetensors").read_bytes() == b"weights s" * 1000
    fetched = registry.fetch_epoch(epoch.source)
    assert fetched.is_relative_to(tmp_path / "cache")
    assert sorted(path.name for path in fetched.iterdir()) == ["model.json", "weights.safetensors"]
    release_folder = tmp_path / "release"
    run, manifest = make_release(release_folder, registry, run_id="run-s", ensemble="s release")
    version = registry.log_release(run, release_folder, manifest)
    registry.set_alias(CHAMPION, version)
    assert registry.fetch_release(registry.resolve("champion")).is_relative_to(tmp_path / "cache")
    assert registry.release_manifest(version) == manifest
    assert [path.name for path in (tmp_path / "cache").rglob(".tmp-*")] == []

    # A power cut may leave files of the right names with nothing in them.
    damaged = [fetched / "weights.safetensors", registry.fetch_release(version) / "embeddings.npy"]
    for file in damaged:
        file.write_bytes(b"")
    later = Registry(mlflow_server, None, tmp_path / "cache")
    later.fetch_epoch(epoch.source)
    later.fetch_release(version)
    assert all(file.stat().st_size for file in damaged)
    assert [path.name for path in (tmp_path / "cache").rglob(".tmp-*")] == []

    shutil.rmtree(tmp_path / "cache")
    assert (registry.fetch_epoch(epoch.source) / "weights.safetensors").is_file()


def test_two_runs_that_name_the_same_new_snapshot_at_once_both_have_it(registry: Registry) -> None:
    connection = registry._connection
    opened = [registry.open_run(f"both-{number}", kind="retrain", params={}) for number in range(2)]
    start = Barrier(len(opened))

    def name(mlflow_run_id: str, snapshot: str) -> None:
        start.wait(30)
        log_dataset(connection, mlflow_run_id, snapshot=snapshot, num_rows=3, context="train")

    snapshots = [sha256(f"both {number}".encode()).hexdigest() for number in range(25)]
    with ThreadPoolExecutor(len(opened)) as pool:
        for snapshot in snapshots:  # without the second try one of them fails within a few of these
            list(pool.map(name, opened, [snapshot] * len(opened)))
    for mlflow_run_id in opened:
        assert len(connection.client.get_run(mlflow_run_id).inputs.dataset_inputs) == len(snapshots)
