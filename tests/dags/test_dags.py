"""The DAG files: they import clean, light and fast, and wire what they say."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

NAMES = ("ingest_catalog", "retrain", "refresh_index", "prune")

PARSE = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
import airflow.providers.standard.operators.hitl
import airflow.providers.standard.decorators.bash
start = time.perf_counter()
bag = DagBag(sys.argv[1])
print(json.dumps({
    "errors": bag.import_errors, "dags": sorted(bag.dags), "seconds": time.perf_counter() - start,
    "heavy": sorted({"torch", "mlflow", "faiss", "sklearn", "pandas", "open_clip", "PIL"} & set(sys.modules)),
}))
"""

FIRST_RUNS = """
import json, sys
from datetime import datetime, timedelta
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.encoders import coerce_to_core_timetable
from airflow.timetables import trigger
from airflow.timetables.base import TimeRestriction

DUE = {"prune": "22T02", "ingest_catalog": "23T01", "retrain": "23T03", "refresh_index": "23T05"}
now_or_later = TimeRestriction(earliest=None, latest=None, catchup=False)
times = {}
for name, dag in DagBag(sys.argv[1]).dags.items():
    timetable = coerce_to_core_timetable(dag.timetable)
    times[name] = []
    for late in (timedelta(minutes=1), timedelta(hours=1), timedelta(hours=15)):
        now = datetime.fromisoformat(f"2026-11-{DUE[name]}:00+00:00") + late
        trigger.utcnow = lambda: now
        first = timetable.next_dagrun_info(last_automated_data_interval=None, restriction=now_or_later)
        times[name].append((now.isoformat(), first.run_after.isoformat()))
print(json.dumps(times))
"""

SHARED_TAIL = {
    "plan_embedding": {"embed"},
    "embed": {"build"},
    "build": {"evaluate"},
    "evaluate": {"gate"},
    "gate": {"route"},
    "route": {"approval", "promote", "not_promoted"},
    "approval": {"promote", "not_promoted"},
    "promote": set(),
    "not_promoted": set(),
}
EDGES: dict[str, dict[str, set[str]]] = {
    "ingest_catalog": {"ingest": {"changed", "announce"}, "changed": {"announce"}, "announce": set()},
    "retrain": {
        "needed": {"snapshot"},
        "snapshot": {"train"},
        "train": {"choose"},
        "choose": {"distil", "plan_embedding"},
        "distil": {"build"},
        **SHARED_TAIL,
    },
    "prune": {"prune": set()},
    "refresh_index": {"needed": {"snapshot"}, "snapshot": {"plan_embedding"}, **SHARED_TAIL},
}


