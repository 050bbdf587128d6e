"""What retrieval refuses: members, parts of a release and queries that do not fit each other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from enclip.errors import CatalogError, QueryError, ReleaseError
from enclip.records import Floats, Products
from enclip.retrieval.filters import Mask
from enclip.retrieval.text import Texts

if TYPE_CHECKING:
    from enclip.retrieval.searcher import Searcher


def check_parts(searcher: "Searcher") -> None:
    """Raises ReleaseError where a searcher's parts do not fit; CatalogError where its products are out of order."""
    ids = searcher.products.product_id
    if not (ids[:-1] < ids[1:]).all():
        raise CatalogError("Products are not in ascending order of unique ids.", remedy="Use Products.from_rows.")
    mix = searcher.mix
    if (mix.name_share and not searcher.has_names) or (mix.bm25_weight and searcher.names is None):
        raise ReleaseError("Names have a weight in the score, but are not among the release's embeddings or files.")
    if (mix.calibration or mix.exemplar_share or mix.feedback) and searcher.bank is None:
        raise ReleaseError("The score is calibrated, but the release's files hold no bank of queries to do it by.")
    if mix.attribute_weight and searcher.heads is None:
        raise ReleaseError("Attributes have a weight in the score, but the release's files hold no heads for them.")
    said = searcher.wording.said
    heads = searcher.heads
    if said is not None and (heads is None or said.heads.shape != (len(heads.joint.intercept_V), *heads.starts)):
        raise ReleaseError("What names say of attributes is of other attributes than the release's heads tell apart.")
    if mix.name_attribute_weight and said is None:
        raise ReleaseError(
            "Attributes by name have a weight in the score, but the release's files hold nothing of them."
        )
    sizes = {len(ids), len(searcher.embedding_ND), len(searcher.index), len(searcher.clusters.assignment_N)}
    width = sum(searcher.dims) * (2 if searcher.has_names else 1)
    widths = (searcher.embedding_ND.shape[1], len(searcher.projection.scale_D), width)
    means = (searcher.clusters.count, width)
    if (
        len(sizes) > 1
        or len(set(widths)) > 1
        or searcher.cluster_mean_CD.shape != means
        or searcher.index.width != searcher.projection.width + searcher.wording.width
        or searcher.wording.offset_NE.shape != (len(ids), searcher.wording.width)
        or (searcher.bank is not None and searcher.bank.dims != searcher.dims)
        or (searcher.heads is not None and searcher.heads.dims != searcher.dims)
    ):
        raise ReleaseError(
            f"Parts of the release do not fit each other: {sorted(sizes)} products, widths {widths}, "
            f"index {searcher.index.width} for projection {searcher.projection.width}, cluster means "
            f"{searcher.cluster_mean_CD.shape} for {searcher.clusters.count} clusters."
        )


def check_query(
    query_QDs: Sequence[Floats],
    without: Texts | None,
    *,
    dims: Sequence[int],
    allowed: Mask | None,
    num_products: int,
) -> None:
    """Raises QueryError for embeddings or a mask of the wrong shape, or that are not finite; for words to turn from of
    other queries.
    """
    widths = tuple(block.shape[-1] for block in query_QDs)
    if widths != dims:
        raise QueryError(f"Query embeddings have widths {widths}; the members' are {dims}.")
    counts = {len(block) for block in query_QDs} | ({len(without)} if without is not None else set())
    if len(counts) > 1:
        raise QueryError(f"There are {sorted(counts)} embeddings and words to turn from; each query has one of each.")
    if not all(np.isfinite(block).all() for block in query_QDs):
        raise QueryError("A query embedding is not finite.", remedy="Check the encoder that made it.")
    if allowed is not None and (allowed.shape != (num_products,) or allowed.dtype != np.bool_):
        raise QueryError(f"The mask has shape {allowed.shape}; one bool per product was expected.")


def check_members(products: Products, block_NDs: Sequence[NDArray[np.floating]], weights: Sequence[float]) -> None:
    """Raises ReleaseError for embeddings that do not fit the products or the weights, or are not finite."""
    if not block_NDs or len(block_NDs) != len(weights):
        raise ReleaseError(f"{len(block_NDs)} embeddings for {len(weights)} weights; each member has one of both.")
    if min(weights) < 0 or sum(weights) <= 0 or not np.isfinite(weights).all():
        raise ReleaseError(f"Weights {tuple(weights)} cannot be used; they are not negative, and not all 0.")
    for number, block in enumerate(block_NDs):
        if block.ndim != 2 or len(block) != len(products):
            raise ReleaseError(f"Member {number} embedded {len(block)} of {len(products)} products.")
        finite_N = np.isfinite(block).all(axis=1)
        if not finite_N.all():
            worst = products.product_id[int(np.argmin(finite_N))]
            raise ReleaseError(
                f"Member {number} embeds product {worst!r} as a vector that is not finite.",
                remedy="Leave that member out; its training may have diverged.",
            )
