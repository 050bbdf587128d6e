"""What every DAG of ENCLIP shares: asset, pool, retries, the form's fields, the link to MLflow."""

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import (
    Asset,
    BaseOperatorLink,
    Context,
    CronTriggerTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    get_current_context,
)
from airflow.sdk.exceptions import AirflowSkipException
from pydantic import BaseModel

if TYPE_CHECKING:
    from enclip.pipeline.platform import Platform

log = logging.getLogger(__name__)

CATALOG = Asset(name="enclip-catalog", uri="enclip://catalog")
CHAMPION = Asset(name="enclip-champion", uri="enclip://champion")
"""Gets an event when an ingest has changed the catalog. What hangs on it looks at the catalog itself,
since events can be lost (a paused DAG) or late (apache/airflow#56050)."""

GPU_POOL = "gpu"
"""One slot: two trainings never share a device. `enclip up` and the compose file create it."""

FIRST_TASK = "snapshot"
"""Every run that builds a release opens its MLflow run in a task of this name."""

TAGS = ["enclip"]


def at(cron: str) -> CronTriggerTimetable:
    """The times of a DAG, UTC.

    One that is switched on waits for the next of them. By itself Airflow would start at once a run that was due up to a
    tenth of the period ago: on most of a Monday, a weekly training.
    """
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0))


RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=[
                "enclip.errors.ConfigError",
                "enclip.errors.CatalogError",
                "enclip.errors.DeviceError",
                "enclip.errors.WeightsError",
            ],
            action=RetryAction.FAIL,
            reason="The same values would fail again; correct them and clear the task.",
        )
    ]
)


def report_failure(context: Context) -> None:
    """Say in the log what to do about a task that has failed for good."""
    instance = context["task_instance"]
    log.error(
        "%s of %s failed: %s. Clear the task to go on from here; what earlier tasks made is kept.",
        instance.task_id,
        context["run_id"],
        context.get("exception"),
    )


TASK_DEFAULTS: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(hours=2),
    "on_failure_callback": report_failure,
}


class MLflowRun(BaseOperatorLink):
    """The button "MLflow run" on a task's page, under Details; leads to the run that the first task opened."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002
        """The address that `remember_mlflow_run` left; "" before that."""
        # Airflow calls this on the worker, where the key is the task instance itself.
        pull = getattr(ti_key, "xcom_pull", None)
        return str(pull(task_ids=FIRST_TASK, key=self.xcom_key) or "") if pull else ""


LINK = MLflowRun()


def link_to_mlflow(tasks: Iterable[Any]) -> None:
    """Put the button "MLflow run" on these tasks (as `@task` functions return them)."""
    for task in tasks:
        getattr(task, "operator", task).operator_extra_links = (LINK,)


def remember_mlflow_run(platform: "Platform", mlflow_run_id: str) -> None:
    """Leave the MLflow run's address for the links of this and the later tasks."""
    url = platform.settings.resolved_mlflow_url + platform.registry.run_link(mlflow_run_id)
    get_current_context()["task_instance"].xcom_push(key=LINK.xcom_key, value=url)
    log.info("MLflow run: %s", url)


def link_now() -> None:
    """Make the link work while the task runs, and in mapped tasks; else it comes when a task ends."""
    instance = get_current_context()["task_instance"]
    url = instance.xcom_pull(task_ids=FIRST_TASK, key=LINK.xcom_key)
    instance.xcom_push(key=LINK.xcom_key, value=url or "")
    log.info("MLflow run: %s", url)


def this_run() -> str:
    """The id under which this DAG run's records lie, as its first task returned it.

    Pulled and not passed as an argument: the graph then shows the order of the work alone.
    """
    return str(get_current_context()["task_instance"].xcom_pull(task_ids=FIRST_TASK))


def skip(reason: str) -> NoReturn:
    """End this task as skipped, and say why in its log; Airflow keeps an exception's words to itself."""
    log.warning(reason)
    raise AirflowSkipException(reason)


def open_platform() -> "Platform":
    """The platform of this worker's environment; for use inside tasks, since it imports the package."""
    from enclip.config import Settings
    from enclip.pipeline.platform import open_platform as opened

    return opened(Settings())


def belief(recipe: type[BaseModel], name: str, **overrides: Any) -> Param:
    """A form field for a recipe's field: default, bounds and sentence are the recipe's own."""
    schema = {**recipe.model_json_schema()["properties"][name], **overrides}
    default = schema.pop("default")
    return Param(default, description=schema.pop("description", None), schema=schema)
