"""Pruning a real home: what serves goes on serving, and a kill at any point costs nothing but another run."""

import os
import signal
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from enclip.pipeline.cluster import build
from enclip.pipeline.embed import embed_all
from enclip.pipeline.open_release import open_release, verify_release
from enclip.pipeline.platform import Platform
from enclip.pipeline.promote import promote_by_hand
from enclip.pipeline.prune import prune
from enclip.pipeline.refresh import prepare
from enclip.recipes import Retention
from enclip.registry import EPOCH_MODEL, RELEASE_MODEL
from tests.children import in_child
from tests.integration.conftest import checkpoint_folder

from .world import Dying, World, open_home

pytestmark = pytest.mark.slow


def prune_later(platform: Platform) -> dict[str, int]:
    """Prune as two months from now; how many of each kind."""
    done = prune(platform, Retention(keep_releases=1), now=datetime.now(UTC) + timedelta(days=60))
    return {kind: part["count"] for kind, part in done.summary()["pruned"].items()}


def refresh(platform: Platform, run_id: str) -> int:
    prepare(platform, run_id)
    embed_all(platform, run_id)
    return build(platform, run_id).release


@pytest.fixture(scope="module")
def home(world: World) -> Path:
    """A champion, a refresh of it that came to nothing, another that is the newest, and a training that failed."""
    home = world.home_after("promote")
    platform = open_home(home)
    for run_id in ("unused", "newest"):
        refresh(platform, run_id)
    run = platform.registry.open_run("failed", kind="retrain", params={})
    for epoch in range(3):
        folder = checkpoint_folder(home / f"scratch/training/failed/epoch-{epoch}", f"weights {epoch}")
        platform.registry.log_epoch(
            run, folder, instance=0, epoch=epoch, metrics={}, snapshot="5" * 64, num_products=20
        )
    platform.database.dispose()
    return home


def die_in_pruning(home: Path, at: int) -> None:
    platform = open_home(home)
    dying = Dying(at)
    dying.install()
    os.remove, os.unlink = dying.before(os.remove), dying.before(os.unlink)
    prune_later(platform)


def state_of(platform: Platform) -> dict[str, object]:
    """Which versions have lost files, which are known to have, and what lies beside them."""
    registry = platform.registry
    return {
        **{
            model: [
                (version.version, version.is_pruned, version.is_freed, registry.num_bytes(version) > 0)
                for version in registry.stored_versions(model)
            ]
            for model in (EPOCH_MODEL, RELEASE_MODEL)
        },
        "blobs": [blob.key for blob in platform.blobs.listing("") if "/timing/" not in blob.key],
        "scratch": sorted(str(path.relative_to(platform.scratch)) for path in platform.scratch.rglob("*")),
    }


def test_a_pruned_home_serves_refreshes_and_rolls_back(world: World, home: Path) -> None:
    platform = open_home(world.copy(home))
    names = open_release(platform, 1).products.name[:5].tolist()
    before = [open_release(platform, 1).search(text=name, k=5) for name in names]

    done = prune_later(platform)
    assert done["releases"] == 1 and done["epochs"] == 3
    assert done["embeddings"] and done["working files"]

    platform = open_home(platform.settings.home)
    assert [open_release(platform, 1).search(text=name, k=5) for name in names] == before
    newest = refresh(platform, "after")
    verify_release(platform, newest)
    promote_by_hand(platform, newest)
    promote_by_hand(platform, 1)
    again = prune_later(platform)
    assert again["releases"] == 1  # the one that was the newest
    assert again["epochs"] == 0


def test_killed_anywhere_it_ends_as_if_it_never_was(world: World, home: Path) -> None:
    unbroken = open_home(world.copy(home))
    prune_later(unbroken)
    expected = state_of(unbroken)
    for at in count(1, 5):
        platform = open_home(world.copy(home))
        exitcode = in_child(die_in_pruning, platform.settings.home, at)
        assert exitcode in (0, -signal.SIGKILL)
        prune_later(platform)
        assert state_of(platform) == expected, f"killed before step {at}"
        platform.database.dispose()
        if exitcode == 0:
            break
    assert at > 20
