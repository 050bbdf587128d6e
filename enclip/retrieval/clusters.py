"""Groups of products that look alike: spherical k-means over the projected embeddings (D5)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.records import Floats, Strings
from enclip.retrieval import fusion
from enclip.retrieval.arrays import read_arrays

MINI_BATCH_ROWS = 50_000  # above, k-means on mini-batches; below, on everything
SILHOUETTE_ROWS = 2_000  # its cost is quadratic
CHUNK_ROWS = 16_384
FEWEST = 5  # products of a cluster that may push one of them down
LOOSE = 0.85  # of the median tightness


@dataclass(frozen=True, eq=False)
class Clusters:
    """N products' clusters, and unit centroids `[C, P]` that newcomers are assigned by."""

    assignment_N: NDArray[np.int32]
    centroid_CP: Floats

    @classmethod
    def fit(cls, vector_NP: Floats, *, count: int, seed: int = 0) -> "Clusters":
        """Spherical k-means: scikit-learn's, on unit vectors, then by cosine to unit centroids.

        At most one cluster per distinct vector; clusters that end empty are dropped, so there may be
        fewer than `count`. Equal input and seed give equal clusters.
        """
        from sklearn.cluster import KMeans, MiniBatchKMeans

        unit_NP = fusion.unit(vector_NP)
        distinct = len(np.unique(unit_NP.round(6), axis=0)) if len(unit_NP) <= 4 * count else count
        count = max(1, min(count, distinct))
        kind = MiniBatchKMeans if len(unit_NP) > MINI_BATCH_ROWS else KMeans
        fitted = kind(n_clusters=count, n_init=1 if len(unit_NP) > 2_000 else 4, random_state=seed).fit(unit_NP)
        found = cls(np.zeros(0, np.int32), fusion.unit(fitted.cluster_centers_.astype(np.float32)))
        assignment_N = found.assign(unit_NP)
        used, renumbered = np.unique(assignment_N, return_inverse=True)
        return cls(renumbered.astype(np.int32), found.centroid_CP[used])

    @property
    def count(self) -> int:
        """C: the number of clusters."""
        return len(self.centroid_CP)

    def assign(self, vector_NP: Floats) -> NDArray[np.int32]:
        """The cluster of the nearest centroid by cosine, for products old or new."""
        parts = [
            np.argmax(vector_NP[start : start + CHUNK_ROWS] @ self.centroid_CP.T, axis=1).astype(np.int32)
            for start in range(0, len(vector_NP), CHUNK_ROWS)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def assigned(self, vector_NP: Floats) -> "Clusters":
        """The same centroids over another catalog: cluster numbers keep their meaning across a refresh."""
        return Clusters(self.assign(vector_NP), self.centroid_CP)

    def save(self, path: Path) -> None:
        """Write an npz."""
        np.savez(path, assignment=self.assignment_N, centroids=self.centroid_CP)

    @classmethod
    def load(cls, path: Path) -> "Clusters":
        """Read an npz. Raises ReleaseError where it is missing or damaged."""
        return cls(*read_arrays(path, "assignment", "centroids"))


def cluster_means(embedding_ND: NDArray[np.floating], clusters: Clusters) -> Floats:
    """`[C, D]` float32: a query's inner product with row c is the mean score over cluster c.

    A cluster that holds no product (possible after `assigned`) gets zeros; no candidate asks for it.
    """
    mean_CD = np.zeros((clusters.count, embedding_ND.shape[1]), np.float32)
    by_cluster = np.argsort(clusters.assignment_N, kind="stable")
    ends = np.cumsum(np.bincount(clusters.assignment_N, minlength=clusters.count))
    for cluster, rows in enumerate(np.split(by_cluster, ends[:-1])):
        if len(rows):
            mean_CD[cluster] = np.asarray(embedding_ND[rows], np.float32).mean(axis=0, dtype=np.float64)
    return mean_CD


def firm(clusters: Clusters, mean_CD: Floats) -> NDArray[np.bool_]:
    """`[C]`: clusters whose mean says something of each of their products: not small, and not much looser than most.

    How tight a cluster is, is the length of the mean of its unit embeddings (`cluster_means`).
    """
    size_C = np.bincount(clusters.assignment_N, minlength=clusters.count)
    tight_C = np.linalg.norm(mean_CD, axis=1)
    return np.asarray((size_C >= FEWEST) & (tight_C >= LOOSE * np.median(tight_C[size_C > 0])))


def cluster_grid(num_products: int) -> tuple[int, ...]:
    """Numbers of clusters worth trying: ¼, ½, 1, 2 and 4 times √N, at least 2, at most a third of the products."""
    root = num_products**0.5
    most = max(1, num_products // 3)
    return tuple(sorted({min(most, max(2, round(root * factor))) for factor in (0.25, 0.5, 1, 2, 4)}))


def unusual(count: int, *, num_products: int) -> float:
    """How far a number of clusters is from 2√N, the usual one, as the larger of both over the smaller."""
    usual = 2 * float(num_products**0.5)
    return max(count / usual, usual / count)


def silhouette(vector_NP: Floats, clusters: Clusters, *, seed: int = 0) -> float:
    """Mean cosine silhouette over at most 2,000 products, -1 to 1; 0 where it is undefined.

    Informs; never gates.
    """
    from sklearn.metrics import silhouette_score

    rows = np.arange(len(vector_NP))
    if len(rows) > SILHOUETTE_ROWS:
        rows = np.random.default_rng(seed).choice(rows, SILHOUETTE_ROWS, replace=False)
    labels = clusters.assignment_N[rows]
    if not 2 <= len(np.unique(labels)) < len(rows):
        return 0.0
    return float(silhouette_score(vector_NP[rows], labels, metric="cosine"))


def purity(assignment_N: NDArray[np.int32], label_N: Strings) -> float:
    """Share of products whose label is the commonest of their cluster; products without a label are left out."""
    known = label_N != ""
    if not known.any():
        return 0.0
    _, codes = np.unique(label_N[known].astype(str), return_inverse=True)
    clusters = assignment_N[known]
    counts = np.zeros((int(clusters.max()) + 1, int(codes.max()) + 1), np.int64)
    np.add.at(counts, (clusters, codes), 1)
    return float(counts.max(axis=1).sum() / len(codes))
