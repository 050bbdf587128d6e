"""`enclip audit`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from enclip.cli import render
from enclip.cli.options import Json, platform

LISTED = 20  # findings of a kind that a terminal shows; --csv and --json have all
NAME = 40  # characters of a product's name


def audit(
    release: Annotated[str, typer.Argument(help="A version of `enclip`, or an alias.")] = "champion",
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write every finding to this file, for a spreadsheet.")
    ] = None,
    json: Json = False,
) -> None:
    """List labels that look wrong, and near-duplicates, in a release's catalog. Nothing is changed.

    A label is suspect where the most similar pictures agree on another one; the surest come first, each with its
    cluster and how pure that is. Near-duplicates are products whose pictures the ensemble can hardly tell apart;
    exactly equal pictures are marked. Correct what is wrong in the catalog's source: the next ingest and refresh
    take it in.

    Examples: `enclip audit` · `enclip audit 7 --csv audit.csv` · `enclip audit --json`
    """
    from enclip.pipeline.audit import audit_searcher, write_audit
    from enclip.pipeline.open_release import open_release

    opened = platform()
    found_in = open_release(opened, release, encoders=False)
    found = audit_searcher(found_in.searcher, without=opened.catalog.withdrawn_ids())
    if csv is not None:
        write_audit(found, csv)
    if json:
        render.print_json({"release": found_in.version, **asdict(found)})
        return
    _show(found, found_in.version)
    if csv is not None:
        render.err.print(f"{len(found.suspects)} labels and {len(found.duplicates)} groups in {csv}")


def _show(found: Any, version: int) -> None:
    suspects, groups = found.suspects[:LISTED], found.duplicates[:LISTED]
    render.table(
        f"Release {version}: labels to look at ({len(suspects)} of {len(found.suspects)})",
        ("product", "name", "label", "given", "proposed", "sure", "vote", "cluster"),
        [
            (
                *(one.product_id, _short(one.name), one.attribute, one.given, one.proposed),
                *(one.confidence, f"{one.support:.0%}", f"{one.cluster} ({one.purity:.0%} pure)"),
            )
            for one in suspects
        ],
    )
    render.table(
        f"Near-duplicates ({len(groups)} of {len(found.duplicates)} groups)",
        ("products", "names", "similarity", "same picture", "differ in"),
        [
            (
                "\n".join(product.product_id for product in group.products),
                "\n".join(_short(product.name) for product in group.products),
                group.similarity,
                "yes" if all(product.same_picture for product in group.products) else _some(group),
                ", ".join(group.differs),
            )
            for group in groups
        ],
    )


def _some(group: Any) -> str:
    same = sum(product.same_picture for product in group.products)
    return f"{same} of {len(group.products)}" if same else ""


def _short(name: str) -> str:
    # A name's own line breaks would pull its row apart from its id.
    words = " ".join(name.split())
    return words if len(words) <= NAME else words[: NAME - 1] + "…"
