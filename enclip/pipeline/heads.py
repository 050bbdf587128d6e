"""Attribute heads of an ensemble, from the train split's pictures and what its rows say of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enclip.models.captions import CAPTION_FIELDS
from enclip.pipeline.bank import softened
from enclip.records import Products, Split
from enclip.retrieval.heads import AttributeHeads, MemberHeads, fit_heads, known_values

Values = dict[str, tuple[str, ...]]


def train_values(products: Products) -> Values:
    """Field → the values that heads of this catalog tell apart: those of the train split's captions."""
    return known_values(products, np.flatnonzero(products.split == Split.TRAIN), CAPTION_FIELDS)


def member_heads(
    products: Products, image_ND: NDArray[np.floating], values: Values, *, sharpness: float
) -> MemberHeads:
    """One member's heads; nothing of another split goes into them.

    Args:
        image_ND: its embeddings of all products. sharpness: of its training.
    """
    rows = np.flatnonzero(products.split == Split.TRAIN)
    return fit_heads(products, rows, image_ND, values, sharpness=softened([sharpness], [1.0]))


def ensemble_heads(
    values: Values, members: Sequence[MemberHeads], weights: Sequence[float], sharpnesses: Sequence[float]
) -> AttributeHeads | None:
    """The members' heads together; None for a catalog without attributes to tell apart."""
    if not values:
        return None
    return AttributeHeads.of(values, members, weights=weights, sharpness=softened(sharpnesses, weights))
