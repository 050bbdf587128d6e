"""The half that a retraining and an index refresh share: embed, build, evaluate, gate, promote.

Each task is one pipeline step. The run's id goes from task to task; what a step has made lies under it,
so that any task can be cleared and run again. The alias moves in the last task that can fail.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from _defaults import link_now, open_platform, skip, this_run
from airflow.providers.standard.operators.hitl import HITLBranchOperator
from airflow.sdk import Asset, Context, TriggerRule, get_current_context, task

APPROVE, REJECT = "Approve", "Reject"
ANSWER_WITHIN = timedelta(days=7)

ASKING = """{{ ti.xcom_pull(task_ids='gate')['summary'] }}

| gate | verdict | value | bound | reason |
|---|---|---|---|---|
{% for row in ti.xcom_pull(task_ids='gate')['results'] -%}
| {{ row['gate'] }} | {{ row['verdict'] }} | {{ row['value'] }} | {{ row['bound'] }} | {{ row['reason'] }} |
{% endfor %}
[MLflow run]({{ ti.xcom_pull(task_ids='snapshot', key='_link_MLflowRun') }})

Without an answer within seven days the release is not promoted."""


class Approval(HITLBranchOperator):
    """A question with two answers that remembers who gave which; a branch by itself returns nothing."""

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Goes on after the answer, or after the time for one."""
        by = (event.get("responded_by_user") or {}).get("name", "nobody in time")
        chosen = (event.get("chosen_options") or [REJECT])[0]
        context["task_instance"].xcom_push(key="answer", value={"chosen": chosen, "by": by})
        return super().execute_complete(context, event)


def release_tasks(*before_build: Any, outlets: Sequence[Asset] = ()) -> list[Any]:
    """The tasks from the chosen ensemble to the alias, wired; the first of them is to come after the rest.

    Args:
        before_build: tasks beside the embedding whose results the build needs too.
        outlets: assets that a promotion changes.
    """
    shards = plan_embedding()
    embedded = embed.expand_kwargs(shards)
    built, evaluated, gated = build(), evaluate(), gate()
    routed = route()
    asked = Approval(
        task_id="approval",
        subject="Promote release {{ ti.xcom_pull(task_ids='gate')['release'] }} to champion?",
        body=ASKING,
        options=[APPROVE, REJECT],
        options_mapping={APPROVE: "promote", REJECT: "not_promoted"},
        defaults=[REJECT],
        response_timeout=ANSWER_WITHIN,
        execution_timeout=None,
        # Airflow fails the task if the answer comes in the second in which it starts to wait; it asks again.
        retries=2,
    )
    promoted, refused = promote.override(outlets=list(outlets))(), not_promoted()
    [embedded, *before_build] >> built
    built >> evaluated >> gated >> routed >> [asked, promoted, refused]
    asked >> [promoted, refused]
    return [shards, embedded, built, evaluated, gated, routed, asked, promoted, refused]


@task
def plan_embedding() -> list[dict[str, int]]:
    """Member × shard: one embedding task each."""
    from dataclasses import asdict

    from enclip.pipeline.shards import plan_embedding as step

    return [asdict(part) for part in step(open_platform(), this_run())]


@task(map_index_template="member {{ member }}, shard {{ shard }}", max_active_tis_per_dagrun=4)
def embed(member: int, shard: int) -> dict[str, Any]:
    """One member's embeddings of one part of the catalog; a part that exists is left as it is."""
    from enclip.pipeline.embed import embed as step

    context = get_current_context()
    context["member"], context["shard"] = member, shard  # type: ignore[typeddict-unknown-key]
    link_now()
    return step(open_platform(), this_run(), member=member, shard=shard).model_dump(mode="json")


@task
def build() -> dict[str, Any]:
    """Projection, clusters and index; the result is registered as a version of `enclip`."""
    from enclip.pipeline.cluster import build as step

    return step(open_platform(), this_run()).model_dump(mode="json")


@task
def evaluate() -> dict[str, Any]:
    """mAP@10 of challenger and champion on the same gate queries; figures go to MLflow."""
    from enclip.pipeline.evaluate import evaluate_run

    step = evaluate_run(open_platform(), this_run())
    return {
        "release": step.release,
        "map_at_10": step.mean("challenger"),
        "champion": step.champion,
        "champion_map_at_10": step.mean("champion") if step.champion else None,
        "num_categories": len(step.by_category),
    }


@task
def gate() -> dict[str, Any]:
    """The gates' decision. A gate that fails is a result with reasons, not an error."""
    from enclip.pipeline.gate import decide

    return decide(open_platform(), this_run()).model_dump(mode="json")


@task.branch
def route() -> str:
    """Promote, ask a person, or end as not promoted."""
    return {"promote": "promote", "ask": "approval", "refuse": "not_promoted"}[_decision()["outcome"]]


@task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
def promote() -> dict[str, Any]:
    """Move the alias `champion`, if the champion is still the one that was measured against."""
    from enclip.pipeline.promote_run import promote_run

    answer = _answer()
    step = promote_run(
        open_platform(), this_run(), approved=answer.get("chosen") == APPROVE, reason=_sentence_of(answer)
    )
    if not step.promoted:
        skip(step.summary)
    return step.model_dump(mode="json")


@task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
def not_promoted() -> None:
    """The run ends here, green and skipped, with the reasons; the champion stays."""
    from enclip.pipeline.promote_run import promote_run

    reason = _sentence_of(_answer())
    step = promote_run(open_platform(), this_run(), approved=False, reason=reason)
    skip(f"Not promoted. {step.summary} {reason}".strip())


def _decision() -> dict[str, Any]:
    """What `gate` has returned."""
    decision: dict[str, Any] = get_current_context()["task_instance"].xcom_pull(task_ids="gate")
    return decision


def _answer() -> dict[str, str]:
    """Who chose what; empty where nobody was asked."""
    return get_current_context()["task_instance"].xcom_pull(task_ids="approval", key="answer") or {}


def _sentence_of(answer: dict[str, str]) -> str:
    return f"{answer['chosen']}: {answer['by']}, in Airflow." if answer else ""
