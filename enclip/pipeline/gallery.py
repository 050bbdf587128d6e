"""Ask releases the protocol's queries over one gallery, with their own search (D11)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclip.evaluation.metrics import Evaluation, evaluate
from enclip.pipeline.colours import colour_rows, known_colours
from enclip.pipeline.embed import embed_rows
from enclip.pipeline.names import encode_names, known_names
from enclip.pipeline.open_release import OpenRelease
from enclip.pipeline.platform import Platform
from enclip.records import Floats, Products, Query, Ranking
from enclip.retrieval.mix import WITHOUT_ATTRIBUTES, WITHOUT_CLUSTERS, WITHOUT_NAMES, WITHOUT_WORDS_OF_NAMES
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.text import NameIndex

DEPTH = 100  # what run.trec holds of each ranking


@dataclass(frozen=True)
class Measured:
    """Rankings of every query, in the queries' order, and the figures they give."""

    rankings: tuple[Ranking, ...]
    evaluation: Evaluation


def searcher_over(platform: Platform, release: OpenRelease, products: Products, *, snapshot: str) -> Searcher:
    """The release's search over these products: what it would serve after a refresh.

    Pictures and names that its index knows are not embedded again.
    """
    if release.manifest.snapshot == snapshot:
        return release.searcher
    rows = np.arange(len(products))
    blocks, names = [], []
    for column, member in enumerate(release.manifest.members):
        known = dict(zip(release.products.image_sha256, release.searcher.block(column), strict=True))
        blocks.append(embed_rows(platform, member, products, rows, snapshot=snapshot, known=known)[0])
        if release.searcher.has_names:
            titles = known_names(release.searcher, column)
            names.append(encode_names(release.encoders[column], products, titles)[0])
    colours = None
    if release.searcher.wording.colours.shape[1]:
        side = release.manifest.members[0].pixel_side
        seen = known_colours(release, side=side)
        colours = colour_rows(platform, products, rows, side=side, snapshot=snapshot, known=seen)
    return extended(release.searcher, products, blocks, names, colours)


def extended(
    searcher: Searcher,
    products: Products,
    blocks: Sequence[NDArray[np.float16]],
    names: Sequence[NDArray[np.float16]] = (),
    colour_NC: NDArray[np.floating] | None = None,
) -> Searcher:
    """The same ensemble, projection, centroids, bank, heads and mix over other products.

    Args:
        names: per member the products' names, where the searcher holds names.
        colour_NC: the pictures' colours, where its heads read them.
    """
    return Searcher.build(
        products,
        blocks,
        searcher.weights,
        cluster_count=searcher.clusters.count,
        mix=searcher.mix,
        rescored=searcher.rescored,
        like=searcher,
        name_block_NDs=names,
        names=searcher.names.over(products) if searcher.names is not None else None,
        bank=searcher.bank,
        heads=searcher.heads,
        colour_NC=colour_NC,
        said=searcher.wording.said.heads.over(products.name) if searcher.wording.said is not None else None,
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
    texts = [query.text for query in queries]
    rankings = searcher.search(query_blocks, k=depth, texts=texts, allowed=allowed, use_clusters=use_clusters)
    return Measured(rankings=tuple(rankings), evaluation=evaluate(queries, rankings))


def without_bank(searcher: Searcher) -> Searcher:
    """The same search without the bank of likely queries: uncalibrated, and no query known to be broad."""
    return searcher.with_mix(calibration=0, exemplar_share=0, narrowing=0, feedback=0)


def plain(searcher: Searcher) -> Searcher:
    """The ensemble's cosines alone: without bank, attributes and clusters; names keep their part."""
    return without_bank(searcher).with_mix(**WITHOUT_ATTRIBUTES, **WITHOUT_CLUSTERS)


def parts_alone(
    searcher: Searcher, query_blocks: Sequence[Floats], queries: Sequence[Query], *, allowed: NDArray[np.bool_]
) -> dict[str, tuple[str, Evaluation]]:
    """What a release that searches names is made of, each alone: system → what it searches, and its figures.

    Nothing for a release that searches pictures.
    """
    if not searcher.has_names:
        return {}
    pictures = searcher.with_mix(**WITHOUT_NAMES)
    found = {"pictures alone": ("image", measure(pictures, query_blocks, queries, allowed=allowed).evaluation)}
    if searcher.names is not None or searcher.mix.name_attribute_weight:
        vectors = searcher.with_mix(**WITHOUT_WORDS_OF_NAMES)
        found["vectors alone"] = ("name", measure(vectors, query_blocks, queries, allowed=allowed).evaluation)
    texts = [query.text for query in queries]
    if searcher.mix.name_attribute_weight:  # else BM25 is all of it
        rankings = searcher.by_words(query_blocks, k=DEPTH, texts=texts, allowed=allowed)
        found["words of names alone"] = ("words", evaluate(queries, rankings))
    names = searcher.names or NameIndex(searcher.products)
    rankings = names.search(texts, k=DEPTH, allowed=allowed)
    found["BM25 over names alone"] = ("BM25", evaluate(queries, rankings))
    return found
