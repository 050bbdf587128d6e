"""Projected vectors → nearest rows: FAISS, inner product. Exact to about a million, then by parts of the catalog.

Three indexes with one face. *exact* looks at every product. *cells* looks into the clusters of the release whose mean
scores highest (an inverted file, its coarse cells the clusters). *graph* walks from neighbour to neighbour (HNSW,
Malkov and Yashunin, arXiv 1603.09320). What the other two miss is measured where one of them is chosen.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

from enclip.errors import ReleaseError
from enclip.records import Floats
from enclip.retrieval.clusters import Clusters

LINKS = 32  # of a product in the graph
BUILD_EFFORT = 100  # products looked at for each that the graph takes in
FEW_ALLOWED = 0.25  # of the products, below which the graph's detours cost more than looking at all that are allowed


@dataclass(frozen=True)
class Allowed:
    """Rows that may answer.

    Attributes:
        selector: FAISS's own; it points into `bits`, which have to live as long.
        count: how many they are.
        share: of all rows, above 0.
    """

    selector: "faiss.IDSelector"
    bits: NDArray[np.uint8]
    count: int
    share: float

    @classmethod
    def by(cls, allowed_N: NDArray[np.bool_]) -> "Allowed":
        """The rows of a mask."""
        bits = np.packbits(allowed_N, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(allowed_N), faiss.swig_ptr(bits))
        count = int(np.count_nonzero(allowed_N))
        return cls(selector, bits, count, max(1, count) / len(allowed_N))


class Index(ABC):
    """N vectors of width P in memory. Searching is safe from several threads at once.

    Attributes:
        kind: exact, cells or graph.
    """

    kind: ClassVar[str]

    def __init__(self, index: Any) -> None:
        self._index = index  # FAISS's; its stubs know few of the members

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def width(self) -> int:
        """P."""
        return int(self._index.d)

    @property
    def num_bytes(self) -> int:
        """Memory of the vectors, and of what finds them."""
        return len(self) * self.width * 4

    @property
    def effort(self) -> int:
        """Cells looked into, or products kept in view: what recall and time grow with. 0: everything is looked at."""
        return 0

    def search(
        self, query_QP: Floats, *, num_rows: int, allowed_N: NDArray[np.bool_] | None = None
    ) -> list[NDArray[np.int64]]:
        """Per query the rows with the highest inner product among the allowed ones, best first.

        Fewer than `num_rows` come back where fewer are allowed; then all of those do.
        """
        query_QP = np.ascontiguousarray(query_QP, np.float32)
        allowed = None if allowed_N is None else Allowed.by(allowed_N)
        num_rows = min(num_rows, len(self) if allowed is None else allowed.count)
        if not num_rows:
            return [np.zeros(0, np.int64)] * len(query_QP)
        return list(self._nearest(query_QP, num_rows, allowed))

    def vectors(self, start: int = 0, stop: int | None = None) -> Floats:
        """The vectors of these rows, `[N, P]` float32: a copy."""
        stop = len(self) if stop is None else min(stop, len(self))
        return np.asarray(self._index.reconstruct_n(start, stop - start), np.float32)

    def save(self, path: Path) -> None:
        """Write FAISS's own format."""
        # Through our own file: on a full disk FAISS prints a line and leaves half an index behind.
        with open(path, "wb") as file:
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]

    @abstractmethod
    def _nearest(self, query_QP: Floats, num_rows: int, allowed: Allowed | None) -> NDArray[np.int64]:
        """`[Q, num_rows]`, `num_rows` is at most what is allowed."""


class FlatIndex(Index):
    """Every vector is looked at."""

    kind = "exact"

    @classmethod
    def build(cls, vector_NP: Floats) -> "FlatIndex":
        """An index over float32 vectors; row i answers as i."""
        index = faiss.IndexFlatIP(vector_NP.shape[1])
        index.add(np.ascontiguousarray(vector_NP, np.float32))
        return cls(index)

    def _nearest(self, query_QP: Floats, num_rows: int, allowed: Allowed | None) -> NDArray[np.int64]:
        return _exact(self._index, query_QP, num_rows, allowed)


class CellIndex(Index):
    """The clusters whose mean has the highest inner product with the query are looked into, `effort` of them.

    Where few products are allowed, more cells are, so that as many allowed products are seen as without a filter.
    """

    kind = "cells"

    def __init__(self, index: Any, effort: int) -> None:
        super().__init__(index)
        self._effort: int = min(effort, int(index.nlist))

    @classmethod
    def build(cls, vector_NP: Floats, clusters: Clusters, *, effort: int) -> "CellIndex":
        """An index over float32 vectors and their clusters; row i answers as i."""
        cell_N = clusters.assignment_N.astype(np.int64)
        quantizer = faiss.IndexFlatIP(vector_NP.shape[1])
        quantizer.add(_means(vector_NP, cell_N, clusters.count))
        index = faiss.IndexIVFFlat(quantizer, vector_NP.shape[1], clusters.count, faiss.METRIC_INNER_PRODUCT)
        quantizer.this.disown()  # type: ignore[attr-defined]
        index.own_fields, index.is_trained = True, True
        vector_NP, row_N = np.ascontiguousarray(vector_NP, np.float32), np.arange(len(vector_NP))
        pointers = (faiss.swig_ptr(array) for array in (vector_NP, row_N, cell_N))
        index.add_core(len(vector_NP), *pointers)
        return cls(index, effort)

    def with_effort(self, effort: int) -> "CellIndex":
        """The same vectors, so many cells looked into."""
        return CellIndex(self._index, effort)

    @property
    def effort(self) -> int:
        """Cells looked into where nothing is filtered."""
        return self._effort

    @property
    def num_bytes(self) -> int:
        """Vectors, their rows, and the cells' means."""
        return len(self) * (self.width * 4 + 8) + int(self._index.nlist) * self.width * 4

    def save(self, path: Path) -> None:
        """Write FAISS's own format, effort included."""
        self._index.nprobe = self._effort
        super().save(path)

    def _nearest(self, query_QP: Floats, num_rows: int, allowed: Allowed | None) -> NDArray[np.int64]:
        cells = min(int(self._index.nlist), int(np.ceil(self._effort / (allowed.share if allowed else 1))))
        row_QK = self._probe(query_QP, num_rows, allowed, cells)
        # What is allowed may lie in cells far from the query: of a category, or behind many pages.
        while cells < self._index.nlist and (short_Q := (row_QK < 0).any(axis=1)).any():
            cells = min(int(self._index.nlist), 4 * cells)
            row_QK[short_Q] = self._probe(query_QP[short_Q], num_rows, allowed, cells)
        return row_QK

    def _probe(self, query_QP: Floats, num_rows: int, allowed: Allowed | None, cells: int) -> NDArray[np.int64]:
        parameters = faiss.SearchParametersIVF(sel=allowed and allowed.selector, nprobe=cells)  # type: ignore[call-arg]
        return np.asarray(self._index.search(query_QP, num_rows, params=parameters)[1])


