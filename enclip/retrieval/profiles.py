"""What each cluster of a release holds, in words and figures that people can judge it by."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from enclip.records import Floats, Products, Strings
from enclip.retrieval.atlas import Atlas
from enclip.retrieval.audit import Suspect
from enclip.retrieval.clusters import Clusters
from enclip.retrieval.filters import Mask

LISTED = 4  # values of a label that a profile names
MAJORITY = 0.5  # of a cluster's labelled products, for a word to stand in its name

Rows = NDArray[np.int64]
Counts = tuple[tuple[str, int], ...]  # value → products, the commonest first; ties by name


@dataclass(frozen=True, slots=True)
class Profile:
    """One cluster, as far as its products are allowed.

    Attributes:
        name: what most of it is, such as "Men Navy Blue Jeans"; its number where nothing is labelled.
        purity: share of the commonest category among the products that have one; None where none has.
        types, colours: the commonest articleTypes (categories where the catalog has none) and colours.
        tightness: mean cosine of its products with its centre, 1 at most.
        num_suspects: products with a label that their neighbours contradict.
        centre: where its middle lies on the map; None where there is no map.
    """

    cluster: int
    name: str
    num_products: int
    category: str
    purity: float | None
    types: Counts
    colours: Counts
    tightness: float
    num_suspects: int
    centre: tuple[float, float] | None


class Profiles:
    """The clusters of a release; what does not depend on withdrawals is worked out once.

    Args:
        closeness_N: each product's cosine with the centre of its cluster.
        atlas: the map; None where the release has none.
        suspects: what the audit found when the release was built, the surest first.
    """

    def __init__(
        self,
        products: Products,
        clusters: Clusters,
        closeness_N: Floats,
        atlas: Atlas | None = None,
        suspects: Sequence[Suspect] = (),
    ) -> None:
        self.count = clusters.count
        self.assignment_N = clusters.assignment_N.astype(np.int64)
        self._closeness_N = closeness_N
        self._atlas = atlas
        self._labels = {
            "category": _Label(products.category),
            "type": _Label(np.where(products.article_type != "", products.article_type, products.category)),
            "colour": _Label(products.base_colour),
            "gender": _Label(products.gender),
        }
        # Nearest to its centre first; ties by product_id, which rows are in the order of.
        self._row_N = np.lexsort((-closeness_N, self.assignment_N))
        self._ends_C = np.cumsum(np.bincount(self.assignment_N, minlength=self.count))
        self._suspects: defaultdict[int, list[Suspect]] = defaultdict(list)
        ids = [suspect.product_id for suspect in suspects]
        for row, suspect in zip(
            np.searchsorted(products.product_id, ids).tolist() if ids else (), suspects, strict=True
        ):
            self._suspects[row].append(suspect)

    def rows(self, cluster: int, allowed: Mask | None = None) -> Rows:
        """A cluster's allowed products, nearest to its centre first."""
        row_M = self._row_N[self._ends_C[cluster - 1] if cluster else 0 : self._ends_C[cluster]]
        return row_M if allowed is None else row_M[allowed[row_M]]

    def suspect_rows(self, allowed: Mask | None = None) -> Rows:
        """The allowed products with a suspicious label, the surest first."""
        row_M = np.fromiter(self._suspects, np.int64, len(self._suspects))
        return row_M if allowed is None else row_M[allowed[row_M]]

    def suspects(self, row: int) -> tuple[Suspect, ...]:
        """What is suspicious of a product, the surest first."""
        return tuple(self._suspects.get(row, ()))

    def closeness(self, row: int) -> float:
        """A product's cosine with the centre of its cluster."""
        return float(self._closeness_N[row])

    def of(self, allowed: Mask | None = None) -> tuple[Profile, ...]:
        """Every cluster that holds an allowed product, by number."""
        row_M = np.arange(len(self.assignment_N)) if allowed is None else np.flatnonzero(allowed)
        cluster_M = self.assignment_N[row_M]
        size_C = np.bincount(cluster_M, minlength=self.count)
        tight_C = np.bincount(cluster_M, self._closeness_N[row_M], minlength=self.count) / np.maximum(size_C, 1)
        suspects_C = np.bincount(self.assignment_N[self.suspect_rows(allowed)], minlength=self.count)
        counts = {name: label.by_cluster(row_M, cluster_M) for name, label in self._labels.items()}
        return tuple(
            self._profile(
                cluster,
                {name: found.get(cluster, {}) for name, found in counts.items()},
                num_products=int(size_C[cluster]),
                tightness=float(tight_C[cluster]),
                num_suspects=int(suspects_C[cluster]),
                centre=self._centre(self.rows(cluster, allowed)),
            )
            for cluster in np.flatnonzero(size_C).tolist()
        )

    def _centre(self, row_M: Rows) -> tuple[float, float] | None:
        if self._atlas is None:
            return None
        # The median: a few strays on the other side of the map do not pull it into the void.
        across, up = np.median(self._atlas.position_N2[row_M], axis=0).tolist()
        return across, up

    @staticmethod
    def _profile(
        cluster: int,
        counts: dict[str, dict[str, int]],
        *,
        num_products: int,
        tightness: float,
        num_suspects: int,
        centre: tuple[float, float] | None,
    ) -> Profile:
        categories = counts["category"]
        category = next(iter(categories), "")
        return Profile(
            cluster=cluster,
            name=_name(counts) or f"Cluster {cluster}",
            num_products=num_products,
            category=category,
            purity=categories[category] / sum(categories.values()) if categories else None,
            types=tuple(islice(counts["type"].items(), LISTED)),
            colours=tuple(islice(counts["colour"].items(), LISTED)),
            tightness=tightness,
            num_suspects=num_suspects,
            centre=centre,
        )


class _Label:
    """One attribute of N products as codes, -1 for none."""

    def __init__(self, value_N: Strings) -> None:
        # Not by NumPy, whose strings are all as long as the longest.
        self.names = sorted(set(value_N) - {""})
        code_of = {name: code for code, name in enumerate(self.names)}
        self.code_N = np.fromiter((code_of.get(value, -1) for value in value_N), np.int64, len(value_N))

    def by_cluster(self, row_M: Rows, cluster_M: Rows) -> dict[int, dict[str, int]]:
        """Cluster → value → products, the commonest first; products without a value are left out."""
        known = self.code_N[row_M] >= 0
        # Pairs that occur, rather than a table of all: a catalog may have as many categories as products.
        pair_M = cluster_M[known] * max(1, len(self.names)) + self.code_N[row_M][known]
        pairs, counts = np.unique(pair_M, return_counts=True)
        found: dict[int, dict[str, int]] = {}
        for place in np.lexsort((pairs, -counts)).tolist():
            cluster, code = divmod(int(pairs[place]), len(self.names))
            found.setdefault(cluster, {})[self.names[code]] = int(counts[place])
        return found


def _name(counts: dict[str, dict[str, int]]) -> str:
    """Gender and colour that most have, and the fewest types that together most are; "" without labels."""
    types = counts["type"]
    if not types:
        return ""
    words = [next(iter(counts[name]), "") for name in ("gender", "colour") if _leads(counts[name])]
    if _leads(types):
        return " ".join([*words, next(iter(types))])
    if _leads(counts["category"]):
        return " ".join([*words, next(iter(counts["category"]))])
    return " ".join([*words, ", ".join(islice(types, 2))])


def _leads(counts: dict[str, int]) -> bool:
    return bool(counts) and next(iter(counts.values())) > MAJORITY * sum(counts.values())
