"""Likely queries: captions of the train products, embedded by an ensemble, and the pictures that they mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclip.models.captions import Captions
from enclip.models.clip import ClipEncoder, ClipModel
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
    models: Sequence[ClipModel],
    image_NDs: Sequence[NDArray[np.floating]],
    weights: Sequence[float],
) -> QueryBank | None:
    """The bank as these members embed it, a little softer than they were trained; None where it has no text.

    Args:
        image_NDs: per member its embeddings of all products.
    """
    if not bank.texts:
        return None
    return QueryBank.of(
        [ClipEncoder(model).encode_texts(bank.texts) for model in models],
        [bank.exemplars(image_ND) for image_ND in image_NDs],
        bank.counts,
        weights=weights,
        sharpness=SOFTER * float(np.average([model.sharpness for model in models], weights=weights)),
    )
