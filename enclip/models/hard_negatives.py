"""Batches whose products are hard to tell apart: of one kind by their attributes, or of few clusters by their pictures.

Both give back the same rows in parts of the same sizes: an epoch stays a permutation of the products.
"""

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from enclip.models.captions import UNKNOWN, Ints, claim_keys
from enclip.models.clip import ClipModel, embed_pixels
from enclip.records import Products

TOGETHER = 8  # products of one cluster that share a batch


def kinds(products: Products) -> Ints:
    """`kind_N`: equal for products of one articleType, or, where they have none, of one subCategory; or UNKNOWN."""
    by_type, by_category = claim_keys(products, ("article_type",)), claim_keys(products, ("sub_category",))
    other = np.where(by_category == UNKNOWN, UNKNOWN, by_category + by_type.max(initial=UNKNOWN) + 1)
    return np.where(by_type == UNKNOWN, other, by_type)


def picture_clusters(
    model: ClipModel, pixels: NDArray[np.uint8], rows: Ints, *, seed: int, device: torch.device
) -> Ints:
    """`cluster_N`: the square root of their number of clusters of the rows' pictures, as the model sees them now.

    UNKNOWN for other rows. Equal weights and seed give equal clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    model.module.eval()
    image_RD = embed_pixels(model, pixels, device, rows=rows)
    # Of fewer distinct pictures scikit-learn makes fewer clusters, and warns.
    count = min(max(1, round(len(rows) ** 0.5)), len(np.unique(image_RD, axis=0)))
    cluster_N = np.full(len(pixels), UNKNOWN, dtype=np.int64)
    cluster_N[rows] = MiniBatchKMeans(n_clusters=count, n_init=1, random_state=seed).fit_predict(image_RD)
    return cluster_N


def of_one_kind(parts: Sequence[Ints], kind_N: Ints, share: float, random: np.random.Generator) -> list[Ints]:
    """A share of the parts hold one kind each, as far as kinds fill a part.

    A kind is taken as often as it has products left, and its products in the order that they have.
    """
    order = np.concatenate(parts)
    kind_of, place_of = np.unique(kind_N[order], return_inverse=True)
    left = [order[place_of == place] for place in range(len(kind_of))]
    alike: dict[int, Ints] = {}
    for number in _some(parts, share, random):
        size = len(parts[number])
        counts = np.array([len(rows) if len(rows) >= size else 0 for rows in left]) * (kind_of != UNKNOWN)
        if not counts.any():
            continue
        place = int(random.choice(len(left), p=counts / counts.sum()))
        alike[number], left[place] = left[place][:size], left[place][size:]
    return _with(alike, parts)


def of_few_clusters(parts: Sequence[Ints], cluster_N: Ints, share: float, random: np.random.Generator) -> list[Ints]:
    """A share of the parts are filled by eights of one cluster each, so that most of a part is still unlike."""
    order = np.concatenate(parts)
    order = order[np.argsort(cluster_N[order], kind="stable")]
    ends = np.flatnonzero(np.diff(cluster_N[order])) + 1
    eights = [eight for rows in np.split(order, ends) for eight in np.split(rows, range(TOGETHER, len(rows), TOGETHER))]
    drawn = np.concatenate([eights[number] for number in random.permutation(len(eights))])
    taken = _some(parts, share, random)
    filled = np.split(drawn, np.cumsum([len(parts[number]) for number in taken]))
    return _with(dict(zip(taken, filled, strict=False)), parts)


def _some(parts: Sequence[Ints], share: float, random: np.random.Generator) -> list[int]:
    """The numbers of a share of the parts, drawn."""
    return [int(number) for number in random.permutation(len(parts))[: round(share * len(parts))]]


def _with(alike: Mapping[int, Ints], parts: Sequence[Ints]) -> list[Ints]:
    """These parts in the place of those by their numbers; the others share the rest in the order that it has."""
    order = np.concatenate(parts)
    taken = np.concatenate([*alike.values(), order[:0]])
    rest = iter(order[~np.isin(order, taken)])
    return [
        alike[number] if number in alike else np.fromiter(islice(rest, len(part)), dtype=np.int64, count=len(part))
        for number, part in enumerate(parts)
    ]
