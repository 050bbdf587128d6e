"""`enclip search`, `enclip serve`, `enclip status`."""

import stat
from pathlib import Path
from typing import Annotated

import typer

from enclip.cli import render
from enclip.cli.options import Category, Colour, Gender, Json, PriceMax, PriceMin, Release, platform
from enclip.errors import ImageError, QueryError
from enclip.records import MAX_PRICE, Filters

MAX_IMAGE_BYTES = 20_000_000


def search(
    text: Annotated[str, typer.Argument(help="What to look for, in words.")] = "",
    image: Annotated[Path | None, typer.Option("--image", help="A picture to look for, alone or with words.")] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="Number of results.")] = 10,
    like: Annotated[str, typer.Option("--like", metavar="ID", help="A product to find others like.")] = "",
    without: Annotated[str, typer.Option("--without", help="Words to turn from.")] = "",
    offset: Annotated[int, typer.Option(help="The best results to pass over.")] = 0,
    text_weight: Annotated[float, typer.Option(help="Share of the words among what is given.")] = 1.0,
    image_weight: Annotated[float, typer.Option(help="Share of the picture.")] = 1.0,
    like_weight: Annotated[float, typer.Option(help="Share of the product.")] = 1.0,
    category: Category = None,
    gender: Gender = None,
    colour: Colour = None,
    price_min: PriceMin = None,
    price_max: PriceMax = None,
    spread: Annotated[
        bool, typer.Option("--spread", help="Show one of each group of near-duplicates, and how many it stands for.")
    ] = False,
    release: Release = "champion",
    json: Json = False,
) -> None:
    """Search the catalog with a release.

    Examples: `enclip search "navy blue shirt"` · `enclip search --image shoe.jpg` ·
    `enclip search "in red" --image bag.jpg --category Bags` · `enclip search "white t-shirt" --spread` ·
    `enclip search "red" --like 15970` · `enclip search "shirt" --without "blue"` ·
    `enclip search "handbag" --price-min 20 --price-max 50`
    """
    from enclip.pipeline.open_release import open_release

    _check_prices(price_min, price_max)
    picture = _read_image(image) if image else None
    opened = platform()
    found = open_release(opened, release)
    ranking = found.search(
        text=text,
        image=picture,
        like=like or None,
        without=without,
        weights={"text": text_weight, "image": image_weight, "like": like_weight},
        filters=Filters(tuple(category or ()), tuple(gender or ()), tuple(colour or ()), price_min, price_max),
        k=k,
        offset=offset,
        withdrawn=opened.catalog.withdrawn_ids(),
        spread=spread,
    )
    if spread and found.near_duplicates is None:
        render.err.print(f"Release {found.version} stores no near-duplicates; `enclip refresh` builds one that does.")
    by_id = {product.product_id: product for product in map(found.product, ranking.product_ids)}
    if json:
        render.print_json(
            {
                "release": found.version,
                "results": [
                    {
                        "product_id": hit.product_id,
                        "score": round(hit.score, 6),
                        "name": by_id[hit.product_id].name,
                        "category": by_id[hit.product_id].category,
                        "price": by_id[hit.product_id].price,
                        "cluster": hit.cluster,
                        "folded": hit.folded,
                    }
                    for hit in ranking.hits
                ],
            }
        )
        return
    priced = ["price"] if any(product.price is not None for product in by_id.values()) else []
    render.table(
        f"Release {found.version}: {_asked(text, image, like, without)}",
        ("", "product", "name", "category", "colour", *priced, "score", *(["folded"] if spread else [])),
        [
            (
                *(place, hit.product_id, product.name, product.category, product.base_colour),
                *([f"{product.price:.2f}" if product.price is not None else ""] if priced else []),
                hit.score,
                *([hit.folded or None] if spread else []),
            )
            for place, hit in enumerate(ranking.hits, 1 + offset)
            for product in [by_id[hit.product_id]]
        ],
    )
    if not ranking.hits:
        render.err.print("No product of the release passes these filters.")


