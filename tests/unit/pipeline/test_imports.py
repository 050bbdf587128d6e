"""What a step loads before it has anything to do: each Airflow task is a process of its own."""

import subprocess
import sys

import pytest


def loaded_by(module: str) -> set[str]:
    """The heavy packages that importing a module of the pipeline brings along."""
    script = f"import enclip.pipeline.{module}, sys; print(*{{'torch', 'open_clip', 'mlflow'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["ingest", "changed", "snapshot", "refresh", "shards", "gate", "prune", "status"])
def test_a_step_that_encodes_nothing_starts_without_torch(module: str) -> None:
    assert loaded_by(module) == set()


@pytest.mark.parametrize("module", ["train", "choose", "embed", "cluster", "evaluate", "promote_run"])
def test_open_clip_is_loaded_where_a_network_is_built(module: str) -> None:
    assert loaded_by(module) == {"torch"}
