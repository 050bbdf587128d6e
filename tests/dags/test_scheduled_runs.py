"""The DAGs under a real scheduler: approval, refusal, clearing, asset events, errors that are not retried.

One story in order on one platform; `tests/integration/test_main_job.py` tells what the steps themselves do.
"""

import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from enclip.catalog.drawn import draw_catalog
from enclip.catalog.images import image_key
from enclip.client import ProductRequest, SearchClient
from enclip.config import Settings
from enclip.ledger import last_promotion_to
from enclip.pipeline.platform import Platform, open_platform
from enclip.standalone.airflow_api import AirflowApi, AirflowError, TaskState
from enclip.standalone.processes import free_port
from enclip.standalone.up import RunningPlatform, platform_running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DAG_IDS = ("ingest_catalog", "retrain", "refresh_index")
SMALL = {"epochs": 3, "instances": 1, "max_members": 1, "strictness": "lenient"}
ASKED_WITHIN_S = 600
PERSON_TAKES_S = 8
WRITE_KEY = "write-key-0123456789"


@dataclass
class World:
    """A running platform; `run` is the retraining that the story is about."""

    services: RunningPlatform
    platform: Platform
    folder: Path
    run: str = ""

    @property
    def api(self) -> AirflowApi:
        return self.services.api

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Start a run of a DAG that is paused before and after it."""
        self.api.pause(dag_id, False)
        return self.api.trigger(dag_id, conf)

    def end(self, dag_id: str, run: str) -> dict[str, str]:
        """Wait for a run's end; the state of each task (of mapped ones, of the last)."""
        states: dict[str, str] = {}
        for tasks in self.api.follow(dag_id, run):
            self.services.processes.check()
            states = {task.task_id: task.state for task in tasks}
        self.api.pause(dag_id, True)
        return states

    def end_unpaused(self, dag_id: str, run: str) -> dict[str, str]:
        """Let a DAG go that held this run back, and wait for its end."""
        self.api.pause(dag_id, False)
        return self.end(dag_id, run)

    def asked(self, run: str) -> None:
        """Wait until the run asks a person."""
        end = time.monotonic() + ASKED_WITHIN_S
        for tasks in self.api.follow("retrain", run):
            states = {task.task_id: task.state for task in tasks}
            if states["approval"] == "awaiting_input":
                # The scheduler has yet to hear that the asking process has ended; a person is slower than that.
                time.sleep(PERSON_TAKES_S)
                return
            assert time.monotonic() < end, states
        raise AssertionError(f"the run ended without asking: {states}")

    def clear(self, dag_id: str, run: str, task_id: str) -> None:
        """Clear a task and what comes after it, as the button in the UI does."""
        body = {
            "dry_run": False,
            "dag_run_id": run,
            "task_ids": [task_id],
            "include_downstream": True,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.api.call("POST", f"/dags/{dag_id}/clearTaskInstances", body)

    def instance(self, dag_id: str, run: str, path: str) -> Any:
        return self.api.call("GET", f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run, safe='')}/taskInstances/{path}")

    def champion(self) -> int | None:
        return self.platform.registry.alias("champion")

    def num_versions(self) -> tuple[int, int]:
        """Epochs and releases in the registry."""
        releases = self.platform.registry.releases()
        runs = {self.platform.registry.release_manifest(release.version).run_id for release in releases}
        return sum(len(self.platform.registry.epochs(run)) for run in runs), len(releases)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("scheduled")
    draw_catalog(folder / "first", num_products=260, seed=0)
    draw_catalog(folder / "second", num_products=20, seed=0, start=260)
    settings = Settings(ENCLIP_HOME=folder / "home", ENCLIP_WRITE_KEYS=WRITE_KEY)
    with (
        open(folder / "console", "w") as output,
        platform_running(
            settings,
            airflow_port=free_port(),
            mlflow_port=None,
            search_port=free_port(),
            console=Console(file=output),
            unpaused=False,
        ) as services,
    ):
        services.processes.wait_until(
            lambda: services.api.dag_ids() >= set(DAG_IDS), what="the DAG files", timeout_s=120
        )
        yield World(services, open_platform(settings), folder)


