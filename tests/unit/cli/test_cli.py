"""The command line: help that teaches, one clear error, JSON that parses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from enclip.cli.options import mapping_of
from enclip.cli.recipe import recipe_from
from enclip.errors import ConfigError
from enclip.recipes import GatePolicy, TrainRecipe

COMMANDS = (
    "ingest",
    "draw",
    "audit",
    "search",
    "serve",
    "status",
    "retrain",
    "refresh",
    "snapshot",
    "train",
    "choose",
    "embed",
    "cluster",
    "evaluate",
    "gate",
    "promote",
    "rollback",
    "report",
    "judgements",
    "up",
    "demo",
)


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ENCLIP_HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "enclip", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_help_lists_every_command(tmp_path: Path) -> None:
    shown = run("--help", home=tmp_path).stdout

    assert [command for command in COMMANDS if command not in shown] == []


def test_help_of_a_recipe_shows_each_field_s_own_sentence(tmp_path: Path) -> None:
    shown = run("retrain", "--help", home=tmp_path).stdout

    for name, field in TrainRecipe.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert (field.description or "")[:30] in " ".join(shown.split())


def test_help_loads_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    script = (
        "import sys; from enclip.cli import app; "
        "print([m for m in ('torch', 'mlflow', 'faiss', 'ir_measures') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_an_error_is_one_message_with_a_remedy_and_no_traceback(tmp_path: Path) -> None:
    done = run("ingest", str(tmp_path / "nowhere"), home=tmp_path / "home")

    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_status_before_anything_answers_json(tmp_path: Path) -> None:
    done = run("status", "--json", home=tmp_path / "home")

    answer = json.loads(done.stdout)
    assert answer["champion"] is None
    assert answer["tracking_uri"] == f"sqlite:///{tmp_path / 'home'}/mlflow.db"


def test_a_run_without_its_steps_names_the_step_that_is_missing(tmp_path: Path) -> None:
    done = run("train", "--run", "r1", home=tmp_path / "home")

    assert done.returncode == 1
    assert "enclip snapshot" in " ".join(done.stderr.split())


def test_a_mapping_is_fields_to_columns() -> None:
    assert mapping_of("name=title, image=file") == {"name": "title", "image": "file"}


@pytest.mark.parametrize("text", ["name", "=title", "name="])
def test_a_mapping_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not understood"):
        mapping_of(text)


def test_a_belief_out_of_range_names_its_option() -> None:
    with pytest.raises(ConfigError, match="--epochs 0"):
        recipe_from({"epochs": 0})


def test_what_gates_ask_of_the_shadow_is_an_option() -> None:
    asked = {"min_shadow_queries": 500, "min_shadow_overlap": 0.3, "max_shadow_ratio": 1.5}
    assert recipe_from({"strictness": "strict", **asked}).gate == GatePolicy.named("strict", **asked)
    with pytest.raises(ConfigError, match="--min-shadow-overlap"):
        recipe_from({"min_shadow_overlap": 1.5})
