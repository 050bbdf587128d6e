"""Member embeddings → ensemble scores.

The weighted sum of K members' cosines is one inner product: `Σ_k w_k (q_k · x_k) = [w_1 q_1 … w_K q_K]
· [x_1 … x_K]`. So the gallery is the plain concatenation, and the weights sit on the query side, where
they can change without touching the gallery (D3).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enclip.errors import QueryError, ReleaseError
from enclip.records import Floats

RRF_CONSTANT = 60


def concatenate(block_NDs: Sequence[NDArray[np.floating]]) -> Floats:
    """`[N, ΣD_k]` float32 of K members' embeddings of the same N products.

    Raises:
        ReleaseError: no block, or blocks of different lengths.
    """
    lengths = [len(block) for block in block_NDs]
    if not lengths or len(set(lengths)) > 1:
        raise ReleaseError(
            f"Members embedded {lengths} products; they must embed the same ones.",
            remedy="Embed the snapshot again with every member.",
        )
    return np.concatenate([np.asarray(block, np.float32) for block in block_NDs], axis=1)


def weight_query(block_QDs: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """`[Q, ΣD_k]` float32 whose inner product with the concatenation is `Σ_k w_k cos_k`.

    Raises:
        QueryError: another number of blocks than of weights, or blocks of different lengths.
    """
    if len(block_QDs) != len(weights):
        raise QueryError(f"The query has {len(block_QDs)} embeddings for an ensemble of {len(weights)} members.")
    if len({len(block) for block in block_QDs}) > 1:
        raise QueryError(f"The query's embeddings have different lengths: {[len(block) for block in block_QDs]}.")
    return np.concatenate(
        [np.float32(weight) * np.asarray(block, np.float32) for block, weight in zip(block_QDs, weights, strict=True)],
        axis=1,
    )


def share_query(query_QD: Floats, share_Q: Floats) -> Floats:
    """`[Q, 2D]` float32 whose inner product with pictures, then names, is `(1 - share)·pictures + share·names`.

    Args:
        query_QD: as `weight_query` made it.
        share_Q: per query the share of the names; 0: it is held against pictures alone.
    """
    share_Q1 = np.asarray(share_Q, np.float32)[:, None]
    return np.concatenate([(1 - share_Q1) * query_QD, share_Q1 * query_QD], axis=1)


def mix_queries(embedding_QDs: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """One member's queries made of several parts (text and image): their weighted sum at unit norm, `[Q, D]`.

    A negative weight pushes away from a part. Where the sum vanishes (a part against itself), the
    row is zero, and every product scores 0.
    """
    mixed: Floats = np.zeros_like(embedding_QDs[0], dtype=np.float32)
    for part, weight in zip(embedding_QDs, weights, strict=True):
        mixed += np.float32(weight) * part
    norm_Q1 = np.linalg.norm(mixed, axis=-1, keepdims=True)
    unit: Floats = np.divide(mixed, norm_Q1, out=np.zeros_like(mixed), where=norm_Q1 > 1e-6)
    return unit


def reciprocal_rank_fusion(score_QNs: Sequence[Floats], *, constant: int = RRF_CONSTANT) -> Floats:
    """`score_QN` by ranks alone: `Σ_k 1 / (constant + rank_k)` (Cormack et al., SIGIR 2009).

    For comparison with the sum of scores; ranks count from 1, ties by row.
    """
    fused = np.zeros(score_QNs[0].shape, np.float32)
    for score_QN in score_QNs:
        order_QN = np.argsort(-score_QN, axis=1, kind="stable")
        rank_QN = np.empty_like(order_QN)
        np.put_along_axis(rank_QN, order_QN, np.arange(1, score_QN.shape[1] + 1)[None], axis=1)
        fused += 1.0 / (constant + rank_QN)
    return fused


def unit(embedding_ND: NDArray[np.floating]) -> Floats:
    """Rows at length 1, float32; one of zeros stays as it is."""
    norm_N1 = np.linalg.norm(embedding_ND, axis=1, keepdims=True)
    return np.asarray(embedding_ND / np.maximum(norm_N1, 1e-12), np.float32)


def unit_blocks(embedding_ND: Floats, dims: Sequence[int]) -> Floats:
    """`unit` of each member's block by itself, of a concatenation of blocks of these widths."""
    starts = np.cumsum([0, *dims[:-1]])
    norm_NK = np.sqrt(np.add.reduceat(np.square(embedding_ND), starts, axis=1))
    return np.asarray(embedding_ND / np.repeat(np.maximum(norm_NK, 1e-12), dims, axis=1), np.float32)


def log_sum_exp(logit_NV: Floats) -> Floats:
    """`[N]` float32: `log Σ_v exp(logit)`, without overflow."""
    most_N1 = logit_NV.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(logit_NV - most_N1).sum(axis=1)) + most_N1[:, 0], np.float32)
