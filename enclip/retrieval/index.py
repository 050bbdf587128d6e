"""Projected vectors → nearest rows: FAISS, flat, inner product. Exact, and fast enough to about a million."""

from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from enclip.errors import ReleaseError
from enclip.records import Floats


class FlatIndex:
    """N vectors of width P in memory. Searching is safe from several threads at once."""

    def __init__(self, index: "faiss.IndexFlatIP") -> None:
        self._index = index

    @classmethod
    def build(cls, vector_NP: Floats) -> "FlatIndex":
        """An index over float32 vectors; row i answers as i."""
        index = faiss.IndexFlatIP(vector_NP.shape[1])
        index.add(np.ascontiguousarray(vector_NP, np.float32))
        return cls(index)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def width(self) -> int:
        """P."""
        return int(self._index.d)

    @property
    def num_bytes(self) -> int:
        """Memory of the vectors."""
        return len(self) * self.width * 4

    def search(
        self, query_QP: Floats, *, num_rows: int, allowed_N: NDArray[np.bool_] | None = None
    ) -> list[NDArray[np.int64]]:
        """Per query the rows with the highest inner product among the allowed ones, best first.

        Fewer than `num_rows` come back where fewer are allowed; then all of those do.
        """
        parameters = None
        if allowed_N is not None:
            # The selector points into this array, so it has to outlive the call.
            bits = np.packbits(allowed_N, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(allowed_N), faiss.swig_ptr(bits))
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]  # its stub lacks the keyword
        _, row_QK = self._index.search(
            np.ascontiguousarray(query_QP, np.float32), min(num_rows, len(self)), params=parameters
        )
        return [rows[rows >= 0] for rows in row_QK]

    def vectors(self, start: int = 0, stop: int | None = None) -> Floats:
        """The vectors of these rows, `[N, P]` float32: a copy."""
        stop = len(self) if stop is None else min(stop, len(self))
        return np.asarray(self._index.reconstruct_n(start, stop - start), np.float32)

    def save(self, path: Path) -> None:
        """Write FAISS's own format."""
        # Through our own file: on a full disk FAISS prints a line and leaves half an index behind.
        with open(path, "wb") as file:
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]

    @classmethod
    def load(cls, path: Path) -> "FlatIndex":
        """Read FAISS's own format. Raises ReleaseError where it is missing or of another kind."""
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise ReleaseError(f"Index {path} cannot be read: {str(error).splitlines()[0]}.") from error
        if not isinstance(index, faiss.IndexFlatIP):
            raise ReleaseError(f"Index {path} is a {type(index).__name__}; a flat inner product index was expected.")
        return cls(index)


def with_columns(vector_NP: Floats, value_NE: Floats) -> Floats:
    """`[N, P + E]`: vectors with more values each."""
    if not value_NE.shape[1]:
        return vector_NP
    return np.concatenate([vector_NP, np.asarray(value_NE, np.float32)], axis=1)
