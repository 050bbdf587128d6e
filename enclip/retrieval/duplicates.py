"""Products whose pictures the ensemble can hardly tell apart, in groups."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclip.records import Products
from enclip.retrieval.neighbours import Looks, Neighbours, Rows

MAX_SHARE = 0.003  # of the distance between two typical products; measured, see `find_duplicates`
MIN_PICTURES = 20  # below, a typical distance means nothing, and only equal pictures count
COMPARED = ("article_type", "base_colour", "gender", "name")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A product of a group: how like the group's first it is, 1 at most; whether another has its very picture."""

    product_id: str
    name: str
    similarity: float
    same_picture: bool


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Near-duplicates: the first is the one most of the others are like; the others by similarity descending.

    `differs` names what their entries disagree on: with the same picture, one of them is wrong.
    """

    products: tuple[Duplicate, ...]
    differs: tuple[str, ...]
    cluster: int

    @property
    def similarity(self) -> float:
        """That of its least similar product."""
        return min(product.similarity for product in self.products)


def find_duplicates(looks: Looks, neighbours: Neighbours, *, max_share: float = MAX_SHARE) -> list[Rows]:
    """Groups of at least two products, as rows: the first is the centre, the others by similarity descending.

    A product belongs to at most one group. Within one, everything lies within the distance of the centre, not
    of one another in a chain, so that a group does not run from black to white through all greys.

    The distance, 1 - cosine, is measured in typical ones (the median over random pairs), since spaces differ
    in width: 0.3% of that. On 9,468 real products with tiny's early epochs, 90 to 95% of such pairs are
    the same picture by their pixels or the same style by name, and they are 45% of all that are the same by
    pixels; at 0.45% it is 60 to 80%, at 1.5% one pair in ten. On drawn products it is 67 to 100%.
    """
    limit = max_share * looks.typical_distance() if len(neighbours) >= MIN_PICTURES else 0.0
    near: dict[int, list[tuple[float, int]]] = {}
    for left, right, similarity in _close_pairs(looks, neighbours, limit):
        near.setdefault(left, []).append((-similarity, right))
        near.setdefault(right, []).append((-similarity, left))
    products_of = {int(neighbours.picture_N[rows[0]]): rows for rows in neighbours.copies()}
    taken: set[int] = set()
    groups = []
    # The picture with most look-alikes first, so that a group lies around its middle.
    for picture in sorted(near.keys() | products_of.keys(), key=lambda one: (-len(near.get(one, ())), one)):
        if picture in taken:
            continue
        others = [other for _, other in sorted(near.get(picture, ())) if other not in taken]
        taken.update((picture, *others))
        rows = [products_of.get(one, neighbours.first_U[one : one + 1]) for one in (picture, *others)]
        if sum(map(len, rows)) > 1:
            groups.append(np.concatenate(rows))
    return groups


def describe_duplicates(
    groups: list[Rows], looks: Looks, products: Products, assignment_N: NDArray[np.int32]
) -> tuple[DuplicateGroup, ...]:
    """The groups for people: those with the same picture and other entries first, then by similarity."""
    found = []
    for rows in groups:
        similarity = looks.cosines(np.full(len(rows), rows[0]), rows)
        pictures = products.image_sha256[rows].astype(str)
        _, which, counts = np.unique(pictures, return_inverse=True, return_counts=True)
        found.append(
            DuplicateGroup(
                products=tuple(
                    Duplicate(
                        str(products.product_id[row]), str(products.name[row]), round(float(value), 4), bool(same)
                    )
                    for row, value, same in zip(rows, similarity, (counts[which] > 1) & (pictures != ""), strict=True)
                ),
                differs=tuple(name for name in COMPARED if len(set(getattr(products, name)[rows])) > 1),
                cluster=int(assignment_N[rows[0]]),
            )
        )
    return tuple(sorted(found, key=lambda group: (-group.similarity, group.products[0].product_id)))


def _close_pairs(looks: Looks, neighbours: Neighbours, limit: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of pictures within the limit, each once. The projection never adds distance, so it finds them all."""
    if limit <= 0:
        return
    left_M, column_M = np.nonzero(neighbours.distance_UK <= 2 * limit + 1e-6)
    right_M = neighbours.row_UK[left_M, column_M]
    pairs = np.unique(np.stack([np.minimum(left_M, right_M), np.maximum(left_M, right_M)], axis=1), axis=0)
    similarity_M = looks.cosines(neighbours.first_U[pairs[:, 0]], neighbours.first_U[pairs[:, 1]])
    for (left, right), similarity in zip(pairs, similarity_M, strict=True):
        if 1 - similarity <= limit:
            yield int(left), int(right), float(similarity)