def test_ingest_announces_a_change_and_only_a_change(world: World) -> None:
    source = {"source": str(world.folder / "first")}

    first = world.end("ingest_catalog", world.trigger("ingest_catalog", source))
    again = world.end("ingest_catalog", world.trigger("ingest_catalog", source))

    assert first == {"ingest": "success", "changed": "success", "announce": "success"}
    assert again == {"ingest": "success", "changed": "success", "announce": "skipped"}
    events = world.api.call("GET", "/assets/events")["asset_events"]
    assert [event["extra"]["accepted"] for event in events] == [260]


def test_a_run_without_a_source_is_skipped_not_failed(world: World) -> None:
    states = world.end("ingest_catalog", world.trigger("ingest_catalog", {}))

    assert set(states.values()) == {"skipped"}


def test_a_category_that_does_not_exist_fails_once_and_is_not_tried_again(world: World) -> None:
    run = world.trigger("retrain", {"categories": ["Jet Packs"], "base": "tiny"})

    with pytest.raises(AirflowError, match="failed at snapshot") as caught:
        world.end("retrain", run)
    world.api.pause("retrain", True)

    assert "Jet Packs" in caught.value.remedy
    assert world.instance("retrain", run, "snapshot")["try_number"] == 1


def test_a_person_says_no(world: World) -> None:
    world.run = world.trigger("retrain", {**SMALL, "require_approval": True})
    world.asked(world.run)
    assert world.champion() is None

    world.api.approve("retrain", world.run, "approval", choice="Reject")
    states = world.end("retrain", world.run)

    assert states["train"] == states["embed"] == states["gate"] == "success"
    assert (states["approval"], states["promote"], states["not_promoted"]) == ("success", "skipped", "skipped")
    assert world.champion() is None
    log = world.api.log_tail("retrain", world.run, TaskState("not_promoted", -1, "skipped", 0.0, ""), lines=50)
    assert "Not promoted" in log
    assert "Reject: admin" in log


def test_tasks_link_to_their_mlflow_run(world: World) -> None:
    plan = world.api.xcom("retrain", world.run, "snapshot")
    for task_id in ("snapshot", "train", "choose", "build", "gate"):
        links = world.instance("retrain", world.run, f"{task_id}/links")["extra_links"]
        assert links["MLflow run"].startswith("http://127.0.0.1:5000/#/experiments/"), task_id
    embedded = world.instance("retrain", world.run, "embed/links?map_index=0")["extra_links"]
    assert embedded == links
    assert plan.startswith("retrain-manual_")


def test_the_question_can_be_asked_again_and_a_person_says_yes(world: World) -> None:
    world.clear("retrain", world.run, "approval")
    world.api.pause("retrain", False)
    world.asked(world.run)
    world.api.approve("retrain", world.run, "approval")
    states = world.end("retrain", world.run)

    assert (states["approval"], states["promote"], states["not_promoted"]) == ("success", "success", "skipped")
    assert world.champion() == 1
    promotion = last_promotion_to(world.platform.database, 1)
    assert promotion is not None
    assert "Approve: admin" in promotion.reason


def test_training_can_be_cleared_and_everything_after_it_without_making_anything_twice(world: World) -> None:
    before = world.num_versions()

    world.clear("retrain", world.run, "train")
    world.api.pause("retrain", False)
    world.asked(world.run)
    world.api.approve("retrain", world.run, "approval")
    states = world.end("retrain", world.run)

    assert states["train"] == "success"
    assert world.num_versions() == before
    assert world.champion() == 1


def test_the_alias_moves_if_and_only_if_the_gates_say_so(world: World) -> None:
    # One more epoch from nothing: usually worse, and never certainly so.
    run = world.trigger("retrain", {**SMALL, "epochs": 1, "strictness": "strict"})
    states = world.end("retrain", run)

    gate = world.api.xcom("retrain", run, "gate")
    promoted = gate["outcome"] == "promote"
    assert gate["outcome"] in ("promote", "refuse")
    assert (states["promote"] == "success", states["not_promoted"]) == (promoted, "skipped")
    assert world.api.run_state("retrain", run) == "success"
    assert world.champion() == (gate["release"] if promoted else 1)


