"""What a product's name says of its attributes: a linear classifier per field on the words of the train split's names.

People ask for "Casual Shoes", and the name says *Sneakers*; they ask for Navy Blue, and it says *Indigo*. BM25 finds
words, an embedding what resembles them; which words go with which value the catalog itself knows, by its train split.
Of a product that is searched the name alone is read: what its row says of its attributes has no part in its score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from enclip.errors import ReleaseError
from enclip.records import Floats, Strings
from enclip.retrieval import fusion
from enclip.retrieval.arrays import read_arrays
from enclip.retrieval.heads import LinearHeads
from enclip.retrieval.text import letters_joined, words

NAME_HEADS = "name-heads.npz"
BLOCK = 4_096


@dataclass(frozen=True, eq=False)
class NameHeads:
    """Classifiers of the values that a release's attribute heads tell apart, in their order: V in F fields.

    Attributes:
        vocabulary: the W words that they know.
        starts: per field its first column.
        linear: logits `Σ weight_WV[words of the name] + intercept_V`.
    """

    vocabulary: tuple[str, ...]
    starts: tuple[int, ...]
    linear: LinearHeads

    @property
    def shape(self) -> tuple[int, ...]:
        """V, and the starts: what they have in common with the attribute heads of the same values."""
        return (len(self.linear.intercept_V), *self.starts)

    def over(self, names: Strings) -> "SaidByNames":
        """What these names say."""
        word_NW = words_of(names, self.vocabulary)
        normaliser_NF = np.empty((len(names), len(self.starts)), np.float32)
        for start in range(0, len(names), BLOCK):
            logit_NV = word_NW[start : start + BLOCK] @ self.linear.weight_DV + self.linear.intercept_V
            for field, part_NV in enumerate(np.split(logit_NV, self.starts[1:], axis=1)):
                normaliser_NF[start : start + BLOCK, field] = fusion.log_sum_exp(part_NV)
        return SaidByNames(self, word_NW, normaliser_NF)


@dataclass(frozen=True, eq=False)
class SaidByNames:
    """What the names of N products say of their attributes.

    Attributes:
        word_NW: sparse; 1 where a name has a word.
        normaliser_NF: per name and field the logarithm of the sum of the values' exponentiated logits.
    """

    heads: NameHeads
    word_NW: csr_matrix
    normaliser_NF: Floats

    def log_probability(self, column_FVs: Sequence[Sequence[int]]) -> Floats | None:
        """`[N]` nats, at most 0: what names say of these values, of several of a field in the mean, summed over fields;
        None for no values.

        Args:
            column_FVs: per field the columns of values, as `AttributeHeads.scored` finds them.
        """
        asked = [field for field, columns in enumerate(column_FVs) if columns]
        if not asked:
            return None
        weight_W = sum(self._weight_of_value[column_FVs[field]].mean(axis=0) for field in asked)
        constant = sum(self.heads.linear.intercept_V[column_FVs[field]].mean() for field in asked)
        found_N = self.word_NW @ weight_W + np.float32(constant)
        for field in asked:
            found_N -= self._normaliser_of_field[field]
        return np.asarray(found_N, np.float32)

    def shown(self, column_FVs: Sequence[Sequence[int]], row_C: NDArray[np.int64]) -> list[Floats]:
        """Per field with values: `[C]` how likely the names of some rows mean one of these; 0 where they say nothing.

        Args:
            column_FVs: per field the columns of values, as `AttributeHeads.asked` and `turned_from` find them.
        """
        word_CW, speaks_C = self.word_NW[row_C], ~self.is_silent[row_C]
        found = []
        for field, columns in enumerate(column_FVs):
            if columns:
                logit_CV = word_CW @ self._weight_of_value[columns].T + self.heads.linear.intercept_V[columns]
                shown_CV = np.exp(logit_CV - self.normaliser_NF[row_C, field, None])
                found.append(np.asarray(speaks_C * shown_CV.sum(axis=1), np.float32))
        return found

    @cached_property
    def is_silent(self) -> NDArray[np.bool_]:
        """`[N]`: the products whose names have no known word."""
        return np.asarray(np.diff(self.word_NW.indptr) == 0)

    @cached_property
    def _weight_of_value(self) -> Floats:
        """`[V, W]`, side by side in memory, as a search reads them."""
        return np.ascontiguousarray(self.heads.linear.weight_DV.T)

    @cached_property
    def _normaliser_of_field(self) -> Floats:
        """`[F, N]`, likewise."""
        return np.ascontiguousarray(self.normaliser_NF.T)

    @property
    def num_bytes(self) -> int:
        """Memory of it, as a search reads it."""
        word_NW, per_product, weights = self.word_NW, self.normaliser_NF.nbytes, self.heads.linear.weight_DV.nbytes
        words_of_names = word_NW.data.nbytes + word_NW.indices.nbytes + word_NW.indptr.nbytes
        return int(words_of_names + 2 * per_product + 2 * weights)

    def save(self, path: Path) -> None:
        """Write an npz."""
        np.savez(
            path,
            vocabulary=np.array(self.heads.vocabulary),
            starts=np.array(self.heads.starts),
            weight=self.heads.linear.weight_DV,
            intercept=self.heads.linear.intercept_V,
            word=self.word_NW.indices,
            first=self.word_NW.indptr,
            normaliser=self.normaliser_NF,
        )

    @classmethod
    def load(cls, path: Path, *, num_products: int) -> "SaidByNames":
        """What an npz holds. Raises ReleaseError where it is missing, damaged, or of other products."""
        found = read_arrays(path, "vocabulary", "starts", "weight", "intercept", "word", "first", "normaliser")
        vocabulary, starts, weight_WV, intercept_V, word_P, first_N, normaliser_NF = found
        numbers = (weight_WV, intercept_V, normaliser_NF)
        if (
            [part.ndim for part in found] != [1, 1, 2, 1, 1, 1, 2]
            or (vocabulary.dtype.kind, *(part.dtype.kind for part in (starts, word_P, first_N))) != ("U", "i", "i", "i")
            or not all(part.dtype.kind == "f" and np.isfinite(part).all() for part in numbers)
            or weight_WV.shape != (len(vocabulary), len(intercept_V))
            or first_N.shape != (num_products + 1,)
            or normaliser_NF.shape != (num_products, len(starts))
            or (len(word_P) and not 0 <= word_P.min() <= word_P.max() < len(vocabulary))
            or (np.diff(first_N) < 0).any()
            or (first_N[0], first_N[-1]) != (0, len(word_P))
        ):
            raise ReleaseError(f"{path} is not of the release's {num_products} products.")
        heads = NameHeads(tuple(vocabulary.tolist()), tuple(starts.tolist()), LinearHeads(weight_WV, intercept_V))
        return cls(heads, _sparse(word_P, first_N, len(vocabulary)), normaliser_NF)


def words_of(names: Strings, vocabulary: Sequence[str]) -> csr_matrix:
    """`[N, W]` float32, sparse: 1 where a name has a word."""
    column_of = {word: column for column, word in enumerate(vocabulary)}
    known = (letters_joined(words(str(name)), column_of) for name in names)
    rows = [sorted({column_of[word] for word in name if word in column_of}) for name in known]
    first_N = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    word_P = np.fromiter((column for row in rows for column in row), np.int32, count=int(first_N[-1]))
    return _sparse(word_P, first_N, len(vocabulary))


def _sparse(word_P: NDArray[np.int32], first_N: NDArray[np.int32], num_words: int) -> csr_matrix:
    """Of the words of all names one after the other, and where each name's begin."""
    return csr_matrix((np.ones(len(word_P), np.float32), word_P, first_N), shape=(len(first_N) - 1, num_words))
