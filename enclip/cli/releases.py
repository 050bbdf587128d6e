"""`enclip evaluate`, `gate`, `promote`, `rollback`, `report`."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from enclip.cli import render
from enclip.cli.options import Json, Release, Run, platform, run_of
from enclip.errors import ConfigError

KAGL_FIGURES = (
    ("AvgR", "avg_recall"),
    ("R@1", "r_at_1"),
    ("R@10", "r_at_10"),
    ("AvgP", "avg_precision"),
    ("P@1", "p_at_1"),
    ("P@10", "p_at_10"),
    ("MRR@10", "mrr_at_10"),
    ("mAP@10 over R", "map_at_10_r"),
    ("mAP@10 over min(10, R)", "map_at_10"),
    ("mAP@10 over hits", "map_at_10_hits"),
    ("queries", "num_queries"),
    ("relevant products", "num_relevant"),
)


class EvaluationProtocol(StrEnum):
    """Which queries are asked, and which figures are made of the answers."""

    OWN = "own"
    KAGL = "kagl"


def evaluate(
    release: Release = "champion",
    run: Annotated[
        str, typer.Option("--run", help="Evaluate this run's release against the champion, for its gates.")
    ] = "",
    catalog: Annotated[str, typer.Option(help="Measure on this catalog, whole, instead of the gate split.")] = "",
    map: Annotated[str, typer.Option("--map", help="Other column names of that catalog: name=title,image=file.")] = "",
    qrels: Annotated[
        Path | None,
        typer.Option(help="Ask these queries instead, over all products: TREC qrels, such as of `enclip judgements`."),
    ] = None,
    trec: Annotated[Path | None, typer.Option(help="Folder for run.trec and qrels.trec.")] = None,
    protocol: Annotated[
        EvaluationProtocol,
        typer.Option(help="Ours, or that of public fashion leaderboards on the KAGL data set."),
    ] = EvaluationProtocol.OWN,
    json: Json = False,
) -> None:
    """Measure mAP@10 of a release, per category, as it serves: its gallery (image, name, hybrid) is named.

    Beside one that searches names stand its pictures alone, its vectors alone, and BM25 over names alone.

    With `--catalog` the release may never have seen the products: all of them are the gallery, and
    neither registry nor database is written to. With `--trec` other tools can recompute every figure.

    `--protocol kagl` asks each product's name, each subCategory and each articleType, and reports R@k, P@k
    and MRR@10; with `--catalog`, published lines stand beside. Like and unlike: docs/kagl.md.
    """
    from enclip.cli.options import mapping_of
    from enclip.pipeline.evaluate import evaluate_run
    from enclip.pipeline.measure import measure_release

    if qrels and (run or protocol is EvaluationProtocol.KAGL):
        raise ConfigError(
            f"--qrels and {'--run' if run else '--protocol kagl'} ask different queries.",
            remedy="Leave one of the two out.",
        )
    if protocol is EvaluationProtocol.KAGL:
        _evaluate_kagl(release, run=run, catalog=catalog, map=map, trec=trec, json=json)
        return
    opened = platform()
    if run:
        figures = evaluate_run(opened, run_of(opened, run)).summary()
    else:
        mapping = mapping_of(map)
        with render.progress("Measuring") as advance:
            figures = measure_release(
                opened, release, catalog=catalog, mapping=mapping, qrels=qrels, trec=trec, on_progress=advance
            )
    if json:
        render.print_json(figures)
        return
    show_figures(figures)
    if "judged_at_10" in figures:
        render.note(
            f"Of the first 10 results {figures['judged_at_10']:.0%} were judged; what nobody judged counts as wrong."
        )


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
    """mAP@10 overall and by category, with counts; what searches names has a table of its own."""
    counted = f" ({figures['num_products']} products)" if "num_products" in figures else ""
    own = {name: name for kinds in figures["by_kind"].values() for name in kinds if name != "num_queries"}
    for gallery, systems in figures.get("galleries", {figures["gallery_protocol"]: own}).items():
        render.table(
            f"Release {figures['release']}, {figures['gallery']}{counted}, {gallery}",
            ("queries", "figure", "mean", "number"),
            [
                (kind, label, kinds[name], kinds["num_queries"])
                for kind, kinds in figures["by_kind"].items()
                for label, name in systems.items()
            ],
        )
    alone = figures.get("alone")
    if alone:
        kinds = [kind for kind in figures["by_kind"] if kind in next(iter(alone.values()))["map_at_10"]]
        render.table(
            "What it is made of, mAP@10",
            ("system", "gallery", *kinds),
            [
                (system, part["gallery_protocol"], *(part["map_at_10"][kind] for kind in kinds))
                for system, part in alone.items()
            ],
        )
    render.table(
        f"mAP@10 by category, {figures['gallery_protocol']}",
        ("category", "mAP@10", "queries", "relevant"),
        [
            (name, value["map_at_10"], value["num_queries"], value["num_relevant"])
            for name, value in figures["categories"].items()
        ],
    )


def _evaluate_kagl(release: str, *, run: str, catalog: str, map: str, trec: Path | None, json: bool) -> None:
    from enclip.cli.options import mapping_of
    from enclip.pipeline.kagl import measure_kagl

    if run or trec:
        raise ConfigError(
            f"{'--run' if run else '--trec'} goes with --protocol own only.", remedy="Leave one of the two out."
        )
    mapping = mapping_of(map)
    with render.progress("Measuring") as advance:
        figures = measure_kagl(platform(), release, catalog=catalog, mapping=mapping, on_progress=advance)
    if json:
        render.print_json(figures)
    else:
        show_kagl(figures)


def show_kagl(figures: dict[str, Any]) -> None:
    """The tasks by pictures, then the category tasks as the leaderboard has them, with its lines; cautions last."""
    from enclip.evaluation.kagl import TASKS

    title = f"Release {figures['release']}, {figures['gallery']} ({figures['num_products']} products), protocol KAGL"
    tasks = [task for task in TASKS if task.key in figures["tasks"]]
    render.table(
        f"{title}, by pictures alone",
        ("figure", *(task.title for task in tasks)),
        [(label, *(figures["tasks"][task.key][name] for task in tasks)) for label, name in KAGL_FIGURES],
    )

    def line(system: str, measured: dict[str, Any]) -> tuple[object, ...]:
        return (system, *(measured.get(task.key, {}).get(task.headline) for task in TASKS))

    render.table(
        "Beside published figures" if figures["published"] else "With names, as leaderboards measure categories",
        ("system", "text → image R@10", "subCategory P@10", "articleType P@10"),
        [
            line("this release, by pictures alone", figures["tasks"]),
            line("this release, 0.1 of a product its name", figures["with_names"]),
            *((other["system"], *(other[task.key] for task in TASKS)) for other in figures["published"]),
        ],
    )
    for caution in figures["cautions"]:
        render.err.print(f"Caution: {caution}")


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
