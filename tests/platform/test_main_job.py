"""The main job on drawn products: the real DAGs through Airflow, MLflow, and the real search service.

One story in order, since each chapter needs what the one before it made.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FOLLOWS_WITHIN_S = 5
RUN_DAG = """
import importlib, json, sys
dag = importlib.import_module(sys.argv[1]).dag
run = dag.test(run_conf=json.loads(sys.argv[2]))
print("STATE", json.dumps({ti.task_id: str(ti.state) for ti in run.get_task_instances()}))
print("RUN", run.state)
"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class World:
    """An ENCLIP and an Airflow of this test's own, with a search service that runs throughout."""

    environment: dict[str, str]
    catalog: Path
    second_batch: Path
    service: str

    def enclip(self, *arguments: str) -> dict[str, Any]:
        """Run a command with `--json`; its answer."""
        done = subprocess.run(
            [BIN / "enclip", *arguments, "--json"], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def dag(self, dag_id: str, conf: dict[str, Any]) -> dict[str, str]:
        """Run a DAG; the state of each task (of mapped ones, of any)."""
        done = subprocess.run(
            [sys.executable, "-c", RUN_DAG, dag_id, json.dumps(conf)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("STATE ", "RUN ")))
        assert lines.get("RUN") == "success", done.stdout[-4000:] + done.stderr[-4000:]
        states: dict[str, str] = json.loads(lines["STATE"])
        return states

    def served_release(self) -> int | None:
        """What the service says it serves."""
        answer = httpx.get(f"{self.service}/health/ready", timeout=10).json()
        release: int | None = answer.get("release")
        return release

    def follows(self, release: int) -> None:
        """Assert that the service serves a release within the time it promises."""
        end = time.monotonic() + FOLLOWS_WITHIN_S
        while self.served_release() != release:
            assert time.monotonic() < end, f"serves {self.served_release()}, not {release}"
            time.sleep(0.2)
        answer = httpx.post(f"{self.service}/v1/search", json={"text": "red shirt", "k": 5}, timeout=10)
        assert answer.status_code == 200
        assert answer.json()["release"] == release
        assert len(answer.json()["results"]) == 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Airflow migrated, the service started, nothing ingested yet."""
    home = tmp_path_factory.mktemp("main-job")
    environment = {
        **{
            name: value for name, value in os.environ.items() if not name.startswith(("ENCLIP_", "AIRFLOW_", "MLFLOW_"))
        },
        "ENCLIP_HOME": str(home / "enclip"),
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(ROOT / "dags"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "COLUMNS": "200",
    }
    subprocess.run([BIN / "airflow", "db", "migrate"], env=environment, check=True, capture_output=True)
    subprocess.run(
        [BIN / "airflow", "pools", "set", "gpu", "1", "test"], env=environment, check=True, capture_output=True
    )
    for folder, start, count in (("first", 0, 300), ("second", 300, 40)):
        command = [BIN / "enclip", "draw", home / folder, "--products", str(count), "--start", str(start)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    port = free_port()
    log = (home / "serve.log").open("wb")
    with subprocess.Popen(
        [BIN / "enclip", "serve", "--port", str(port)], env=environment, stdout=log, stderr=log
    ) as server:
        try:
            yield World(environment, home / "first", home / "second", f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
            assert server.wait(timeout=45) is not None
            log.close()


def test_ingest_through_airflow(world: World) -> None:
    world.dag("ingest_catalog", {"source": str(world.catalog)})

    again = world.enclip("ingest", str(world.catalog))

    assert again == {"accepted": 0, "unchanged": 300, "rejected": 0, "gone": 0, "rejections": []}


def test_retrain_through_airflow_promotes_the_first_release(world: World) -> None:
    states = world.dag("retrain", {"epochs": 10, "instances": 2})

    status = world.enclip("status")
    champion = status["champion"]
    assert states["promote"] == "success"
    assert states["not_promoted"] == "skipped"
    assert champion["release"] == 1
    assert len(champion["members"]) >= 2
    assert sum(member["weight"] for member in champion["members"]) == pytest.approx(1)
    assert len(champion["metrics"]["by_category"]) >= 3
    assert champion["metrics"]["map_at_10"] > 0.2
    world.follows(1)


def test_every_epoch_is_a_model_version_with_its_metrics(world: World) -> None:
    script = """
import json, mlflow, sys
client = mlflow.MlflowClient(sys.argv[1])
versions = client.search_model_versions("name='enclip-epoch'")
models = [client.get_logged_model(v.source.removeprefix("models:/")) for v in versions]
run = client.get_run(client.search_model_versions("name='enclip'")[0].run_id)
release = client.get_model_version("enclip", "1")
print(json.dumps({
    "tags": [dict(v.tags) for v in versions],
    "metrics": [[m.key for m in model.metrics] for model in models],
    "run_tags": dict(run.data.tags),
    "description": release.description,
}))
"""
    uri = world.enclip("status")["tracking_uri"]
    done = subprocess.run(
        [sys.executable, "-c", script, uri], env=world.environment, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])

    soups = [tags for tags in found["tags"] if "enclip.ingredients" in tags]
    assert len(found["tags"]) - len(soups) == 2 * (10 + 1)
    assert len(soups) == 2
    assert all("map_at_10" in tags for tags in found["tags"])
    assert all("val_map_at_10" in keys for keys in found["metrics"])
    assert found["run_tags"]["dag_id"] == "retrain"
    assert found["run_tags"]["dag_run_id"]
    assert "### Gates" in found["description"]
    assert "| greedy | " in found["description"]


def test_the_champion_answers_as_a_pyfunc(world: World) -> None:
    script = """
import json, mlflow, pandas, sys
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/enclip@champion")
answer = model.predict(pandas.DataFrame({"text": ["red shirt"], "k": [3]}))
print(json.dumps(len(answer)))
"""
    uri = world.enclip("status")["tracking_uri"]
    done = subprocess.run(
        [sys.executable, "-c", script, uri], env=world.environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) >= 1


def test_a_worse_challenger_is_refused(world: World) -> None:
    outcome = world.enclip(
        "retrain", "--epochs=1", "--instances=1", "--learning-rate=1e-7", "--no-use-champion", "--min-members=1"
    )

    status = world.enclip("status")
    assert outcome["promoted"] is False
    assert outcome["gate"]["outcome"] == "refuse"
    assert "champion" in {row["gate"] for row in outcome["gate"]["results"] if row["verdict"] == "fail"}
    assert status["champion"]["release"] == 1
    assert status["challenger"] == outcome["release"] == 2
    world.follows(1)


def test_a_refresh_indexes_the_second_batch(world: World) -> None:
    ingested = world.enclip("ingest", str(world.second_batch))
    world.dag("refresh_index", {})

    status = world.enclip("status")
    assert ingested["accepted"] == 40
    assert status["champion"]["release"] == 3
    assert status["champion"]["num_products"] == 340
    world.follows(3)


def test_promotion_by_hand_and_rollback_are_followed(world: World) -> None:
    world.enclip("promote", "2", "--reason", "to see it served")
    world.follows(2)

    back = world.enclip("rollback", "--reason", "that was a test")

    assert back["to_release"] == 3
    assert world.enclip("status")["previous"] == 2
    world.follows(3)


def test_pruning_through_airflow_keeps_what_serves(world: World) -> None:
    states = world.dag("prune", {"keep_releases": 1, "keep_days": 8})

    assert states == {"prune": "success"}
    assert world.enclip("prune")["kept_releases"] == [1, 2, 3]  # all are young
    world.follows(3)


def test_evaluate_writes_files_that_other_tools_agree_with(world: World, tmp_path: Path) -> None:
    import ir_measures
    from ir_measures import RR, P

    figures = world.enclip(
        "evaluate", "--release", "champion", "--catalog", str(world.catalog), "--trec", str(tmp_path)
    )

    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.trec")))
    run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    theirs = ir_measures.calc_aggregate([P @ 10, RR @ 100], qrels, run)
    ours = figures["by_kind"][figures["headline"]]
    assert theirs[P @ 10] == pytest.approx(ours["p_at_10"], abs=1e-6)
    assert theirs[RR @ 100] == pytest.approx(ours["mrr"], abs=1e-3)
    assert figures["num_products"] == 300
    assert len({line.query_id for line in qrels}) == ours["num_queries"]
