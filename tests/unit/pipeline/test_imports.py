"""What a step loads before it has anything to do: each Airflow task is a process of its own."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "step", ["ingest", "snapshot", "train", "choose", "embed", "cluster", "evaluate", "gate", "promote_run", "prune"]
)
def test_a_step_loads_open_clip_only_where_it_builds_a_network(step: str) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", f"import enclip.pipeline.{step}, sys; print('open_clip' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert loaded.stdout.strip() == "False"