def answer_of(program: str, airflow_env: Mapping[str, str]) -> dict[str, Any]:
    """What a program prints that reads the DAG folder, in a process of its own.

    Airflow's serialisation imports some of its tables and not those that they refer to: from then on SQLAlchemy maps no
    other library's in that process, MLflow's neither.
    """
    answer = subprocess.run(
        [sys.executable, "-c", program, airflow_env["AIRFLOW__CORE__DAGS_FOLDER"]],
        env={**os.environ, **airflow_env},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


def dag_of(dag_files: Mapping[str, ModuleType], name: str) -> Any:
    return dag_files[name].dag


def test_airflow_finds_exactly_our_dags_light_and_without_errors(airflow_env: Mapping[str, str]) -> None:
    parsed = answer_of(PARSE, airflow_env)
    assert parsed["errors"] == {}
    assert parsed["dags"] == sorted(NAMES)
    # torch takes 3.5 s and MLflow 2.6 s to import, in every parse of every file.
    assert parsed["heavy"] == []
    assert parsed["seconds"] < 10


@pytest.mark.parametrize("name", NAMES)
def test_the_tasks_and_their_order(dag_files: Mapping[str, ModuleType], name: str) -> None:
    dag = dag_of(dag_files, name)
    assert {task.task_id: set(task.downstream_task_ids) for task in dag.tasks} == EDGES[name]


@pytest.mark.parametrize("name", NAMES)
def test_one_run_at_a_time_no_catching_up_and_a_page_of_documentation(
    dag_files: Mapping[str, ModuleType], name: str
) -> None:
    dag = dag_of(dag_files, name)
    assert dag.dag_id == name
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert dag.start_date is None  # with one, unpausing starts last period's run at once
    assert "**When:**" in dag.doc_md


def test_one_that_is_switched_on_waits_for_its_time(airflow_env: Mapping[str, str]) -> None:
    first_runs = answer_of(FIRST_RUNS, airflow_env)
    assert first_runs.keys() == set(NAMES)
    for name, times in first_runs.items():
        assert len(times) == 3
        for switched_on, first_run in times:
            assert first_run > switched_on, name


@pytest.mark.parametrize("name", NAMES)
def test_every_task_retries_in_time_and_says_what_it_does(dag_files: Mapping[str, ModuleType], name: str) -> None:
    for task in dag_of(dag_files, name).tasks:
        assert task.retries >= 2, task.task_id
        if task.task_id == "approval":
            assert task.response_timeout == timedelta(days=7)
            continue
        assert task.execution_timeout is not None, task.task_id
        assert task.python_callable.__doc__, task.task_id


def test_training_has_the_gpu_to_itself_and_time(dag_files: Mapping[str, ModuleType]) -> None:
    tasks = {task.task_id: task for task in dag_of(dag_files, "retrain").tasks}
    assert tasks["train"].execution_timeout >= timedelta(hours=24)
    assert {name for name, task in tasks.items() if task.pool == "gpu"} == {"train", "distil"}


def test_wrong_values_are_not_tried_again(dag_files: Mapping[str, ModuleType]) -> None:
    from airflow.sdk import RetryAction

    from enclip.errors import CatalogError, ConfigError, DeviceError, ImageError, StoreError

    policy = dag_of(dag_files, "retrain").get_task("snapshot").retry_policy
    for error in (ConfigError("x"), CatalogError("x"), DeviceError("x"), ImageError("x")):
        assert policy.evaluate(error, 1, 3).action is RetryAction.FAIL
    for error in (StoreError("the store is away"), ConnectionError()):
        assert policy.evaluate(error, 1, 3).action is RetryAction.DEFAULT


def test_retrain_is_weekly_and_after_a_changed_catalog(dag_files: Mapping[str, ModuleType]) -> None:
    announce = dag_of(dag_files, "ingest_catalog").get_task("announce")
    (asset,) = announce.outlets
    for name in ("retrain", "refresh_index"):
        condition = dag_of(dag_files, name).timetable.asset_condition
        assert asset.uri in [awaited.uri for awaited in condition.objects]
    assert dag_of(dag_files, "retrain").timetable.timetable.expression == "0 3 * * 1"


def test_a_retraining_that_is_promoted_is_followed_by_a_refresh(dag_files: Mapping[str, ModuleType]) -> None:
    """Its catalog may be older than that of a refresh which it made void."""
    (champion,) = dag_of(dag_files, "retrain").get_task("promote").outlets
    assert dag_of(dag_files, "refresh_index").get_task("promote").outlets == []
    awaited = {name: dag_of(dag_files, name).timetable.asset_condition.objects for name in ("retrain", "refresh_index")}
    assert champion.uri in [asset.uri for asset in awaited["refresh_index"]]
    assert champion.uri not in [asset.uri for asset in awaited["retrain"]]


def test_embedding_is_mapped_by_member_and_shard(dag_files: Mapping[str, ModuleType]) -> None:
    embed = dag_of(dag_files, "retrain").get_task("embed")
    assert embed.is_mapped
    assert "member" in embed.partial_kwargs["map_index_template"]


@pytest.mark.parametrize("name", ["retrain", "refresh_index"])
def test_tasks_link_to_their_mlflow_run(dag_files: Mapping[str, ModuleType], name: str) -> None:
    for task in dag_of(dag_files, name).tasks:
        names = [link.name for link in task.operator_extra_links]
        assert names == ([] if task.task_id == "needed" else ["MLflow run"]), task.task_id


def test_only_the_last_tasks_run_after_skipped_ones(dag_files: Mapping[str, ModuleType]) -> None:
    rules = {task.task_id: task.trigger_rule.value for task in dag_of(dag_files, "retrain").tasks}
    late = {"promote", "not_promoted"}
    assert {rules[task] for task in late} == {"none_failed_min_one_success"}
    assert {rule for task, rule in rules.items() if task not in late} == {"all_success"}


def test_a_person_is_asked_with_the_gates_in_view(dag_files: Mapping[str, ModuleType]) -> None:
    approval = dag_of(dag_files, "retrain").get_task("approval")
    assert approval.options == ["Approve", "Reject"]
    assert approval.options_mapping == {"Approve": "promote", "Reject": "not_promoted"}
    assert approval.defaults == ["Reject"]  # silence promotes nothing
    assert "row['reason']" in approval.body


def test_what_deletes_waits_until_somebody_switches_it_on(dag_files: Mapping[str, ModuleType]) -> None:
    assert {name: dag_of(dag_files, name).is_paused_upon_creation for name in NAMES} == {
        **dict.fromkeys(NAMES),
        "prune": True,
    }
