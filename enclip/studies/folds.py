"""Other assignments of the same groups to train, select and gate: what a study repeats itself over (D7)."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from enclip.catalog.groups import Key, group_limit, title_keys
from enclip.records import Products, Split

SELECT, GATE = 0.10, 0.15  # shares, as in `catalog.groups`


def rotated(products: Products, fold: int) -> Products:
    """The products with the splits of a fold; fold 0 has the catalog's own.

    Groups lie on a circle by a hash of their id, and each fold's select and gate begin a quarter of it
    further on, so that the galleries of folds 1 to 4 share no product: there are no more folds. A group stays
    in one split, and what stands aside stays there.
    """
    if fold == 0:
        return products
    place = {group: _place(first) for group, first in _kept_together(products).items()}
    turned_N = (np.array([place[group] for group in products.group_id]) - fold / 4) % 1.0
    split_N = np.where(turned_N < SELECT, Split.SELECT, np.where(turned_N < SELECT + GATE, Split.GATE, Split.TRAIN))
    split_N = np.where(products.split == Split.ASIDE, Split.ASIDE, split_N)
    return replace(products, split=np.array([str(split) for split in split_N], dtype=object))


def _kept_together(products: Products) -> Mapping[str, str]:
    """Group → the first of those that it shares a picture, a name or a stem with, through however many others.

    Groups of one split may share them: what links two of them has joined one. Another fold must not part them.
    """
    groups, group_N = np.unique(products.group_id, return_inverse=True)
    having: defaultdict[Key, list[int]] = defaultdict(list)
    rows = zip(products.name, products.base_colour, products.image_sha256, products.split, group_N, strict=True)
    for name, colour, image_sha256, split, group in rows:
        if split != Split.ASIDE:
            for key in title_keys(name, colour, image_sha256):
                having[key].append(group)
    limit = group_limit(len(products))
    links = [(found[0], other) for found in having.values() if len(found) <= limit for other in found[1:]]
    one_L, other_L = np.array(links or [(0, 0)]).T
    graph = coo_array((np.ones(len(one_L)), (one_L, other_L)), shape=(len(groups), len(groups)))
    part_G = connected_components(graph, directed=False)[1]
    first_of_part = groups[np.unique(part_G, return_index=True)[1]]
    return dict(zip(groups, first_of_part[part_G], strict=True))


def _place(group_id: str) -> float:
    """0 to 1."""
    return int(hashlib.sha256(f"enclip-fold/{group_id}".encode()).hexdigest()[:12], 16) / 16**12
