"""`enclip ingest`, `enclip draw`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from enclip.cli import render
from enclip.cli.options import Json, mapping_of, platform

LISTED = 20  # rows set aside that a terminal shows; --json has more


def ingest(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder with styles.csv and images/, a folder of pictures in sub-folders by label "
            "(LABEL/picture.jpg), s3://bucket/prefix, or hf:NAME."
        ),
    ],
    map: Annotated[str, typer.Option("--map", help="Other column names: name=title,image=file.")] = "",
    mode: Annotated[
        Literal["upsert", "full"],
        typer.Option(help="full: what the source no longer has is withdrawn, within its source and categories."),
    ] = "upsert",
    category: Annotated[
        list[str] | None, typer.Option("--category", help="Take in only this category; may be repeated.")
    ] = None,
    allow_vanish: Annotated[bool, typer.Option("--allow-vanish", help="Let mode full withdraw more than 20%.")] = False,
    json: Json = False,
) -> None:
    """Take in what is new or changed in a catalog.

    Rows that cannot be used are set aside and counted; the exit status stays 0. Running again goes on
    where it stopped: products that are in already are recognised by their content.

    Of labelled pictures the sub-folder's name is the articleType, and the words of the file's name are the
    product's.

    Examples: `enclip ingest ./shop` · `enclip ingest ./labelled-pictures` ·
    `enclip ingest s3://shop/feed --mode full` · `enclip ingest ./shop --map name=title,image=file`
    """
    from enclip.pipeline.ingest import ingest_source

    with render.progress("Ingesting") as advance:
        report = ingest_source(
            platform(),
            source,
            mapping=mapping_of(map),
            mode=mode,
            categories=tuple(category or ()),
            allow_vanish=allow_vanish,
            on_progress=advance,
        )
    if not (report.accepted or report.unchanged or report.rejected):
        wanted = f" of category {' or '.join(category)}" if category else ""
        render.err.print(f"Nothing to take in: {source} has no product{wanted}.")
    if json:
        render.print_json(asdict(report))
        return
    render.table(
        f"Ingested {source}",
        ("accepted", "unchanged", "rejected", "gone"),
        [(report.accepted, report.unchanged, report.rejected, report.gone)],
    )
    if report.rejections:
        listed = report.rejections[:LISTED]
        render.table(
            f"Set aside ({len(listed)} of {report.rejected})",
            ("row", "product", "reason"),
            [(rejection.row, rejection.product_id, rejection.reason) for rejection in listed],
        )


def draw(
    folder: Annotated[Path, typer.Argument(help="Where to write styles.csv and images/.")],
    products: Annotated[int, typer.Option(min=1, max=100_000, help="How many.")] = 300,
    seed: Annotated[int, typer.Option(help="Same seed, same catalog.")] = 0,
    start: Annotated[int, typer.Option(min=0, help="Number of the first product, for a second batch.")] = 0,
) -> None:
    """Draw a small catalog to try things with: shapes, colours and patterns that a model can learn."""
    from enclip.catalog.drawn import draw_catalog

    draw_catalog(folder, num_products=products, seed=seed, start=start)
    render.out.print(f"{products} products in {folder}")
