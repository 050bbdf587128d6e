"""A tiny world for faults: a home after every step of a run, and children that die where they are told."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from enclip import ledger
from enclip.config import Settings
from enclip.models.checkpoint import save_checkpoint
from enclip.pipeline.choose import choose
from enclip.pipeline.cluster import build
from enclip.pipeline.distil import distil_run
from enclip.pipeline.embed import embed_all
from enclip.pipeline.evaluate import evaluate_run
from enclip.pipeline.gate import decide
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.promote_run import promote_run
from enclip.pipeline.snapshot import take
from enclip.pipeline.train import train
from enclip.recipes import GatePolicy, ReleaseRecipe, RetrainRecipe, TrainRecipe
from tests.unit.models.small_models import small_clip

RUN = "first"
SIDE = 32  # px
# These tests are about what is lost, not about quality: every gate is wide open.
OPEN = GatePolicy(
    margin=2, category_margin=2, floor=0, max_overfit=2, max_search_ratio=1e6, max_memory_ratio=1e6, bootstrap=200
)


def small_base(root: Path) -> str:
    """Base weights of a few thousand numbers beside a home: for tests that are not about quality."""
    if not (root / "base").is_dir():
        save_checkpoint(root / "base", small_clip(), pixel_side=SIDE)
    return f"local-dir:{root / 'base'}"


def recipe(root: Path, *, seed: int = 0) -> RetrainRecipe:
    """Two epochs of a few thousand weights, two members, two shards."""
    return RetrainRecipe(
        train=TrainRecipe(base=small_base(root), epochs=2, instances=1, batch_size=16, seed=seed),
        release=ReleaseRecipe(min_members=2, max_members=2, cluster_counts=(4,), pulls=(0.0,), shards=2),
        gate=OPEN,
    )


def root_of(platform: Platform) -> Path:
    """The folder in which a home lies beside its catalog and its base weights."""
    return platform.settings.home.parent


STEPS: dict[str, Callable[[Platform], object]] = {
    "ingest": lambda platform: ingest_source(platform, str(root_of(platform) / "catalog")),
    "snapshot": lambda platform: take(platform, RUN, recipe(root_of(platform))),
    "train": lambda platform: train(platform, RUN, environment={}),
    "choose": lambda platform: choose(platform, RUN),
    "distil": lambda platform: distil_run(platform, RUN),
    "embed": lambda platform: embed_all(platform, RUN),
    "cluster": lambda platform: build(platform, RUN),
    "evaluate": lambda platform: evaluate_run(platform, RUN),
    "gate": lambda platform: decide(platform, RUN),
    "promote": lambda platform: promote_run(platform, RUN),
}
BEFORE = {"ingest": "nothing", **{after: before for before, after in pairwise(STEPS)}}


def open_home(home: Path, **environment: str) -> Platform:
    nowhere = {"ENCLIP_DATABASE_URL": "", "ENCLIP_STORE_URL": "", "MLFLOW_TRACKING_URI": ""}
    return open_platform(Settings(**{"ENCLIP_HOME": home, **nowhere, **environment}))


def copy_home(home: Path, target: Path) -> Path:
    """A home that shares nothing with the first: MLflow knows the new place of its files."""
    shutil.copytree(home, target, dirs_exist_ok=True)  # the target may be a disk of its own
    if (target / "mlflow.db").exists():
        with contextlib.closing(sqlite3.connect(target / "mlflow.db")) as connection, connection:
            for table, column in (
                ("experiments", "artifact_location"),
                ("logged_models", "artifact_location"),
                ("runs", "artifact_uri"),
            ):
                change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
                connection.execute(change, (f"file://{home}/", f"file://{target}/"))
    return target


def state_of(home: Path, **environment: str) -> dict[str, Any]:
    """All that a home holds which another run of the same steps must hold too: no clocks, no random ids."""
    platform = open_home(home, **environment)
    registry = platform.registry
    keys = [blob.key for blob in platform.blobs.listing("") if "/timing/" not in blob.key]
    records = {
        key: _bare(platform.blobs.get(key).decode())
        for key in keys
        if key.startswith("runs/") and key.endswith(".json")
    }
    arrays = {key: sha256(platform.blobs.get(key)).hexdigest() for key in keys if key.endswith((".npy", ".parquet"))}
    attempt = ledger.last_attempt(platform.database)
    state = {
        "catalog": platform.catalog.state_digest(),
        "blobs": sorted(keys),
        "records": records,
        "arrays": arrays,
        "epochs": [
            (epoch.version, epoch.instance, epoch.epoch, epoch.weights_sha256) for epoch in registry.epochs(RUN)
        ],
        "releases": [
            (release.version, _bare(registry.release_manifest(release.version).model_dump_json()))
            for release in registry.releases()
        ],
        "aliases": registry.aliases(),
        "moves": [
            (move.action, move.from_release, move.to_release, move.by, move.reason)
            for move in ledger.history(platform.database)
        ],
        "attempt": attempt and (attempt.run_id, attempt.snapshot, attempt.outcome),
    }
    platform.database.dispose()
    return state


def _bare(text: str) -> Any:
    """A record without what differs between two runs of the same step: times, speeds, MLflow's random ids."""
    text = re.sub(r"m-[0-9a-f]{32}", "m-…", text)
    text = re.sub(r'"metrics": ?\{[^}]*\}', '"metrics": {}', text)  # in MLflow; a resumed run's record has them there
    text = re.sub(r"\d+\.\d{4,}", lambda match: f"{float(match[0]):.4f}".rstrip("0"), text)  # so are all digits
    text = re.sub(r'"(mlflow_run_id|created_at|git_commit)": ?"[^"]*"', r'"\1": ""', text)
    text = re.sub(r'"(images_per_s|search_ratio|value)": ?[0-9.e-]+', r'"\1": 0', text)
    return re.sub(r'"reason": ?"[^"]*(search|Search)[^"]*"', '"reason": ""', text)


@dataclass(frozen=True)
class World:
    """Homes after each step of one unbroken run, and what each of them held."""

    root: Path
    states: dict[str, dict[str, Any]]

    def home_after(self, step: str) -> Path:
        """A copy of the home as it was after a step; "nothing": a new one."""
        return self.copy(self.root / f"after-{step}")

    def copy(self, home: Path) -> Path:
        """Another home that holds the same."""
        # MLflow keeps its connection to a path: each home has a path of its own.
        return copy_home(home, self.root / f"home-{secrets.token_hex(6)}")


class Dying:
    """Kills this process before its n-th step towards the disk: a sync, a rename, a copy, a commit."""

    def __init__(self, at: int) -> None:
        self._left = at

    def step(self, *_: Any) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        for module, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (os, "link"), (shutil, "copyfile")):
            setattr(module, name, self.before(getattr(module, name)))
        event.listen(Engine, "commit", self.step)  # the catalog's, the ledger's and MLflow's

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, as one more step."""

        def wrapped(*args: Any, **options: Any) -> Any:
            self.step()
            return call(*args, **options)

        return wrapped


def die_in_step(home: Path, step: str, at: int) -> None:
    platform = open_home(home)
    Dying(at).install()
    STEPS[step](platform)
