"""### Refresh the index

Embeds what is new in the catalog with the champion's models and publishes the result as a new release,
through the same gates. Minutes instead of hours, since nothing is trained: new products can be found on
the day they arrive, and `retrain` learns from them later.

**When:** after an ingest that changed the catalog, after single products were changed through the search
service, after a retraining was promoted (whose catalog may be older), and daily for what these have missed. A
run goes on only if there is a champion whose index differs from the catalog. By hand it always goes on, unless
the form says *only if needed*.

**How it ends:** at *promote*, or at *not_promoted*. If a retraining has moved the champion meanwhile,
the refresh is thrown away, since it would undo that; that promotion starts the next one.
"""

from _defaults import CATALOG, CHAMPION, TAGS, TASK_DEFAULTS, at, link_to_mlflow, open_platform, remember_mlflow_run
from _release import release_tasks
from airflow.sdk import DAG, AssetOrTimeSchedule, Param, get_current_context, task

PARAMS = {
    "only_if_needed": Param(
        False,
        type="boolean",
        title="Only if needed",
        description="Stop where the champion's index holds the catalog already. The search service asks so.",
    ),
}


@task.short_circuit
def needed() -> bool:
    """Stop here, unless a person asked or the champion's index is not the catalog's."""
    context = get_current_context()
    if context["dag_run"].run_type == "manual" and not context["params"]["only_if_needed"]:
        return True
    from enclip.pipeline.changed import should_refresh

    return should_refresh(open_platform())


@task
def snapshot() -> str:
    """Freeze the catalog and take over the champion's ensemble; the run's id."""
    from enclip.pipeline.refresh import prepare
    from enclip.pipeline.runs import run_id_from

    context = get_current_context()
    platform = open_platform()
    plan = prepare(
        platform,
        run_id_from(context["run_id"], "refresh"),
        dag_id=context["dag"].dag_id,
        dag_run_id=context["run_id"],
    )
    remember_mlflow_run(platform, plan.mlflow_run_id)
    return plan.run_id


with DAG(
    dag_id="refresh_index",
    description="Index the catalog as it is now with the champion's models.",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(timetable=at("0 5 * * *"), assets=CATALOG | CHAMPION),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    params=PARAMS,
    tags=TAGS,
) as dag:
    is_needed = needed()
    planned = snapshot()
    rest = release_tasks()
    is_needed >> planned >> rest[0]
    link_to_mlflow([planned, *rest])
