"""Attribute heads: of an ensemble by pictures, and of names, of train and *select* and what their rows say of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclip.models.captions import CAPTION_FIELDS
from enclip.pipeline.bank import softened
from enclip.records import Products, Split
from enclip.retrieval.heads import PAIR, AttributeHeads, LinearHeads, fit_heads, known_values
from enclip.retrieval.name_heads import NameHeads, words_of
from enclip.retrieval.text import words

MOST_ROWS = 30_000  # products of a split: of more a sample is used
UNSEEN = 2  # pictures of the train split that one of *select* counts as: docs/decisions/0008
INVERSE_PENALTIES_OF_WORDS = (1.0, 3.0, 10.0)
FEWEST_NAMES = 2  # names of the train split that have a word that is read
MOST_WEIGHTS = 4_000_000  # of the field with most values: of a larger vocabulary the most frequent words are read

Values = dict[str, tuple[str, ...]]


def train_values(products: Products) -> Values:
    """Field → the values that heads of this catalog tell apart: those of the train split's captions."""
    return known_values(products, np.flatnonzero(products.split == Split.TRAIN), (*CAPTION_FIELDS, PAIR))


@dataclass(frozen=True)
class FittedHeads:
    """An ensemble's heads, by whose pictures they were fitted.

    Attributes:
        judged: by the train split's, so that *select* may judge what they weigh in a score.
        final: by *select*'s too, for a release.
    """

    judged: AttributeHeads
    final: AttributeHeads


def ensemble_heads(
    products: Products,
    block_NDs: Sequence[NDArray[np.floating]],
    weights: Sequence[float],
    sharpnesses: Sequence[float],
    values: Values,
    *,
    colour_NC: NDArray[np.floating] | None = None,
    penalties: Mapping[str, float] | None = None,
) -> FittedHeads | None:
    """The heads of an ensemble; None for a catalog without attributes to tell apart.

    *Select* chooses how strongly each field's are held back, by the log-loss of its pictures. Members know the train
    split's pictures better than any they will see: of the final heads each of *select*'s counts as UNSEEN of them.

    Args:
        block_NDs: per member its embeddings of all products. weights: of the members. sharpnesses: of their trainings.
        colour_NC: of all products' pictures, which heads read too; None: members alone.
        penalties: inverse ones by field, where *select* is not to choose them.
    """
    if not values:
        return None
    train, select = (_some(np.flatnonzero(products.split == split)) for split in (Split.TRAIN, Split.SELECT))
    known = products.take(np.concatenate([train, select]))
    if colour_NC is None:
        colour_NC = np.zeros((len(products), 0), np.float32)
    *seen, colours = (
        np.asarray(np.concatenate([block[train], block[select]]), np.float32) for block in (*block_NDs, colour_NC)
    )
    root_M = np.sqrt(np.asarray(weights, np.float32) / np.sum(weights))
    widths = [block.shape[1] for block in (*seen, colours)]
    root_D1 = np.repeat(np.append(root_M, np.float32(1)), widths)[:, None]
    sharpness = softened(sharpnesses, weights)
    scaled_ND = np.concatenate([*seen, colours], axis=1) * root_D1.T

    def fitted(
        rows: NDArray[np.int64], penalties: Mapping[str, float] | None
    ) -> tuple[AttributeHeads, Mapping[str, float]]:
        found, penalties = fit_heads(
            known, rows, scaled_ND, values, sharpness=sharpness, held=held, penalties=penalties
        )
        joint = LinearHeads(found.weight_DV * root_D1, found.intercept_V)
        own = [joint]
        if len(seen) > 1:
            own = [
                fit_heads(
                    known,
                    rows,
                    np.concatenate([block, colours], axis=1),
                    values,
                    sharpness=softened([mine], [1.0]),
                    penalties=penalties,
                )[0]
                for block, mine in zip(seen, sharpnesses, strict=True)
            ]
        heads = AttributeHeads(tuple(values), tuple(values.values()), joint, tuple(own), sharpness, colours.shape[1])
        return heads, penalties

    rows, held = np.arange(len(train)), np.arange(len(train), len(known))
    judged, penalties = fitted(rows, penalties)
    final, _ = fitted(np.concatenate([rows, *[held] * UNSEEN]), penalties)
    return FittedHeads(judged, final)


@dataclass(frozen=True)
class FittedNameHeads:
    """What reads names, by whose it was fitted; as `FittedHeads`."""

    judged: NameHeads
    final: NameHeads


def name_heads(products: Products, values: Values) -> FittedNameHeads | None:
    """What reads these values in names, by the words of train's names, of which *select* chooses how strongly they are
    held back; None where there are no values, or no words.
    """
    train, select = (_some(np.flatnonzero(products.split == split)) for split in (Split.TRAIN, Split.SELECT))
    if not values:
        return None
    counts = Counter(word for name in products.name[train] for word in set(words(str(name))))
    most = MOST_WEIGHTS // max(map(len, values.values()))
    vocabulary = tuple(sorted(word for word, count in counts.most_common(most) if count >= FEWEST_NAMES))
    if not vocabulary:
        return None
    known = products.take(np.concatenate([train, select]))
    word_NW = words_of(known.name, vocabulary)
    rows, held = np.arange(len(train)), np.arange(len(train), len(known))
    starts = tuple(np.cumsum([0, *map(len, values.values())])[:-1].tolist())
    judged, penalties = fit_heads(
        known, rows, word_NW, values, sharpness=1.0, held=held, tried=INVERSE_PENALTIES_OF_WORDS
    )
    final, _ = fit_heads(known, np.arange(len(known)), word_NW, values, sharpness=1.0, penalties=penalties)
    return FittedNameHeads(NameHeads(vocabulary, starts, judged), NameHeads(vocabulary, starts, final))


def _some(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(rows) <= MOST_ROWS:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
