"""Each service of docker-compose.yml runs with the command and the environment that the file gives it."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from enclip.catalog.drawn import draw_catalog

if TYPE_CHECKING:
    from conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("compose")]

NUM_PRODUCTS = 120
DAG_TIMEOUT_S = 240.0


@pytest.fixture(scope="module")
def airflow(stack: "Stack") -> "httpx.Client":
    """Airflow's API as the user admin."""
    client = stack.machine.client(8080)
    password = stack.env("airflow-apiserver")["AIRFLOW_ADMIN_PASSWORD"]
    token = client.post("/auth/token", json={"username": "admin", "password": password})
    assert token.status_code == 201, token.text
    client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
    return client


@pytest.fixture(scope="module")
def ingested(stack: "Stack", airflow: httpx.Client) -> dict[str, Any]:
    """The state of a run of ingest_catalog, by REST, over a drawn catalog in the mounted folder."""
    draw_catalog(stack.volume("./catalogs") / "drawn", num_products=NUM_PRODUCTS, seed=1)
    _wait_for(lambda: airflow.get("/api/v2/dags/ingest_catalog").status_code == 200, "ingest_catalog is parsed")
    airflow.patch("/api/v2/dags/ingest_catalog", json={"is_paused": False}).raise_for_status()
    started = airflow.post(
        "/api/v2/dags/ingest_catalog/dagRuns",
        json={"logical_date": None, "conf": {"source": "/srv/catalogs/drawn"}},
    )
    assert started.status_code == 200, started.text
    run = f"/api/v2/dags/ingest_catalog/dagRuns/{started.json()['dag_run_id']}"
    _wait_for(lambda: airflow.get(run).json()["state"] in {"success", "failed"}, "the run has ended", DAG_TIMEOUT_S)
    state: dict[str, Any] = airflow.get(run).json()
    tasks = airflow.get(f"{run}/taskInstances").json()["task_instances"]
    logs = "\n".join(path.read_text() for path in stack.volume("airflow-logs").rglob("task_id=ingest/*.log"))
    assert state["state"] == "success", f"{tasks}\n{logs[-3000:]}"
    return state


def test_every_service_is_healthy_or_done(stack: "Stack") -> None:
    for name, service in stack.services.items():
        if "healthcheck" in service:
            assert stack.healthy(name), stack.log(name)[-4000:]
        else:
            assert stack.running[name].returncode == 0


def test_roles_see_their_own_database_alone(stack: "Stack") -> None:
    script = (
        "import os, sys, psycopg2\n"
        "for role, password in (('airflow', 'AIRFLOW'), ('enclip', 'ENCLIP'), ('mlflow', 'MLFLOW')):\n"
        "    for database in ('airflow', 'enclip', 'mlflow', 'mlflow_auth', 'postgres'):\n"
        "        try:\n"
        "            db = psycopg2.connect(host='postgres', user=role, dbname=database,\n"
        "                                  password=os.environ[f'{password}_DB_PASSWORD'])\n"
        "            db.cursor().execute('CREATE TABLE own (id int)')\n"
        "            print(role, database, db.encoding)\n"
        "        except psycopg2.Error:\n"
        "            pass"
    )
    seen = stack.machine.run(["python", "-c", script], stack.env("postgres")).splitlines()
    assert seen == ["airflow airflow UTF8", "enclip enclip UTF8", "mlflow mlflow UTF8", "mlflow mlflow_auth UTF8"]


def test_store_refuses_other_keys(stack: "Stack") -> None:
    command = stack.services["store-init"]["command"]
    env = stack.env("store-init")
    stack.machine.run(command, env)  # again: the buckets are there
    with pytest.raises(AssertionError, match=r"Forbidden|SignatureDoesNotMatch"):
        stack.machine.run(command, {**env, "AWS_SECRET_ACCESS_KEY": "0" * 64})


def test_airflow_asks_for_its_password_and_has_the_dags(stack: "Stack", airflow: httpx.Client) -> None:
    with stack.machine.client(8080) as stranger:
        assert stranger.get("/api/v2/dags").status_code == 401
        guess = stranger.post("/auth/token", json={"username": "admin", "password": "admin"})
        assert guess.status_code == 401
    _wait_for(lambda: airflow.get("/api/v2/dags").json()["total_entries"] >= 4, "the DAGs are parsed")
    dags = {dag["dag_id"]: dag for dag in airflow.get("/api/v2/dags").json()["dags"]}
    assert set(dags) == {"ingest_catalog", "retrain", "refresh_index", "prune"}
    assert airflow.get("/api/v2/importErrors").json()["import_errors"] == []
    assert airflow.get("/api/v2/pools/gpu").json()["slots"] == 1
    lamps = airflow.get("/api/v2/monitor/health").json()
    assert {part["status"] for part in lamps.values()} == {"healthy"}


