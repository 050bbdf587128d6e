"""A ranking whose near-duplicates are folded under the best of them, so that a page shows more of the catalog."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.errors import ReleaseError
from enclip.records import Hit, Products, Ranking
from enclip.retrieval.arrays import read_arrays

DUPLICATES = "duplicates.npz"
ALONE = -1


@dataclass(frozen=True, eq=False)
class Spread:
    """Which of N products are near-duplicates of each other: `group_N` int32, -1 for those that are nobody's."""

    group_N: NDArray[np.int32]

    @classmethod
    def of(cls, groups: Sequence[NDArray[np.int64]], num_products: int) -> "Spread":
        """From groups as rows; a product lies in one group at most."""
        group_N = np.full(num_products, ALONE, np.int32)
        for number, rows in enumerate(groups):
            group_N[rows] = number
        return cls(group_N)

    def page(self, ranking: Ranking, products: Products, *, k: int) -> Ranking:
        """The first k of a deeper ranking, only the best of each group among them until no others are left.

        Each hit says how many of the ranking's products are folded under it. Where there are fewer than k groups
        and single products, the places left go to what would have been folded, in order; so scores fall up to
        there, and once more from there.
        """
        group_of = self._groups(ranking, products)
        seen: set[int] = set()
        leading: list[tuple[Hit, int]] = []
        folding: list[tuple[Hit, int]] = []
        for hit, group in zip(ranking.hits, group_of, strict=True):
            (folding if group in seen else leading).append((hit, group))
            if group != ALONE:
                seen.add(group)
        page = (leading + folding)[:k]
        folded = Counter(group for _, group in (leading + folding)[k:] if group != ALONE)
        return Ranking(
            tuple(
                replace(hit, folded=folded[group]) if place < len(leading) and group != ALONE else hit
                for place, (hit, group) in enumerate(page)
            )
        )

    def save(self, path: Path) -> None:
        """Write an npz."""
        np.savez_compressed(path, group=self.group_N)

    @classmethod
    def load(cls, path: Path, *, num_products: int) -> "Spread":
        """Read an npz. Raises ReleaseError where it is damaged or of another catalog."""
        (group_N,) = read_arrays(path, "group")
        if group_N.shape != (num_products,) or group_N.dtype != np.int32:
            raise ReleaseError(f"Release file {path} groups {group_N.shape} products; there are {num_products}.")
        return cls(group_N)

    def _groups(self, ranking: Ranking, products: Products) -> list[int]:
        rows = np.searchsorted(products.product_id, np.array(ranking.product_ids, dtype=object))
        return [int(group) for group in self.group_N[rows]]
