"""### Retrain the search

Freezes the catalog, fine-tunes CLIP on it, registers every epoch, chooses an ensemble, embeds and
clusters the catalog with it, measures mAP@10 per category, and moves the alias `champion` when the gates
say that search gets better.

**When:** weekly, and after an ingest that changed the catalog. Both look at the catalog itself: a run
goes on only if it differs from what the last attempt was trained on, whether that was promoted or not.
A run started by hand always goes on.

**By hand:** the form takes categories to focus on (new ones too). Such a run fine-tunes from the
champion on them, with a replay sample of the rest.

**How it ends:** at *promote*, or at *not_promoted*, skipped and with the reasons in its log. Where the
gates ask for a person, *approval* waits for an answer under "Required Actions".

**Again:** any task can be cleared; training goes on after its last finished epoch. The button
*MLflow run*, under a task's *Details*, leads to the run's epochs and plots.
"""

import shlex
from datetime import timedelta
from typing import Any, get_args

from _defaults import (
    CATALOG,
    CHAMPION,
    GPU_POOL,
    TAGS,
    TASK_DEFAULTS,
    at,
    belief,
    link_now,
    link_to_mlflow,
    open_platform,
    remember_mlflow_run,
    this_run,
)
from _release import release_tasks
from airflow.sdk import DAG, AssetOrTimeSchedule, Param, get_current_context, task

from enclip.recipes import SHADOW_FIELDS, GatePolicy, ReleaseRecipe, RetrainRecipe, Strictness, TrainRecipe

BASES = ["tiny", "champion", "ViT-B-32:laion2b_s34b_b79k", "hf-hub:Marqo/marqo-fashionSigLIP", "local-dir:/weights"]

PARAMS = {
    "categories": Param(
        None,
        type=["array", "null"],
        items={"type": "string", "minLength": 1},
        title="Categories to focus on",
        description="One a line, subCategory or articleType, new ones included; none: the whole catalog.",
    ),
    "base": Param(
        None,
        type=["null", "string"],
        examples=BASES,
        title="Base weights",
        description="tiny (from nothing), NAME:TAG of open_clip, hf-hub:…, local-dir:PATH, or champion. "
        "Empty: champion for a run on categories, else tiny.",
    ),
    "epochs": belief(TrainRecipe, "epochs"),
    "instances": belief(TrainRecipe, "instances"),
    "mix": belief(TrainRecipe, "mix", title="Share of batches mixed"),
    "lora_rank": belief(TrainRecipe, "lora_rank", title="Rank of low-rank updates"),
    "max_members": belief(ReleaseRecipe, "max_members", title="Members at most"),
    "max_text_ms": belief(ReleaseRecipe, "max_text_ms", title="ms for encoding words, at most"),
    "max_memory_mb": belief(ReleaseRecipe, "max_memory_mb", title="MB of memory, at most"),
    "exact_up_to": belief(ReleaseRecipe, "exact_up_to", title="Products up to which search is exact"),
    "max_search_ms": belief(ReleaseRecipe, "max_search_ms", title="ms for an exact search, at most"),
    "gallery": belief(ReleaseRecipe, "gallery", title="What is searched"),
    "views": belief(ReleaseRecipe, "views", title="Views of a picture"),
    "strictness": Param(
        "normal",
        type="string",
        enum=list(get_args(Strictness)),
        title="Gate strictness",
        description="How much mAP@10 a challenger may lose: strict, normal, lenient.",
    ),
    "device": belief(TrainRecipe, "device"),
    "processes": Param(
        1,
        type="integer",
        minimum=1,
        maximum=64,
        title="Training processes",
        description="Above 1, torchrun starts that many on this machine, one a GPU.",
    ),
    "require_approval": belief(GatePolicy, "require_approval"),
    **{name: belief(GatePolicy, name) for name in SHADOW_FIELDS},
}