def test_mlflow_asks_for_its_password_and_keeps_artifacts_in_the_store(stack: "Stack") -> None:
    user = (stack.env("search")["MLFLOW_TRACKING_USERNAME"], stack.env("search")["MLFLOW_TRACKING_PASSWORD"])
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    with stack.machine.client(5000) as client:
        assert client.get("/health").status_code == 200
        assert client.get(search).status_code == 401
        assert client.get(search, auth=user).status_code == 200
        assert client.get(search, auth=user, headers={"Host": "evil.example"}).status_code == 403
    script = (
        "import mlflow\n"
        "with mlflow.start_run() as run:\n"
        "    mlflow.log_text('through the proxy', 'note.txt')\n"
        "print(mlflow.artifacts.load_text(f'{run.info.artifact_uri}/note.txt'))"
    )
    # The client is given no key of the store: the server alone talks to it.
    env = {key: value for key, value in stack.env("search").items() if not key.startswith("AWS_")}
    assert "through the proxy" in stack.machine.run(["python", "-c", script], env)
    notes = list((stack.machine.folder / "store/mlflow").rglob("note.txt"))
    assert [note.read_text() for note in notes] == ["through the proxy"]


def test_search_is_alive_and_says_that_there_is_no_release_yet(stack: "Stack") -> None:
    with stack.machine.client(8000) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503


def test_a_dag_run_fills_database_and_store(stack: "Stack", ingested: dict[str, Any]) -> None:
    status = json.loads(stack.run("search", ["enclip", "status", "--json"]))
    assert status["catalog"]["live"] == NUM_PRODUCTS
    pictures = [path for path in (stack.machine.folder / "store/enclip/images").rglob("*") if path.is_file()]
    assert 0 < len(pictures) <= NUM_PRODUCTS
    assert not list(stack.volume("pipeline-state").rglob("*.db")), "something fell back to SQLite"


def test_a_release_trained_in_one_container_is_served_by_another(stack: "Stack", ingested: dict[str, Any]) -> None:
    # Trained with the scheduler's volumes; search has its own, so all it learns comes through the registry.
    recipe = ["--base", "tiny", "--epochs", "1", "--instances", "1", "--max-members", "1"]
    stack.run("airflow-scheduler", ["enclip", "retrain", *recipe, "--json"], timeout_s=500)
    assert list((stack.machine.folder / "store/mlflow").rglob("weights.safetensors"))
    # One epoch on so few products need not pass the gates; a person may move the alias in MLflow all the same.
    script = "from mlflow import MlflowClient; MlflowClient().set_registered_model_alias('enclip', 'champion', '1')"
    stack.run("search", ["python", "-c", script])
    with stack.machine.client(8000) as client:
        _wait_for(lambda: client.get("/health/ready").status_code == 200, "search has taken up the release")
        question = {"text": "navy blue shirt", "k": 3}
        assert client.post("/v1/search", json=question).status_code == 401
        client.headers["X-API-Key"] = stack.env("search")["ENCLIP_API_KEYS"]
        answer = client.post("/v1/search", json=question)
        assert answer.status_code == 200, answer.text
        assert answer.json()["release"] == 1
        first = answer.json()["results"][0]["product_id"]
        assert client.get(f"/v1/products/{first}/image").headers["content-type"].startswith("image/")
    assert json.loads(stack.run("search", ["enclip", "status", "--json"]))["champion"]["release"] == 1


PRUNE = """
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from enclip.config import Settings
from enclip.pipeline.platform import open_platform
from enclip.pipeline.prune import prune
from enclip.recipes import Retention
platform, folder = open_platform(Settings()), Path(mkdtemp())
(folder / "weights.safetensors").write_bytes(b"abandoned" * 1000)
(folder / "model.json").write_text(json.dumps({"dim": 8, "init_id": "init"}))
run = platform.registry.open_run("abandoned", kind="retrain", params={})
platform.registry.log_epoch(run, folder, instance=0, epoch=1, metrics={}, snapshot="5" * 64, num_products=20)
later = datetime.now(UTC) + timedelta(days=60)
print(json.dumps(prune(platform, Retention(keep_releases=1), now=later).summary()))
"""


def test_pruning_deletes_in_the_store_through_the_server(stack: "Stack", ingested: dict[str, Any]) -> None:
    def weights() -> set[Path]:
        return set((stack.machine.folder / "store/mlflow").rglob("weights.safetensors"))

    before = weights()
    done = json.loads(stack.run("airflow-scheduler", ["python", "-c", PRUNE], timeout_s=120).splitlines()[-1])
    assert done["kept_releases"] == [1]
    assert done["pruned"]["epochs"]["count"] == 1
    assert weights() == before
    with stack.machine.client(8000) as client:
        client.headers["X-API-Key"] = stack.env("search")["ENCLIP_API_KEYS"]
        assert client.post("/v1/search", json={"text": "navy blue shirt"}).json()["release"] == 1


def test_services_end_on_sigterm_within_their_grace_period(stack: "Stack") -> None:
    # Last, and in the order in which an engine stops them: nobody goes before those who need it.
    for name in reversed(list(stack.services)):
        service = stack.services[name]
        if "healthcheck" in service and name not in {"postgres", "store"}:
            stack.terminate(name)


def _wait_for(reached: Any, what: str, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, f"Not within {timeout_s:g} s: {what}."
        time.sleep(1)