def test_new_products_refresh_the_index_by_themselves(world: World) -> None:
    champion = world.champion()
    world.api.pause("refresh_index", False)
    world.end("ingest_catalog", world.trigger("ingest_catalog", {"source": str(world.folder / "second")}))

    run = wait_for_run(world, "refresh_index", "asset_triggered")
    states = world.end("refresh_index", run)

    assert states["needed"] == states["promote"] == "success"
    manifest = world.platform.registry.release_manifest(world.champion() or 0)
    assert world.champion() != champion
    assert manifest.kind == "refresh"
    assert manifest.num_products == 280


@pytest.mark.parametrize(("name", "number"), [("enclip-catalog", 2), ("enclip-champion", 3)])
def test_an_event_without_a_change_does_nothing(world: World, name: str, number: int) -> None:
    champion, versions = world.champion(), world.num_versions()
    (asset,) = (asset for asset in world.api.call("GET", "/assets")["assets"] if asset["name"] == name)
    world.api.pause("refresh_index", False)
    world.api.call("POST", "/assets/events", {"asset_id": asset["id"], "extra": {}})

    run = wait_for_run(world, "refresh_index", "asset_triggered", number=number)
    states = world.end("refresh_index", run)

    assert states.pop("needed") == "success"
    assert set(states.values()) == {"skipped"}
    assert (world.champion(), world.num_versions()) == (champion, versions)


def test_products_changed_through_the_service_refresh_the_index(world: World) -> None:
    """A burst of changes starts one run, which waits while the DAG is paused; the run brings all of them."""
    champion, catalog = world.champion(), world.platform.catalog
    gone, model = (catalog.products().row(row) for row in (0, 1))
    picture = world.platform.blobs.get(image_key(model.image_sha256))
    world.api.pause("refresh_index", True)
    with SearchClient(world.services.search_url, api_key=WRITE_KEY, timeout_s=60) as shop:
        for number in range(5):
            made = ProductRequest(name=f"Fresh {number}", article_type="Shirts", image=picture, price=number)
            assert shop.put_product(f"fresh-{number}", made).refresh == "scheduled"
        assert shop.withdraw_product(gone.product_id).refresh == "scheduled"
        run = wait_for_run(world, "refresh_index", "manual")
        assert world.api.queued_runs("refresh_index") == [run]
        states = world.end_unpaused("refresh_index", run)

        assert states["needed"] == states["promote"] == "success"
        manifest = world.platform.registry.release_manifest(world.champion() or 0)
        assert world.champion() != champion
        assert (manifest.kind, manifest.snapshot) == ("refresh", catalog.state_digest())
        world.services.processes.wait_until(
            lambda: shop.product("fresh-4").served == "current", what="the new release", timeout_s=30
        )
        assert shop.ready().refresh_problem == ""

    needless = world.end("refresh_index", world.trigger("refresh_index", {"only_if_needed": True}))
    assert needless.pop("needed") == "success"
    assert set(needless.values()) == {"skipped"}


def test_a_wrong_password_is_said_without_it(world: World) -> None:
    with pytest.raises(AirflowError, match="answers 401 to the login of 'admin'") as caught:
        AirflowApi(world.services.airflow_url, user="admin", password="not-the-password").queued_runs("refresh_index")
    assert "not-the-password" not in str(caught.value)


def wait_for_run(world: World, dag_id: str, run_type: str, *, number: int = 1) -> str:
    """The id of the number-th run of a type, once there is one."""
    found: list[str] = []

    def there() -> bool:
        runs = world.api.call("GET", f"/dags/{dag_id}/dagRuns?order_by=run_after")["dag_runs"]
        found[:] = [run["dag_run_id"] for run in runs if run["run_type"] == run_type]
        return len(found) >= number

    world.services.processes.wait_until(there, what=f"a run of {dag_id}", timeout_s=60)
    return found[-1]
