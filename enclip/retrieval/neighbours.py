"""Pictures → the pictures most like them: what near-duplicates and labels are judged by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from enclip.records import Floats, Products
from enclip.retrieval.clusters import Clusters, cluster_means
from enclip.retrieval.projection import Projection

EXACT_ROWS = 200_000  # above, only the nearest clusters are searched; exact search grows with the square
PROBED_CLUSTERS = 16
CHUNK_ROWS = 16_384
SAMPLED_PAIRS = 20_000

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The U distinct pictures of N products, and the K pictures nearest to each.

    A picture that several products share counts once: a placeholder used a thousand times would otherwise
    be everybody's nearest neighbour.

    Attributes:
        picture_N: per product its picture, 0 … U-1.
        first_U: per picture the first product that has it.
        row_UK: pictures by distance ascending, itself left out; -1 where there are fewer than K others.
        distance_UK: squared distances of the ensemble's projected vectors, 2 - 2·cosine but for what the
            projection cuts off, and so never more than that. float32, inf beside -1.
    """

    picture_N: Rows
    first_U: Rows
    row_UK: Rows
    distance_UK: Floats

    @classmethod
    def find(
        cls, products: Products, vector_NP: Floats, clusters: Clusters, *, k: int, exact_rows: int = EXACT_ROWS
    ) -> "Neighbours":
        """FAISS over the distinct pictures, block by block: 100,000 of 128 dimensions take about a minute of a core.

        Up to `exact_rows` pictures the answer is exact; above, a picture is compared with those of the 16
        clusters nearest to it.
        """
        # A product without a hash has a picture of its own.
        keys = np.where(products.image_sha256 == "", products.product_id, products.image_sha256).astype(str)
        _, first_U, picture_N = np.unique(keys, return_index=True, return_inverse=True)
        vector_UP = np.ascontiguousarray(vector_NP[first_U], np.float32)
        pictured = Clusters(clusters.assignment_N[first_U], clusters.centroid_CP)
        index = _index(vector_UP, pictured, exact=len(vector_UP) <= exact_rows)
        wanted = max(1, min(k, len(vector_UP) - 1))
        row_UK = np.full((len(vector_UP), wanted), -1, np.int64)
        distance_UK = np.full((len(vector_UP), wanted), np.inf, np.float32)
        for start in range(0, len(vector_UP), CHUNK_ROWS):
            block = slice(start, start + CHUNK_ROWS)
            found_D, found_R = index.search(vector_UP[block], wanted + 1)
            own = found_R == np.arange(start, start + len(found_R))[:, None]
            own[~own.any(axis=1), -1] = True  # one of many that are equal may miss itself
            row_UK[block] = found_R[~own].reshape(-1, wanted)
            distance_UK[block] = found_D[~own].reshape(-1, wanted)
        distance_UK[row_UK < 0] = np.inf
        return cls(picture_N.astype(np.int64), first_U.astype(np.int64), row_UK, np.maximum(distance_UK, 0))

    def __len__(self) -> int:
        return len(self.first_U)

    def nearest(self, k: int) -> "Neighbours":
        """The first k of each alone."""
        return replace(self, row_UK=self.row_UK[:, :k], distance_UK=self.distance_UK[:, :k])

    def copies(self) -> list[Rows]:
        """The products of each picture that several share, ascending."""
        by_picture = np.argsort(self.picture_N, kind="stable")
        ends = np.cumsum(np.bincount(self.picture_N, minlength=len(self)))
        return [rows for rows in np.split(by_picture, ends[:-1]) if len(rows) > 1]


@dataclass(frozen=True, eq=False)
class Looks:
    """The ensemble's view of N products' pictures; names stay out of it.

    Attributes:
        embedding_ND: half-precision concatenation of the members' image embeddings, may lie on disk.
        scale_D: square roots of the members' weights.
        vector_NP: its projection.
    """

    embedding_ND: NDArray[np.floating]
    scale_D: Floats
    vector_NP: Floats

    @classmethod
    def of(cls, embedding_ND: NDArray[np.floating], dims: Sequence[int], weights: Sequence[float]) -> "Looks":
        """The looks of a concatenation; what lies behind the members' ΣD_k columns is left out."""
        image_ND = embedding_ND[:, : sum(dims)]
        share_K = np.asarray(weights, np.float64) / np.sum(weights)
        scale_D = np.repeat(np.sqrt(share_K), dims).astype(np.float32)
        projection = Projection.fit(image_ND, dims, share_K.tolist())
        whole = projection.component_DP is None
        vector_NP = np.asarray(image_ND, np.float32) * scale_D if whole else projection.gallery(image_ND)
        return cls(image_ND, scale_D, vector_NP)

    def cosines(self, left_M: Rows, right_M: Rows) -> Floats:
        """`[M]` exact ensemble cosines of pairs of products, in pieces."""
        found = np.empty(len(left_M), np.float32)
        for start in range(0, len(left_M), CHUNK_ROWS):
            piece = slice(start, start + CHUNK_ROWS)
            left = np.asarray(self.embedding_ND[left_M[piece]], np.float32) * self.scale_D
            right = np.asarray(self.embedding_ND[right_M[piece]], np.float32) * self.scale_D
            length = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
            found[piece] = np.einsum("md,md->m", left, right) / np.maximum(length, 1e-12)
        return found

    def typical_distance(self, *, seed: int = 0) -> float:
        """Median of 1 - cosine over random pairs of products: the scale of this ensemble's space."""
        size = len(self.embedding_ND)
        if size < 2:
            return 0.0
        left = np.random.default_rng(seed).integers(0, size, SAMPLED_PAIRS if size > 200 else 10 * size)
        shift = np.random.default_rng(seed + 1).integers(1, size, len(left))
        return float(np.median(1 - self.cosines(left, (left + shift) % size)))


def _index(vector_UP: Floats, clusters: Clusters, *, exact: bool) -> Any:
    width = vector_UP.shape[1]
    index: Any = faiss.IndexFlatL2(width)
    if not exact and clusters.count > PROBED_CLUSTERS:
        # Centres of these vectors: the release's own centroids may lie in a space that has names in it.
        index.add(cluster_means(vector_UP, clusters))
        index = faiss.IndexIVFFlat(index, width, clusters.count, faiss.METRIC_L2)
        index.nprobe = PROBED_CLUSTERS
        index.is_trained = True
    index.add(vector_UP)
    return index
