"""Other assignments of the same groups to train, select and gate: what a study repeats itself over (D7)."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

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
    having: defaultdict[Key, list[str]] = defaultdict(list)
    columns = (products.name, products.base_colour, products.image_sha256, products.split, products.group_id)
    for name, colour, image_sha256, split, group in zip(*columns, strict=True):
        if split != Split.ASIDE:
            for key in title_keys(name, colour, image_sha256):
                having[key].append(group)
    before = {group: group for group in products.group_id}

    def first_of(group: str) -> str:
        while before[group] != group:
            group = before[group]
        return group

    limit = group_limit(len(products))
    for found in having.values():
        if len(found) <= limit:  # more say nothing: a placeholder picture, a name like "Shirt"
            firsts = {first_of(group) for group in found}
            before |= dict.fromkeys(firsts, min(firsts))
    return {group: first_of(group) for group in before}


def _place(group_id: str) -> float:
    """0 to 1."""
    return int(hashlib.sha256(f"enclip-fold/{group_id}".encode()).hexdigest()[:12], 16) / 16**12
