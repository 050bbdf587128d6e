"""Small releases for tests that look at versions and aliases, not at what a search finds."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enclip.pipeline.members import member_of
from enclip.registry import Registry
from enclip.release import ClusterSettings, Manifest, file_sha256, write_manifest
from tests.conftest import free_port


def checkpoint_folder(folder: Path, content: str, base: Path | None = None) -> Path:
    """A checkpoint's folder, or a delta's; the registry looks at names and bytes only."""
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(content.encode() * 1000)
    card: dict[str, object] = {"dim": 8, "init_id": "init"}
    if base is not None:
        card["delta"] = {"base_sha256": file_sha256(base / "weights.safetensors"), "alpha": 32.0}
        (folder / "base").symlink_to(base)
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def release_folder(
    folder: Path, registry: Registry, *, run_id: str, ensemble: str, products: int = 3
) -> tuple[str, Manifest]:
    """A release's folder over one registered epoch; its MLflow run and manifest."""
    run = registry.open_run(run_id, kind="retrain", params={})
    epoch = registry.log_epoch(
        run,
        checkpoint_folder(folder.parent / f"{folder.name}-checkpoint", ensemble),
        instance=0,
        epoch=1,
        metrics={"val_map_at_10": 0.3},
        snapshot="5" * 64,
        num_products=20,
    )
    folder.mkdir(parents=True)
    (folder / "embeddings.npy").write_bytes(b"e" * products)
    member = member_of(epoch, 8)
    manifest = Manifest(
        kind="retrain",
        run_id=run_id,
        base="tiny",
        snapshot="5" * 64,
        trained_on="5" * 64,
        num_products=products,
        members=(member,),
        clusters=ClusterSettings(count=2, pull=0.0),
        rescored=200,
        chosen_because="best on select",
        created_at="2026-01-01T00:00:00Z",
    )
    return run, write_manifest(folder, manifest)


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Path]:
    return checkpoint_folder


@pytest.fixture(scope="session")
def make_release() -> Callable[..., tuple[str, Manifest]]:
    return release_folder


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server that proxies its artifacts."""
    home = tmp_path_factory.mktemp("server")
    port = free_port()
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--workers", "1", "--serve-artifacts"]
    command += ["--artifacts-destination", str(home / "artifacts")]
    with open(home / "log", "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=home, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"mlflow server did not start:\n{(home / 'log').read_text()[-2000:]}")
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
