"""The concatenation of K members → one vector no wider than the widest member (D3).

The best rows are scored again from the concatenation itself: the cut saves time, and loses only what does not come
among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.records import Floats
from enclip.retrieval.arrays import read_arrays

FIT_ROWS = 100_000  # more rows do not move the components, but do cost memory
CHUNK_ROWS = 16_384
NARROWED = 0.75  # of the widest block's width, for several: what that saves pays for asking all members


def projected_width(dims: Sequence[int]) -> int:
    """How wide blocks of these widths are once they are projected: one as it is, several less than the widest."""
    return dims[0] if len(dims) == 1 else int(NARROWED * max(dims))


@dataclass(frozen=True, eq=False)
class Projection:
    """An affine map of the gallery and a linear one of queries that keep their inner products' order.

    With `s` the square roots of the weights and `V` the principal components of `s·x`:
    `q·x ≈ query(q)·gallery(x) + q·mean`. The last term is the same for all products of a query, so the
    order needs only the first. Scaling by `s` spends the components where the score is made: a
    member of weight 0 takes none. With one member and nothing spared the map is the identity, and the order
    is exact.
    """

    scale_D: Floats
    mean_D: Floats
    component_DP: Floats | None  # None: identity

    @classmethod
    def identity(cls, dim: int) -> "Projection":
        """The map that changes nothing."""
        return cls(np.ones(dim, np.float32), np.zeros(dim, np.float32), None)

    @classmethod
    def fit(
        cls,
        embedding_ND: NDArray[np.floating],
        dims: Sequence[int],
        weights: Sequence[float],
        *,
        spared: int = 0,
        seed: int = 0,
    ) -> "Projection":
        """Principal components of the weighted concatenation: as many as `projected_width` says.

        The identity for one member with nothing spared, and for so few products that their components would
        know nothing of the next one: no more than the widest member is wide.

        Args:
            embedding_ND: concatenation in any float type; above 100,000 rows a sample is used.
            dims: width of each member's block; they add up to D.
            weights: the members' weights, not negative.
            spared: components left out for as many columns that the index gets besides, so that it is no wider with
                them. A narrow member gives up half of its own at most.
        """
        num_rows, widest = len(embedding_ND), max(dims)
        width = max(projected_width(dims) - spared, widest // 2)
        if width == sum(dims) or num_rows <= widest:
            return cls.identity(sum(dims))
        # Imported here: the service opens releases without ever fitting one.
        from sklearn.decomposition import PCA

        rows = np.arange(num_rows)
        if num_rows > FIT_ROWS:
            rows = np.sort(np.random.default_rng(seed).choice(num_rows, FIT_ROWS, replace=False))
        scale_D = np.repeat(np.sqrt(np.asarray(weights, np.float64)), dims).astype(np.float32)
        sample = np.asarray(embedding_ND[rows], np.float32) * scale_D
        pca = PCA(n_components=width, svd_solver="covariance_eigh").fit(sample)
        return cls(scale_D, pca.mean_.astype(np.float32), np.ascontiguousarray(pca.components_.T, np.float32))

    @property
    def width(self) -> int:
        """P: length of a projected vector."""
        return len(self.scale_D) if self.component_DP is None else self.component_DP.shape[1]

    def gallery(self, embedding_ND: NDArray[np.floating]) -> Floats:
        """`[N, P]` float32 of products' concatenations, in pieces, so that float16 may lie on disk."""
        if self.component_DP is None:
            return np.ascontiguousarray(embedding_ND, np.float32)
        projected = np.empty((len(embedding_ND), self.width), np.float32)
        for start in range(0, len(embedding_ND), CHUNK_ROWS):
            piece = np.asarray(embedding_ND[start : start + CHUNK_ROWS], np.float32)
            projected[start : start + CHUNK_ROWS] = (piece * self.scale_D - self.mean_D) @ self.component_DP
        return projected

    def query(self, query_QD: Floats) -> Floats:
        """`[Q, P]` float32 of weighted queries (`fusion.weight_query`)."""
        if self.component_DP is None:
            return np.ascontiguousarray(query_QD, np.float32)
        # A query carries w = s², the gallery side carries s: what is left for this side is w / s = s.
        rest = np.divide(query_QD, self.scale_D, out=np.zeros_like(query_QD), where=self.scale_D > 0)
        return np.ascontiguousarray(rest @ self.component_DP)

    def save(self, path: Path) -> None:
        """Write an npz."""
        empty = np.zeros((len(self.scale_D), 0), np.float32)
        components = empty if self.component_DP is None else self.component_DP
        np.savez(path, scale=self.scale_D, mean=self.mean_D, components=components)

    @classmethod
    def load(cls, path: Path) -> "Projection":
        """Read an npz. Raises ReleaseError where it is missing or damaged."""
        scale, mean, components = read_arrays(path, "scale", "mean", "components")
        return cls(scale, mean, components if components.shape[1] else None)