def recipe_of(params: dict[str, Any]) -> RetrainRecipe:
    """The recipe that a filled-in form means."""
    categories = tuple(params["categories"] or ())
    return RetrainRecipe(
        train=TrainRecipe(
            base=params["base"] or ("champion" if categories else TrainRecipe.model_fields["base"].default),
            epochs=params["epochs"],
            instances=params["instances"],
            mix=params["mix"],
            lora_rank=params["lora_rank"],
            focus=categories,
            device=params["device"],
        ),
        release=ReleaseRecipe(
            max_members=params["max_members"],
            max_text_ms=params["max_text_ms"],
            max_memory_mb=params["max_memory_mb"],
            exact_up_to=params["exact_up_to"],
            max_search_ms=params["max_search_ms"],
            gallery=params["gallery"],
            views=params["views"],
        ),
        gate=GatePolicy.named(
            params["strictness"],
            require_approval=params["require_approval"],
            **{name: params[name] for name in SHADOW_FIELDS},
        ),
    )


def train_command(run_id: str, *, processes: int) -> str:
    """The shell command that trains: one process, or as many as torchrun is told to start."""
    launcher = f"torchrun --standalone --nproc-per-node={processes} -m enclip" if processes > 1 else "enclip"
    return f"exec {launcher} train --run {shlex.quote(run_id)} --json"


def summary_of(last_line: str) -> dict[str, Any]:
    """What later tasks and people want to know of the record that training prints last."""
    import json

    step = json.loads(last_line)
    best = max(step["epochs"], key=lambda epoch: epoch["map_at_10"])
    return {
        "num_epochs": len(step["epochs"]),
        "best": {name: best[name] for name in ("version", "instance", "epoch", "map_at_10")},
        "device": step["device"],
        "images_per_s": step["images_per_s"],
    }


@task.short_circuit
def needed() -> bool:
    """Stop here, unless a person asked or the catalog differs from the last attempt's."""
    if get_current_context()["dag_run"].run_type == "manual":
        return True
    from enclip.pipeline.changed import should_retrain

    return should_retrain(open_platform())


@task
def snapshot() -> str:
    """Freeze the catalog, resolve the base weights, open the MLflow run; the run's id."""
    from enclip.pipeline.runs import run_id_from
    from enclip.pipeline.snapshot import take

    context = get_current_context()
    platform = open_platform()
    plan = take(
        platform,
        run_id_from(context["run_id"], "retrain"),
        recipe_of(dict(context["params"])),
        dag_id=context["dag"].dag_id,
        dag_run_id=context["run_id"],
    )
    remember_mlflow_run(platform, plan.mlflow_run_id)
    return plan.run_id


@task.bash(
    pool=GPU_POOL,
    execution_timeout=timedelta(days=2),
    output_processor=summary_of,
    # The last finished epoch is kept, so another try costs an epoch at most.
    retries=3,
)
def train() -> str:
    """Fine-tune in a process group of its own, which ends with the task; each epoch is registered."""
    link_now()
    return train_command(this_run(), processes=get_current_context()["params"]["processes"])


@task
def choose() -> dict[str, Any]:
    """Members and weights of the ensemble, by mAP@10 on *select*."""
    from enclip.pipeline.choose import choose as step

    chosen = step(open_platform(), this_run())
    return {
        "members": [{"version": member.version, "weight": member.weight} for member in chosen.members],
        "chosen_because": chosen.chosen_because,
    }


@task(pool=GPU_POOL, execution_timeout=timedelta(hours=12))
def distil() -> dict[str, Any]:
    """One text tower learns to answer for all members, so that a query in words costs one pass."""
    from enclip.pipeline.distil import distil_run

    link_now()
    return distil_run(open_platform(), this_run()).model_dump(mode="json")


with DAG(
    dag_id="retrain",
    description="Fine-tune, ensemble, cluster, evaluate, gate, promote.",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(timetable=at("0 3 * * 1"), assets=[CATALOG]),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    params=PARAMS,
    tags=TAGS,
) as dag:
    is_needed = needed()
    planned = snapshot()
    trained = train()
    chosen, distilled = choose(), distil()
    rest = release_tasks(distilled, outlets=[CHAMPION])
    is_needed >> planned >> trained >> chosen >> [distilled, rest[0]]
    link_to_mlflow([planned, trained, chosen, distilled, *rest])
