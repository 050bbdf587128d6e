"""Ask releases the protocol's queries over one gallery, with their own search (D11)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclip.evaluation.metrics import Evaluation, evaluate
from enclip.pipeline.embed import embed_rows
from enclip.pipeline.open_release import OpenRelease
from enclip.pipeline.platform import Platform
from enclip.records import Floats, Products, Query, Ranking
from enclip.retrieval.searcher import Searcher

DEPTH = 100  # what run.trec holds of each ranking


@dataclass(frozen=True)
class Measured:
    """Rankings of every query, in the queries' order, and the figures they give."""

    rankings: tuple[Ranking, ...]
    evaluation: Evaluation


def searcher_over(platform: Platform, release: OpenRelease, products: Products, *, snapshot: str) -> Searcher:
    """The release's search over these products: what it would serve after a refresh.

    Pictures that its index knows are not embedded again.
    """
    if release.manifest.snapshot == snapshot:
        return release.searcher
    rows = np.arange(len(products))
    blocks = []
    for column, member in enumerate(release.manifest.members):
        known = dict(zip(release.products.image_sha256, release.searcher.block(column), strict=True))
        blocks.append(embed_rows(platform, member, products, rows, snapshot=snapshot, known=known)[0])
    return extended(release.searcher, products, blocks)


def extended(searcher: Searcher, products: Products, blocks: Sequence[NDArray[np.float16]]) -> Searcher:
    """The same ensemble, projection, centroids and pull over other products."""
    return Searcher.build(
        products,
        blocks,
        searcher.weights,
        cluster_count=searcher.clusters.count,
        pull=searcher.pull,
        rescored=searcher.rescored,
        like=searcher,
    )


def measure(
    searcher: Searcher,
    query_blocks: Sequence[Floats],
    queries: Sequence[Query],
    *,
    allowed: NDArray[np.bool_],
    use_clusters: bool | None = None,
    depth: int = DEPTH,
) -> Measured:
    """Search every query among the allowed products and score the rankings."""
    rankings = searcher.search(query_blocks, k=depth, allowed=allowed, use_clusters=use_clusters)
    return Measured(rankings=tuple(rankings), evaluation=evaluate(queries, rankings))