def serve(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines reach needs ENCLIP_API_KEYS.")
    ] = "127.0.0.1",
) -> None:
    """Serve search over HTTP: the page at /, the API under /v1, its description at /docs.

    Follows the alias champion within 5 s of any move, without a restart.

    ENCLIP_API_KEYS (keys of 16 characters or more, separated by commas) locks /v1: a request then brings a key as
    `Authorization: Bearer KEY` or `X-API-Key: KEY`. Pictures of products, /health, /metrics and the pages stay open.

    ENCLIP_WRITE_KEYS, written alike, lets its holders change single products: PUT and DELETE of /v1/products/ID.
    With ENCLIP_AIRFLOW_PASSWORD set, changes start Airflow's refresh_index; else `enclip refresh` indexes them.

    A search that waits longer than ENCLIP_SEARCH_WAIT_S (5) for its turn is refused with 503, one that comes while
    256 wait with 429. SIGTERM finishes what was accepted.

    ENCLIP_QUERY_LOG (a file) keeps what was searched for, ENCLIP_LOG_FORMAT=json makes the log JSON, and
    OTEL_EXPORTER_OTLP_ENDPOINT sends traces to a collector.

    Examples: `enclip serve` · `ENCLIP_API_KEYS=$(openssl rand -hex 32) enclip serve --host 0.0.0.0`
    """
    from enclip.serving.run import run_server
    from enclip.standalone.refresh import refresh_trigger

    opened = platform()
    run_server(opened, host=host, port=port, refresh=refresh_trigger(opened.settings))


def status(json: Json = False) -> None:
    """Show what serves, what was tried last, and what to roll back to."""
    from enclip.pipeline.status import read_status

    found = read_status(platform())
    if json:
        render.print_json(found)
        return
    champion = found["champion"]
    if champion is None:
        render.out.print("No champion yet. Run `enclip ingest PATH`, then `enclip retrain`.")
    else:
        render.table(
            f"Champion: release {champion['release']}",
            ("mAP@10", "products", "snapshot", "promoted", "reason"),
            [
                (
                    champion["metrics"].get("map_at_10"),
                    champion["num_products"],
                    champion["snapshot"][:12],
                    _minute(champion["promoted_at"]),
                    champion["reason"],
                )
            ],
        )
        render.table(
            "Members",
            ("version", "instance", "epoch", "weight"),
            [(m["version"], m["instance"], m["epoch"], m["weight"]) for m in champion["members"]],
        )
        render.table("mAP@10 by category", ("category", "mAP@10"), champion["metrics"].get("by_category", {}).items())
    render.out.print(f"challenger: {found['challenger'] or '–'}   previous: {found['previous'] or '–'}")
    render.out.print(f"catalog: {found['catalog']['live']} products   tracking: {found['tracking_uri']}")


def _asked(text: str, image: Path | None, like: str, without: str) -> str:
    """A question in one line."""
    parts = [text, str(image) if image else "", f"like {like}" if like else "", f"without {without}" if without else ""]
    return ", ".join(filter(None, parts))


def _check_prices(lowest: float | None, highest: float | None) -> None:
    """Raise QueryError for bounds that leave no price."""
    given = {"--price-min": lowest, "--price-max": highest}
    bounds = {name: bound for name, bound in given.items() if bound is not None}
    if not all(0 <= bound <= MAX_PRICE for bound in bounds.values()) or [*bounds.values()] != sorted(bounds.values()):
        raise QueryError(
            f"No price passes {' and '.join(f'{name} {bound:g}' for name, bound in bounds.items())}.",
            remedy="Give 0 ≤ --price-min ≤ --price-max.",
        )


def _minute(moment: str | None) -> str:
    """An ISO moment in UTC as people read it."""
    return f"{moment[:16].replace('T', ' ')} UTC" if moment else ""


def _read_image(path: Path) -> bytes:
    """The bytes of a picture that can be decoded. Raises QueryError naming the file."""
    from enclip.catalog.images import decode

    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to read a pipe or a device might never end
            raise QueryError(f"{path} is no file.", remedy="Name a picture.")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise QueryError(f"{path} has more than {MAX_IMAGE_BYTES // 1_000_000} MB.", remedy="Shrink the picture.")
        data = path.read_bytes()
        decode(data)
    except OSError as error:
        raise QueryError(f"Cannot read {path}: {error.strerror}.", remedy="Name another picture.") from error
    except ImageError as error:
        raise QueryError(f"{path}: {error.what}", remedy="Name another picture.") from error
    return data
