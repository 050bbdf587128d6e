"""`enclip retrain` and its steps; `enclip refresh`."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from enclip.cli import render
from enclip.cli.options import Json, Run, platform, run_of
from enclip.cli.recipe import recipe_from, with_recipe_options
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import Record, new_run_id

TELLING = ("name", "version", "instance", "epoch", "map_at_10", "weight")


@with_recipe_options
def snapshot(run: Run = "", json: Json = False, **beliefs: Any) -> None:
    """Plan a retraining: freeze the catalog, resolve the base, write down the recipe.

    The steps after it act on the run planned last, or on `--run`.
    """
    from enclip.pipeline.snapshot import take

    _show(take(platform(), run or new_run_id("retrain"), recipe_from(beliefs)), json)


def train(run: Run = "", json: Json = False) -> None:
    """Fine-tune; every epoch becomes a version of `enclip-epoch`. Resumes after the last finished epoch.

    On several GPUs: `torchrun --nproc-per-node 4 -m enclip train --run RUN`.
    """
    opened = platform()
    _show(_train(opened, run_of(opened, run)), json)


def choose(run: Run = "", json: Json = False) -> None:
    """Choose the ensemble's members and weights by mAP@10 on *select*."""
    from enclip.pipeline.choose import choose as step

    opened = platform()
    _show(step(opened, run_of(opened, run)), json)


def distil(run: Run = "", json: Json = False) -> None:
    """Teach one text tower to answer for all members, so that words cost one pass; resumes after its last epoch."""
    from enclip.pipeline.distil import distil_run

    opened = platform()
    with render.progress("Distilling") as advance:
        step = distil_run(
            opened,
            run_of(opened, run),
            on_text=lambda step, steps, loss: advance(step, steps, f"loss {loss:.4f}"),
        )
    _show(step, json)


def embed(
    run: Run = "",
    member: Annotated[int | None, typer.Option(min=0, help="Only this row of the ensemble.")] = None,
    shard: Annotated[int | None, typer.Option(min=0, help="Only this part of the catalog.")] = None,
    json: Json = False,
) -> None:
    """Embed the catalog with the chosen members; shards that exist are left as they are."""
    opened = platform()
    steps = _embed(
        opened, run_of(opened, run), lambda task: member in (None, task.member) and shard in (None, task.shard)
    )
    if json:
        render.print_json({"shards": [step.model_dump() for step in steps]})
        return
    render.table(
        "Embedded",
        ("shard", "images", "reused", "images/s"),
        [(step.key, step.num_images, step.num_reused, step.images_per_s) for step in steps],
    )


def cluster(run: Run = "", json: Json = False) -> None:
    """Project, cluster and index; register the result as a release (a version of `enclip`)."""
    from enclip.pipeline.cluster import build

    opened = platform()
    _show(build(opened, run_of(opened, run)), json)


@with_recipe_options
def retrain(run: Run = "", json: Json = False, **beliefs: Any) -> None:
    """Every step in turn: snapshot, train, choose, distil, embed, cluster, evaluate, gate, promote.

    The same as Airflow's `retrain` DAG, in one process. Kill it at any point and run it again with
    `--run` to go on.
    """
    from enclip.pipeline.retrain import finish
    from enclip.pipeline.snapshot import take

    opened = platform()
    plan = take(opened, run or new_run_id("retrain"), recipe_from(beliefs))
    render.err.print(f"run {plan.run_id}: {plan.num_products} products")
    _train(opened, plan.run_id)
    with render.progress("Releasing") as advance:
        outcome = finish(opened, plan.run_id, on_progress=advance)
    _show_outcome(outcome, json)


def refresh(run: Run = "", json: Json = False) -> None:
    """Index the catalog as it is now with the champion's models: a new release, gated and promoted."""
    from enclip.pipeline.refresh import prepare
    from enclip.pipeline.retrain import finish_refresh

    opened = platform()
    plan = prepare(opened, run or new_run_id("refresh"))
    with render.progress("Refreshing") as advance:
        outcome = finish_refresh(opened, plan.run_id, on_progress=advance)
    _show_outcome(outcome, json)


def _train(opened: Platform, run_id: str) -> Record:
    from enclip.pipeline.train import train as step

    with render.progress("Training") as advance:

        def on_progress(now: Any) -> None:
            note = f"instance {now.instance} epoch {now.epoch} loss {now.loss:.3f} {now.images_per_s:.0f} images/s"
            advance(now.step, now.steps, note)

        return step(opened, run_id, on_progress=on_progress)


def _embed(opened: Platform, run_id: str, wanted: Callable[[Any], bool]) -> list[Any]:
    from enclip.pipeline.embed import embed as step
    from enclip.pipeline.shards import plan_embedding

    tasks = [task for task in plan_embedding(opened, run_id) if wanted(task)]
    steps = []
    with render.progress("Embedding", total=len(tasks)) as advance:
        for done, task in enumerate(tasks, 1):
            steps.append(step(opened, run_id, member=task.member, shard=task.shard))
            advance(done)
    return steps


def _show(record: Record, json: bool) -> None:
    if json:
        render.print_json(record.model_dump(mode="json"))
        return
    values = record.model_dump(mode="json")
    render.table(type(record).__name__, ("", ""), [(name, _short(value)) for name, value in values.items()])


def _short(value: object) -> str:
    """A value for a table's cell: of a list of records, one line each with what tells them apart."""
    if not (isinstance(value, list) and value and isinstance(value[0], dict)):
        return str(value)
    lines = [[(key, row[key]) for key in TELLING if key in row] for row in value]
    return "\n".join(
        ", ".join(f"{key} {part:.3f}" if isinstance(part, float) else f"{key} {part}" for key, part in line)
        for line in lines
    )


def _show_outcome(outcome: Any, json: bool) -> None:
    from enclip.cli.releases import show_gate

    if json:
        render.print_json(outcome.model_dump(mode="json"))
        return
    show_gate(outcome.gate)
    render.out.print(outcome.summary)