class GraphIndex(Index):
    """A graph of neighbours is walked toward the query, with `effort` products in view."""

    kind = "graph"

    def __init__(self, index: Any, effort: int) -> None:
        super().__init__(index)
        self._effort = effort

    @classmethod
    def build(cls, vector_NP: Floats, *, effort: int) -> "GraphIndex":
        """An index over float32 vectors; row i answers as i. A million take minutes."""
        index = faiss.IndexHNSWFlat(vector_NP.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_EFFORT
        index.add(np.ascontiguousarray(vector_NP, np.float32))
        return cls(index, effort)

    def with_effort(self, effort: int) -> "GraphIndex":
        """The same vectors, so many products kept in view."""
        return GraphIndex(self._index, effort)

    @property
    def effort(self) -> int:
        """Products kept in view on the way."""
        return self._effort

    @property
    def num_bytes(self) -> int:
        """Vectors and links."""
        return self.bytes_of(len(self), self.width)

    @staticmethod
    def bytes_of(num_rows: int, width: int) -> int:
        """What a graph over so many vectors will take."""
        return num_rows * (width * 4 + 2 * LINKS * 4)

    def save(self, path: Path) -> None:
        """Write FAISS's own format, effort included."""
        self._index.hnsw.efSearch = self._effort
        super().save(path)

    def _nearest(self, query_QP: Floats, num_rows: int, allowed: Allowed | None) -> NDArray[np.int64]:
        if allowed is not None and allowed.share < FEW_ALLOWED:
            return _exact(self._index.storage, query_QP, num_rows, allowed)
        view = max(self._effort, num_rows)
        parameters = faiss.SearchParametersHNSW(  # type: ignore[attr-defined]
            sel=allowed and allowed.selector, efSearch=view
        )
        row_QK = np.asarray(self._index.search(query_QP, num_rows, params=parameters)[1])
        short_Q = (row_QK < 0).any(axis=1)
        if short_Q.any():  # what is allowed lies where the walk does not come
            row_QK[short_Q] = _exact(self._index.storage, query_QP[short_Q], num_rows, allowed)
        return row_QK


def index_like(index: Index, vector_NP: Floats, clusters: Clusters) -> Index:
    """One of the same kind and effort, over other vectors of products in these clusters."""
    if isinstance(index, CellIndex):
        return CellIndex.build(vector_NP, clusters, effort=index.effort)
    if isinstance(index, GraphIndex):
        return GraphIndex.build(vector_NP, effort=index.effort)
    return FlatIndex.build(vector_NP)


def load_index(path: Path) -> Index:
    """Read FAISS's own format. Raises ReleaseError where it is missing, damaged or of another kind."""
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise ReleaseError(f"Index {path} cannot be read: {str(error).splitlines()[0]}.") from error
    if index.metric_type == faiss.METRIC_INNER_PRODUCT:
        if isinstance(index, faiss.IndexFlatIP):
            return FlatIndex(index)
        if isinstance(index, faiss.IndexIVFFlat):
            return CellIndex(index, int(index.nprobe))
        if isinstance(index, faiss.IndexHNSWFlat):
            return GraphIndex(index, int(index.hnsw.efSearch))
    raise ReleaseError(f"Index {path} is a {type(index).__name__}; one of inner products was expected.")


def with_columns(vector_NP: Floats, value_NE: Floats) -> Floats:
    """`[N, P + E]`: vectors with more values each."""
    if not value_NE.shape[1]:
        return vector_NP
    return np.concatenate([vector_NP, np.asarray(value_NE, np.float32)], axis=1)


def _exact(index: "faiss.IndexFlatIP", query_QP: Floats, num_rows: int, allowed: Allowed | None) -> NDArray[np.int64]:
    parameters = faiss.SearchParameters(sel=allowed.selector) if allowed else None  # type: ignore[call-arg]
    return np.asarray(index.search(query_QP, num_rows, params=parameters)[1])


def _means(vector_NP: Floats, cell_N: NDArray[np.int64], count: int) -> Floats:
    total_CP = np.zeros((count, vector_NP.shape[1]), np.float64)
    np.add.at(total_CP, cell_N, vector_NP)
    return (total_CP / np.maximum(1, np.bincount(cell_N, minlength=count))[:, None]).astype(np.float32)
