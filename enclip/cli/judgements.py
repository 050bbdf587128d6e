"""`enclip judgements`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from enclip.cli import render
from enclip.cli.options import Json, platform


def judgements(
    qrels: Annotated[
        Path | None, typer.Option(help="Write the judged results as TREC qrels, for `enclip evaluate --qrels`.")
    ] = None,
    json: Json = False,
) -> None:
    """What people said on the page /compare: how releases stand against each other, and which results are good.

    With `--qrels FILE` good and bad results of queries in words become the qrels of the next evaluation:
    `enclip evaluate --qrels FILE`. A result is relevant where more judges found it good than bad.
    """
    from enclip.judgements import judged_results, standings
    from enclip.pipeline.judged import write_qrels

    opened = platform()
    stand = standings(opened.database)
    results = write_qrels(opened, qrels) if qrels else judged_results(opened.database)
    if json:
        render.print_json({"standings": [asdict(row) for row in stand], "results": [asdict(row) for row in results]})
        return
    if not stand and not results:
        render.out.print("Nothing has been judged yet. Judge on the page /compare of `enclip serve`.")
        return
    if stand:
        render.table(
            "Releases, by judgements",
            ("release", "against", "better", "same", "worse"),
            [(row.release, row.against, row.wins, row.ties, row.losses) for row in stand],
        )
    if results:
        render.table(
            "Results of queries in words",
            ("query", "product", "good", "bad", "last judged"),
            [(row.text, row.product_id, row.num_good, row.num_bad, f"{row.last_at:%Y-%m-%d %H:%M}") for row in results],
        )
    if qrels:
        good = sum(row.is_good for row in results)
        queries = len({row.text for row in results if row.is_good})
        render.note(f"{qrels}: {good} good and {len(results) - good} other results; {queries} queries to evaluate.")
