"""`enclip evaluate`, `gate`, `promote`, `rollback`, `report`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from enclip.cli import render
from enclip.cli.options import Json, Release, Run, platform, run_of


def evaluate(
    release: Release = "champion",
    run: Annotated[
        str, typer.Option("--run", help="Evaluate this run's release against the champion, for its gates.")
    ] = "",
    catalog: Annotated[str, typer.Option(help="Measure on this catalog, whole, instead of the gate split.")] = "",
    map: Annotated[str, typer.Option("--map", help="Other column names of that catalog: name=title,image=file.")] = "",
    trec: Annotated[Path | None, typer.Option(help="Folder for run.trec and qrels.trec.")] = None,
    json: Json = False,
) -> None:
    """Measure mAP@10 of a release, per category, image-only.

    With `--catalog` the release may never have seen the products: all of them are the gallery, and
    neither registry nor database is written to. With `--trec` other tools can recompute every figure.
    """
    from enclip.cli.options import mapping_of
    from enclip.pipeline.evaluate import evaluate_run
    from enclip.pipeline.measure import measure_release

    opened = platform()
    if run:
        figures = evaluate_run(opened, run_of(opened, run)).summary()
    else:
        figures = measure_release(opened, release, catalog=catalog, mapping=mapping_of(map), trec=trec)
    if json:
        render.print_json(figures)
        return
    show_figures(figures)


def gate(run: Run = "", json: Json = False) -> None:
    """Decide whether the run's release may become champion. A failed gate is a result, not an error."""
    from enclip.pipeline.gate import decide

    opened = platform()
    step = decide(opened, run_of(opened, run))
    if json:
        render.print_json(step.model_dump(mode="json"))
        return
    show_gate(step)


def promote(
    release: Annotated[str, typer.Argument(help="Version of `enclip` to promote; default: the run's.")] = "",
    run: Run = "",
    reason: Annotated[str, typer.Option(help="Why, for the audit table.")] = "",
    approve: Annotated[bool, typer.Option("--approve", help="A person's yes, where the gates ask for one.")] = False,
    json: Json = False,
) -> None:
    """Make a release the champion, if its gates allow it; the service follows within 5 s.

    Naming a version promotes that one without looking at gates; it is recorded as a person's decision.
    """
    from enclip.pipeline.open_release import verify_release
    from enclip.pipeline.promote import promote_by_hand
    from enclip.pipeline.promote_run import promote_run

    opened = platform()
    if release:
        done = promote_by_hand(opened, release, reason=reason, verify=partial(verify_release, opened))
        _show_promotion(done, json)
    else:
        _show_promotion(promote_run(opened, run_of(opened, run), approved=approve, reason=reason), json)


def rollback(
    to: Annotated[str, typer.Option(help="Version to go back to; default: the last one with another ensemble.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for the audit table.")] = "",
    json: Json = False,
) -> None:
    """Point the alias champion back. Withdrawn products stay withdrawn."""
    from enclip.pipeline.open_release import verify_release
    from enclip.pipeline.promote import rollback as step

    opened = platform()
    _show_promotion(step(opened, to=to or None, reason=reason, verify=partial(verify_release, opened)), json)


def report(
    run: Run = "",
    folder: Annotated[Path, typer.Option(help="Where to write NAME.md and NAME.json.")] = Path("docs/reports"),
    name: Annotated[str, typer.Option(help="File name.")] = "main-job",
) -> None:
    """Write a run's report: mAP@10 by epoch and category, ensembles, clusters on and off, time by step."""
    from enclip.pipeline.report import write_report

    opened = platform()
    with render.progress("Measuring epochs") as advance:
        for path in write_report(opened, run_of(opened, run), folder=folder, name=name, on_progress=advance):
            render.out.print(str(path))


def show_figures(figures: dict[str, Any]) -> None:
    """mAP@10 overall and by category, with counts."""
    render.table(
        f"Release {figures['release']}, {figures['gallery']} ({figures['num_products']} products)",
        ("queries", "figure", "mean", "number"),
        [
            (kind, name, value, kinds["num_queries"])
            for kind, kinds in figures["by_kind"].items()
            for name, value in kinds.items()
            if name != "num_queries"
        ],
    )
    render.table(
        "mAP@10 by category",
        ("category", "mAP@10", "queries", "relevant"),
        [
            (name, value["map_at_10"], value["num_queries"], value["num_relevant"])
            for name, value in figures["categories"].items()
        ],
    )


def show_gate(step: Any) -> None:
    """Each gate with what it saw and what it asked for."""
    render.table(
        f"Release {step.release}: {step.outcome}",
        ("gate", "verdict", "value", "bound", "reason"),
        [(row.gate, row.verdict, row.value, row.bound, row.reason) for row in step.results],
    )


def _show_promotion(done: Any, json: bool) -> None:
    if json:
        render.print_json(done.model_dump(mode="json"))
        return
    render.out.print(done.summary)
