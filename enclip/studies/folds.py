"""Other assignments of the same groups to train, select and gate: what a study repeats itself over (D7)."""

import hashlib
from dataclasses import replace

import numpy as np

from enclip.records import Products, Split

SELECT, GATE = 0.10, 0.15  # shares, as in `catalog.groups`


def rotated(products: Products, fold: int) -> Products:
    """The products with the splits of a fold; fold 0 has the catalog's own.

    Groups lie on a circle by a hash of their id, and each fold's select and gate begin a quarter of it
    further on, so that the galleries of folds 1 to 4 share no product. A group stays in one split, and
    what stands aside stays there.
    """
    if fold == 0:
        return products
    place = {group: _place(group) for group in set(products.group_id)}
    turned_N = (np.array([place[group] for group in products.group_id]) - fold / 4) % 1.0
    split_N = np.where(turned_N < SELECT, Split.SELECT, np.where(turned_N < SELECT + GATE, Split.GATE, Split.TRAIN))
    split_N = np.where(products.split == Split.ASIDE, Split.ASIDE, split_N)
    return replace(products, split=np.array([str(split) for split in split_N], dtype=object))


def _place(group_id: str) -> float:
    """0 to 1."""
    return int(hashlib.sha256(f"enclip-fold/{group_id}".encode()).hexdigest()[:12], 16) / 16**12
