"""Members' embeddings side by side: for each a block of pictures and, where names are searched, one of names."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enclip.records import Products
from enclip.retrieval.checks import check_members
from enclip.retrieval.projection import Projection
from enclip.retrieval.text import named


def joined(
    products: Products,
    block_NDs: Sequence[NDArray[np.floating]],
    name_block_NDs: Sequence[NDArray[np.floating]],
    weights: Sequence[float],
) -> NDArray[np.float16]:
    """`[N, ΣD_k]` float16 of the pictures; with blocks of names `[N, 2ΣD_k]`, pictures first.

    A product without a name has its image embedding in both places, so that no share of the names moves it.

    Raises:
        ReleaseError: embeddings that do not fit the products or the weights, or are not finite.
    """
    check_members(products, block_NDs, weights)
    if name_block_NDs:
        check_members(products, name_block_NDs, weights)
        named_N1 = named(products)[:, None]
        pairs = zip(block_NDs, name_block_NDs, strict=True)
        block_NDs = [*block_NDs, *(np.where(named_N1, name_ND, image_ND) for image_ND, name_ND in pairs)]
    return np.concatenate([np.asarray(block, np.float16) for block in block_NDs], axis=1)


def fit_projection(
    embedding_ND: NDArray[np.floating],
    dims: Sequence[int],
    weights: Sequence[float],
    *,
    name_share: float,
    spared: int = 0,
    seed: int = 0,
) -> Projection:
    """`Projection.fit` of what `joined` made: its components go where the score of a query in words is made."""
    if embedding_ND.shape[1] == sum(dims):
        return Projection.fit(embedding_ND, dims, weights, spared=spared, seed=seed)
    shares = [share * weight for share in (1 - name_share, name_share) for weight in weights]
    return Projection.fit(embedding_ND, [*dims, *dims], shares, spared=spared, seed=seed)
