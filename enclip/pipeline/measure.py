"""Measure any release, on its own gate split or on any catalog, writing to neither registry nor database."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclip.catalog.columns import RawRow
from enclip.catalog.groups import title_stem
from enclip.catalog.images import decode, fit_square, sha256
from enclip.catalog.read import CatalogSource, open_source
from enclip.catalog.snapshot import load_snapshot
from enclip.errors import CatalogError, ImageError
from enclip.evaluation.metrics import CUTOFF
from enclip.evaluation.qrels import read_judged, read_queries
from enclip.evaluation.queries import build_queries
from enclip.evaluation.trec import trec_id, write_trec
from enclip.models.colours import colours_of
from enclip.pipeline.gallery import Measured, extended, measure, parts_alone
from enclip.pipeline.names import encode_names
from enclip.pipeline.open_release import OpenRelease, open_release
from enclip.pipeline.platform import Platform
from enclip.records import Product, Products, Query, Split
from enclip.retrieval.searcher import Searcher

BATCH = 512  # pictures in memory at once

QueryMaker = Callable[[Products], tuple[Query, ...]]


@dataclass(frozen=True)
class Gallery:
    """What is searched: a searcher, which of its products, and which of them the release has learnt from."""

    label: str
    searcher: Searcher
    allowed: NDArray[np.bool_]
    same_picture: NDArray[np.bool_]
    same_group: NDArray[np.bool_]
    num_rejected: int

    @property
    def seen(self) -> NDArray[np.bool_]:
        """`[N]` bool: the release has learnt from the picture or the group, in training or by its heads."""
        return self.same_picture | self.same_group


def measure_release(
    platform: Platform,
    release: str | int,
    *,
    catalog: str = "",
    mapping: Mapping[str, str] | None = None,
    qrels: Path | None = None,
    trec: Path | None = None,
    on_progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """The protocol's figures of a release, as JSON-able values, and TREC files where asked.

    Args:
        catalog: a source as `enclip ingest` takes it; all its products are the gallery. Default: the
            gate split of the release's own snapshot; with `qrels`, all of the release's products.
        qrels: queries and what is relevant to them, instead of those that attributes make.
        trec: folder for `run.trec`, `qrels.trec` and those of the other kinds of query.

    Raises:
        CatalogError: no usable product, or no query can be made of the products there are; qrels that cannot be read,
            or name nothing relevant in the gallery.
    """
    opened = open_release(platform, release)
    gallery = gallery_of(platform, opened, catalog=catalog, mapping=mapping, on_progress=on_progress)
    products = gallery.searcher.products
    asked: QueryMaker = build_queries
    if qrels is not None:
        if not catalog:
            # People judge what is served: few of their products are of the gate split.
            gallery = replace(gallery, label="all products", allowed=np.ones(len(products), dtype=bool))
        asked = partial(_those_in, read_queries(qrels, products))
    queries, measured = _measure(opened, gallery, gallery.allowed, asked)
    if not queries:
        raise CatalogError(
            f"{gallery.label} gives no query: names and article types are missing or too rare.",
            remedy="Give products a name or an articleType.",
        )
    if trec is not None:
        write_trec(trec, queries, measured.rankings)
    figures = measured.evaluation.summary()
    categories = figures["by_category"]
    unseen = gallery.allowed & ~gallery.seen
    seen: dict[str, Any] = {
        "num_same_picture": int(np.count_nonzero(gallery.same_picture & gallery.allowed)),
        "num_same_group": int(np.count_nonzero(gallery.same_group & gallery.allowed)),
        "map_at_10_without_them": figures["map_at_10"],
    }
    if np.count_nonzero(unseen) < np.count_nonzero(gallery.allowed):
        rest, remeasured = _measure(opened, gallery, unseen, asked)
        seen["map_at_10_without_them"] = remeasured.evaluation.map_at_10 if rest else None
    if qrels is not None:
        figures["judged_at_10"] = _judged_at_10(read_judged(qrels), queries, measured)
    return {
        "release": opened.version,
        "gallery": gallery.label,
        "gallery_protocol": opened.manifest.gallery.protocol,
        "alone": _alone(opened, gallery, queries),
        "num_products": int(np.count_nonzero(gallery.allowed)),
        "num_rejected": gallery.num_rejected,
        **figures,
        "by_category": {name: values["map_at_10"] for name, values in categories.items()},
        "categories": categories,
        "seen_in_training": seen,
        "num_categories": len(set(products.category[gallery.allowed])),
    }


def gallery_of(
    platform: Platform,
    opened: OpenRelease,
    *,
    catalog: str = "",
    mapping: Mapping[str, str] | None = None,
    on_progress: Callable[..., None] | None = None,
) -> Gallery:
    """A catalog given by path, whole, embedded by the release's members; else the gate split of its snapshot.

    Raises:
        CatalogError: the catalog has no usable product.
    """
    if not catalog:
        return _gate(platform, opened)
    return _outside(platform, opened, catalog, mapping or {}, on_progress)


def _measure(
    opened: OpenRelease, gallery: Gallery, allowed: NDArray[np.bool_], asked: QueryMaker
) -> tuple[tuple[Query, ...], Measured]:
    queries = asked(gallery.searcher.products.take(allowed))
    blocks = opened.encode_texts([query.text for query in queries])
    return queries, measure(gallery.searcher, blocks, queries, allowed=allowed)


def _those_in(queries: Sequence[Query], products: Products) -> tuple[Query, ...]:
    """The queries with what is relevant among these products; those that have something."""
    held = frozenset(products.product_id)
    narrowed = (replace(query, relevant=query.relevant & held) for query in queries)
    return tuple(query for query in narrowed if query.relevant)


def _judged_at_10(judged: Mapping[str, frozenset[str]], queries: Sequence[Query], measured: Measured) -> float:
    """Mean share of the first 10 that a person has judged; what nobody has judged counts as wrong."""
    shares = [
        sum(not judged[query.query_id].isdisjoint((found, trec_id(found))) for found in ranking.product_ids[:CUTOFF])
        / CUTOFF
        for query, ranking in zip(queries, measured.rankings, strict=True)
    ]
    return sum(shares) / len(shares)


def _alone(opened: OpenRelease, gallery: Gallery, queries: Sequence[Query]) -> dict[str, dict[str, Any]]:
    """mAP@10 by kind of what a release that searches names is made of: pictures, vectors, words, BM25."""
    blocks = opened.encode_texts([query.text for query in queries])
    found = parts_alone(gallery.searcher, blocks, queries, allowed=gallery.allowed)
    return {
        system: {
            "gallery_protocol": searched,
            "map_at_10": {kind: values["map_at_10"] for kind, values in evaluation.summary()["by_kind"].items()},
        }
        for system, (searched, evaluation) in found.items()
    }


def _gate(platform: Platform, opened: OpenRelease) -> Gallery:
    products = opened.products
    trained = _learnt_from(platform, opened)
    return Gallery(
        label="gate split",
        searcher=opened.searcher,
        allowed=products.split == Split.GATE,
        same_picture=np.isin(products.image_sha256, trained.image_sha256),
        same_group=np.isin(products.group_id, trained.group_id),
        num_rejected=0,
    )


def _outside(
    platform: Platform,
    opened: OpenRelease,
    catalog: str,
    mapping: Mapping[str, str],
    on_progress: Callable[..., None] | None,
) -> Gallery:
    source = open_source(catalog, mapping=mapping, s3_endpoint_url=platform.settings.s3_endpoint_url)
    products, blocks, colour_NC, num_rejected = _embed_source(opened, source, on_progress)
    names = [encode_names(encoder, products)[0] for encoder in opened.encoders] if opened.searcher.has_names else []
    trained = _learnt_from(platform, opened)
    return Gallery(
        label=catalog,
        searcher=extended(opened.searcher, products, blocks, names, colour_NC),
        allowed=np.ones(len(products), dtype=bool),
        same_picture=np.isin(products.image_sha256, trained.image_sha256),
        same_group=np.isin(_stems(products), [stem for stem in _stems(trained) if stem]),
        num_rejected=num_rejected,
    )


def _learnt_from(platform: Platform, opened: OpenRelease) -> Products:
    products = load_snapshot(platform.blobs, opened.manifest.trained_on)
    return products.take(products.split != Split.GATE)  # attribute heads know *select*'s, members train's


def _stems(products: Products) -> list[str]:
    return [title_stem(name, colour) for name, colour in zip(products.name, products.base_colour, strict=True)]


def _embed_source(
    opened: OpenRelease, source: CatalogSource, on_progress: Callable[..., None] | None
) -> tuple[Products, list[NDArray[np.float16]], NDArray[np.float16], int]:
    """The usable products of a source, their embeddings by member, and colours; a picture at a time is decoded."""
    rows: list[Product] = []
    parts: list[list[NDArray[np.float16]]] = [[] for _ in opened.encoders]
    colours: list[NDArray[np.float16]] = []
    pending: list[NDArray[np.uint8]] = []
    seen: set[str] = set()
    num_rejected = 0

    def flush() -> None:
        for part, encoder, member in zip(parts, opened.encoders, opened.manifest.members, strict=True):
            canvases = np.stack([fit_square(pixels, member.pixel_side) for pixels in pending])
            part.append(encoder.encode_images(canvases, views=member.views).astype(np.float16))
        side = opened.manifest.members[0].pixel_side
        colours.append(colours_of(np.stack([fit_square(pixels, side) for pixels in pending])))
        pending.clear()
        if on_progress:
            on_progress(len(rows), None, "pictures embedded")

    for row in source.rows():
        if not isinstance(row, RawRow) or row.product.product_id in seen:
            num_rejected += 1
            continue
        try:
            data = row.data if row.data is not None else source.image(row)
            pixels = decode(data)
        except ImageError:
            num_rejected += 1
            continue
        seen.add(row.product.product_id)
        rows.append(replace(row.product, image_sha256=sha256(data)))
        pending.append(pixels)
        if len(pending) == BATCH:
            flush()
    if pending:
        flush()
    if not rows:
        raise CatalogError(f"{source.name} has no usable product.", remedy="Check its pictures with `enclip ingest`.")
    order = np.array(sorted(range(len(rows)), key=lambda index: rows[index].product_id))
    blocks = [np.concatenate(part)[order] for part in parts]
    return Products.from_rows(rows), blocks, np.concatenate(colours)[order], num_rejected
