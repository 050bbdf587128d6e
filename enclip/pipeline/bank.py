"""Likely queries: captions of the train products, embedded by an ensemble, and the pictures that they mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclip.models.captions import Captions
from enclip.records import Floats, Products, Split
from enclip.retrieval.bank import QueryBank

SOFTER = 0.7  # of the temperature of training: best of 0.6 to 1 on the real catalog, by a little
MOST = 4_096  # the commonest: beyond, the bank would cost more than it knows


@dataclass(frozen=True, eq=False)
class BankTexts:
    """J texts that could be asked for, and the rows of the train products that each is true of."""

    texts: list[str]
    rows: list[NDArray[np.int64]]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Of how many train products each is true."""
        return np.array([len(rows) for rows in self.rows], np.int64)

    def exemplars(self, image_ND: NDArray[np.floating]) -> Floats:
        """`[J, D]` float32: per text the mean embedding of its products."""
        found = [np.asarray(image_ND[rows], np.float32).mean(axis=0) for rows in self.rows]
        return np.stack(found).astype(np.float32)


def bank_texts(products: Products) -> BankTexts:
    """The attribute captions of the train split; of a catalog without attributes, the names.

    Nothing of another split goes into it.
    """
    rows = np.flatnonzero(products.split == Split.TRAIN)
    found = Captions(products).claims(rows)
    kept = sorted(sorted(range(len(found)), key=lambda claim: -len(found[claim].rows))[:MOST])
    return BankTexts([found[claim].text for claim in kept], [found[claim].rows for claim in kept])


def query_bank(
    bank: BankTexts,
    text_JDs: Sequence[NDArray[np.floating]],
    image_NDs: Sequence[NDArray[np.floating]],
    weights: Sequence[float],
    sharpnesses: Sequence[float],
) -> QueryBank | None:
    """The bank as an ensemble has it, a little softer than it was trained; None where it has no text.

    Args:
        text_JDs, image_NDs: per member its embeddings of the bank's texts and of all products.
        sharpnesses: per member that of its training.
    """
    if not bank.texts:
        return None
    return QueryBank.of(
        [np.asarray(text_JD, np.float32) for text_JD in text_JDs],
        [bank.exemplars(image_ND) for image_ND in image_NDs],
        bank.counts,
        weights=weights,
        sharpness=softened(sharpnesses, weights),
    )


def softened(sharpnesses: Sequence[float], weights: Sequence[float]) -> float:
    """The sharpness at which an ensemble's scores are made into probabilities."""
    return SOFTER * float(np.average(sharpnesses, weights=weights))
