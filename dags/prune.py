"""### Free the disk

Deletes the weights and indexes that nobody goes back to: of releases that neither an alias nor a run of late
names, that are neither among the newest nor young, and that no gate compares with; of epochs that none of the
remaining releases has; and what runs of long ago left on the way. Versions stay in MLflow with their metrics,
releases with their reports.

**When:** on Sundays, but only once somebody has switched this DAG on: what it deletes cannot be had back.
Each run keeps what the form says. By hand, *dry run* says what would go.

**How it ends:** the task's log and its XCom say how much went.
"""

from typing import Any

from _defaults import TAGS, TASK_DEFAULTS, at, belief, open_platform
from airflow.sdk import DAG, Param, get_current_context, task

from enclip.recipes import Retention

PARAMS = {
    "keep_releases": belief(Retention, "keep_releases"),
    "keep_days": belief(Retention, "keep_days"),
    "dry_run": Param(False, type="boolean", title="Dry run", description="Delete nothing; say what would go."),
}


@task
def prune() -> dict[str, Any]:
    """Delete what nobody goes back to; the releases that were kept, and how much went by kind."""
    from enclip.pipeline.prune import prune as step

    params = get_current_context()["params"]
    retention = Retention(keep_releases=params["keep_releases"], keep_days=params["keep_days"])
    return step(open_platform(), retention, dry_run=params["dry_run"]).summary()


with DAG(
    dag_id="prune",
    description="Free the disk of releases and epochs that nobody goes back to.",
    doc_md=__doc__,
    schedule=at("0 2 * * 0"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    default_args=TASK_DEFAULTS,
    params=PARAMS,
    tags=TAGS,
) as dag:
    prune()
