"""Audit a release's catalog: labels that the pictures contradict, near-duplicates, and files for who corrects them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.evaluation.contact_sheet import Frame, contact_sheet
from enclip.pipeline.tables import write_csv
from enclip.records import Products
from enclip.retrieval.audit import Audit, Suspect, all_suspects, audit, neighbours_for
from enclip.retrieval.duplicates import find_duplicates
from enclip.retrieval.neighbours import Looks, Neighbours
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.spread import Spread

COLUMNS = (
    "finding",
    "group",
    "product_id",
    "name",
    "attribute",
    "given",
    "proposed",
    "score",
    "cluster",
    "cluster_size",
    "purity",
    "evidence",
)
SHEET_FRAMES = 24
NEAREST = 10  # pictures that near-duplicates are looked for among; a group may still be larger

Thumbnail = Callable[[int], NDArray[np.uint8] | None]


def audit_searcher(searcher: Searcher, *, without: frozenset[str] = frozenset()) -> Audit:
    """The audit of what a release searches; findings about some products (the withdrawn) left out."""
    found = audit(searcher.products, _looks(searcher), searcher.clusters)
    suspects = tuple(suspect for suspect in found.suspects if suspect.product_id not in without)
    duplicates = tuple(
        group for group in found.duplicates if sum(product.product_id not in without for product in group.products) > 1
    )
    return Audit(suspects, duplicates)


def findings(searcher: Searcher) -> tuple[Spread, tuple[Suspect, ...]]:
    """For the release's files: the groups that a search can fold, and all suspects, the surest first."""
    looks, size = _looks(searcher), len(searcher.products)
    voting = neighbours_for(size)
    neighbours = Neighbours.find(searcher.products, looks.vector_NP, searcher.clusters, k=max(NEAREST, voting))
    groups = find_duplicates(looks, neighbours.nearest(NEAREST))
    return Spread.of(groups, size), all_suspects(searcher.products, neighbours.nearest(voting), searcher.clusters)


def write_audit(found: Audit, path: Path) -> Path:
    """Write both lists into one CSV file: suspects by confidence, then duplicates, a row for each product."""
    return write_csv(path, COLUMNS, [*_suspect_rows(found), *_duplicate_rows(found)])


def draw_suspects(found: Audit, products: Products, thumbnail: Thumbnail, path: Path) -> Path | None:
    """The surest suspects as pictures, given → proposed below each; None where there are none.

    Args:
        thumbnail: row → uint8 RGB picture, or None where there is none.
    """
    frames = []
    for suspect in found.suspects[:SHEET_FRAMES]:
        row = int(np.searchsorted(products.product_id, suspect.product_id))
        frames.append(
            Frame(
                picture=thumbnail(row),
                title=f"{suspect.given} → {suspect.proposed}",
                note=f"{suspect.product_id}   {suspect.confidence:.3f}",
            )
        )
    if not frames:
        return None
    return contact_sheet(
        path, frames, title=f"Labels to look at: {len(frames)} of {len(found.suspects):,}, the surest first"
    )


def _looks(searcher: Searcher) -> Looks:
    return Looks.of(searcher.embedding_ND, searcher.dims, searcher.weights)


def _suspect_rows(found: Audit) -> Iterator[tuple[object, ...]]:
    for one in found.suspects:
        evidence = f"{one.support:.0%} of the vote; like {', '.join(one.evidence)}" if one.evidence else ""
        yield (
            *("label", "", one.product_id, one.name, one.attribute, one.given, one.proposed, one.confidence),
            *(one.cluster, one.cluster_size, one.purity, evidence),
        )


def _duplicate_rows(found: Audit) -> Iterator[tuple[object, ...]]:
    for number, group in enumerate(found.duplicates, 1):
        differs = f"; differs in {', '.join(group.differs)}" if group.differs else ""
        for one in group.products:
            how = "exact same picture" if one.same_picture else "near-duplicate"
            yield (
                *("duplicate", number, one.product_id, one.name, "", "", "", one.similarity),
                *(group.cluster, "", "", how + differs),
            )
