"""What pictures say of attributes: a linear classifier per field on each member's embeddings of train pictures.

A query in words often names values of attributes: "Men Navy Blue Shirts" a gender, a colour and a type. The cosine
of a caption weighs them as training happened to; a head asks for each by itself, `log p(navy blue | x)`, and so a
shirt that is white loses what it should. The heads of an ensemble multiply: their logits are summed by weight.

`log p(v | x) = w_v·x + c_v - log Σ_u exp(w_u·x + c_u)`: the first term is one more direction of the query, the second
a constant of it, the third one number per product and field. So a search with heads is still one inner product.
Only pictures are read; what a product's own row says of it has no part in its score.
"""

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.records import Floats, Products
from enclip.retrieval import fusion
from enclip.retrieval.arrays import read_arrays
from enclip.retrieval.text import words

HEADS = "heads.npz"
FEWEST = 3  # train products of a value, below which a head knows nothing of it
MOST_ROWS = 30_000  # train products that a head is fitted on
ITERATIONS = 100  # of L-BFGS: enough, and stopping there only regularises
INVERSE_PENALTY = 0.03  # best of 0.01 to 0.1 on the real catalog's select split, by nothing that matters
BLOCK = 16_384
LEAST_DOUBT = 1e-3  # no picture is ruled out for good: the heads err

Words = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class MemberHeads:
    """One member's classifiers over the V values of all fields: logits `x @ weight_DV + intercept_V`."""

    weight_DV: Floats
    intercept_V: Floats


@dataclass(frozen=True, eq=False)
class AttributeHeads:
    """The heads of an ensemble.

    Attributes:
        fields: F columns of the products.
        values: per field its values, in the order of the V columns of the weights.
        weight_DV: the members' weights one below the other, D = ΣD_k.
        intercept_MV: per member.
        sharpness: τ; divides logits into units of the score.
        dims, weights: per member the width of its block and its share of the score.
    """

    fields: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    weight_DV: Floats
    intercept_MV: Floats
    sharpness: float
    dims: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(
        cls,
        values: dict[str, tuple[str, ...]],
        members: Sequence[MemberHeads],
        *,
        weights: Sequence[float],
        sharpness: float,
    ) -> "AttributeHeads":
        """The members' heads together, over the same values by field."""
        return cls(
            fields=tuple(values),
            values=tuple(values.values()),
            weight_DV=np.concatenate([member.weight_DV for member in members]).astype(np.float32),
            intercept_MV=np.stack([member.intercept_V for member in members]).astype(np.float32),
            sharpness=float(sharpness),
            dims=tuple(len(member.weight_DV) for member in members),
            weights=tuple(float(weight) for weight in weights),
        )

    def member(self, member: int) -> "AttributeHeads":
        """The heads of one member alone."""
        start = sum(self.dims[:member])
        return AttributeHeads(
            self.fields,
            self.values,
            self.weight_DV[start : start + self.dims[member]],
            self.intercept_MV[member : member + 1],
            self.sharpness,
            (self.dims[member],),
            (1.0,),
        )

    def asked(self, text: str) -> list[list[int]]:
        """Per field the columns of the values that a text names, whole words, the longest first; plurals are alike."""
        spoken = words(text)
        return [_named(spoken, phrases) for phrases in self._phrases]

    def names(self, text: str, field: str) -> bool:
        """Whether a text names a value of a field."""
        return field in self.fields and bool(self.asked(text)[self.fields.index(field)])

    def query(self, texts: Sequence[str | None]) -> tuple[Floats, Floats]:
        """`direction_QD` that adds `w_v·x` to a score for the values that each text names, and `[Q, F]`, 1 where
        it names one of a field: of several the mean.
        """
        direction_QD = np.zeros((len(texts), len(self.weight_DV)), np.float32)
        asked_QF = np.zeros((len(texts), len(self.fields)), np.float32)
        scaled_DV = self._scaled
        for row, text in enumerate(texts):
            for field, columns in enumerate(self.asked(text or "")):
                if columns:
                    direction_QD[row] += scaled_DV[:, columns].mean(axis=1)
                    asked_QF[row, field] = 1
        return direction_QD, asked_QF

    def shown(self, text: str, embedding_CD: Floats) -> list[tuple[str, tuple[str, ...], Floats]]:
        """Per field that a text names values of: the field, those values, and `[C]` how likely a picture shows one.

        Args:
            embedding_CD: float32 concatenations of the pictures.
        """
        found = []
        constant_V = np.asarray(self.weights, np.float32) @ self.intercept_MV
        for start, field, values, columns in zip(self._starts, self.fields, self.values, self.asked(text), strict=True):
            if columns:
                part = slice(start, start + len(values))
                logit_CV = embedding_CD @ (self._scaled[:, part] * np.float32(self.sharpness)) + constant_V[part]
                shown_CV = np.exp(logit_CV - fusion.log_sum_exp(logit_CV)[:, None])
                named = [column - start for column in columns]
                found.append((field, tuple(values[column] for column in named), shown_CV[:, named].sum(axis=1)))
        return found

    def avoidance(self, text: str, embedding_CD: Floats) -> Floats:
        """`[C]`, at most 0, in units of the score: `1/τ · log(1 - p)`, p how likely a picture shows what a text names.

        Of several values of a field any counts; fields add up. Words that name no value cost nothing.

        Args:
            embedding_CD: float32 concatenations of the pictures.
        """
        found_C = np.zeros(len(embedding_CD), np.float32)
        for _, _, shown_C in self.shown(text, embedding_CD):
            found_C += np.log(np.maximum(1 - shown_C, LEAST_DOUBT)) / np.float32(self.sharpness)
        return found_C

    def normalisers(self, embedding_ND: NDArray[np.floating]) -> Floats:
        """`[N, F]` in units of the score: per field `1/τ · log Σ_v exp(logit)` of products' concatenations.

        Names behind the pictures are passed over.
        """
        width, scaled_DV = len(self.weight_DV), self._scaled * np.float32(self.sharpness)
        constant_V = np.asarray(self.weights, np.float32) @ self.intercept_MV
        found_NF = np.empty((len(embedding_ND), len(self.fields)), np.float32)
        for start in range(0, len(embedding_ND), BLOCK):
            logit_NV = np.asarray(embedding_ND[start : start + BLOCK, :width], np.float32) @ scaled_DV + constant_V
            for field, part_NV in enumerate(np.split(logit_NV, self._starts[1:], axis=1)):
                found_NF[start : start + BLOCK, field] = fusion.log_sum_exp(part_NV) / self.sharpness
        return found_NF

    def save(self, path: Path, normaliser_NF: Floats) -> None:
        """Write an npz of the heads and the products' normalisers."""
        np.savez(
            path,
            fields=np.array(self.fields),
            counts=np.array([len(values) for values in self.values]),
            values=np.array([value for values in self.values for value in values]),
            weight=self.weight_DV,
            intercept=self.intercept_MV,
            sharpness=np.float32(self.sharpness),
            dims=np.array(self.dims),
            weights=np.array(self.weights),
            normaliser=normaliser_NF,
        )

    @classmethod
    def load(cls, path: Path) -> tuple["AttributeHeads", Floats]:
        """Heads and normalisers of an npz. Raises ReleaseError where it is missing or damaged."""
        names = ("fields", "counts", "values", "weight", "intercept", "sharpness", "dims", "weights", "normaliser")
        fields, counts, values, weight, intercept, sharpness, dims, weights, normaliser = read_arrays(path, *names)
        parts = np.split(values, np.cumsum(counts)[:-1])
        heads = cls(
            tuple(fields.tolist()),
            tuple(tuple(part.tolist()) for part in parts),
            weight,
            intercept,
            float(sharpness),
            tuple(dims.tolist()),
            tuple(weights.tolist()),
        )
        return heads, normaliser

    @cached_property
    def _phrases(self) -> list[dict[Words, int]]:
        """Per field the words of a value → its column."""
        return [
            {tuple(words(value)): column for column, value in enumerate(values, start)}
            for values, start in zip(self.values, self._starts, strict=True)
        ]

    @property
    def _starts(self) -> list[int]:
        return [sum(len(values) for values in self.values[:field]) for field in range(len(self.fields))]

    @cached_property
    def _scaled(self) -> Floats:
        """`[D, V]` in units of the score."""
        share_D = np.repeat(np.asarray(self.weights, np.float32), self.dims)
        return np.asarray(self.weight_DV * share_D[:, None] / np.float32(self.sharpness), np.float32)


def known_values(products: Products, rows: NDArray[np.int64], fields: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Field → its values in these products, each of at least three of them; a field of fewer than two is left out.

    Values of the same words ("Navy Blue", "navy blue") are one, by its commonest spelling.
    """
    found: dict[str, tuple[str, ...]] = {}
    for field in fields:
        spellings: defaultdict[Words, Counter[str]] = defaultdict(Counter)
        for value in getattr(products, field)[rows]:
            spellings[tuple(words(str(value)))][str(value)] += 1
        alike = [counts for said, counts in spellings.items() if said and counts.total() >= FEWEST]
        if len(alike) > 1:
            found[field] = tuple(sorted(min(counts, key=lambda value: (-counts[value], value)) for counts in alike))
    return found


def fit_heads(
    products: Products,
    rows: NDArray[np.int64],
    image_ND: NDArray[np.floating],
    values: dict[str, tuple[str, ...]],
    *,
    sharpness: float,
    seed: int = 0,
) -> MemberHeads:
    """One member's heads, by scikit-learn's logistic regression.

    Args:
        rows: of the train split; of very many a sample is used.
        image_ND: the member's embeddings of all products.
        values: as `known_values` found them.
        sharpness: what multiplies embeddings: the penalty then means the same for every member.
    """
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_ROWS, replace=False))
    weights, intercepts = [], []
    for field, known in values.items():
        column_of = {tuple(words(value)): column for column, value in enumerate(known)}
        column_N = np.array([column_of.get(tuple(words(str(value))), -1) for value in getattr(products, field)[rows]])
        chosen = column_N >= 0
        weight_DV, intercept_V = np.zeros((image_ND.shape[1], len(known))), np.full(len(known), -30.0)
        scaled_ND = np.asarray(image_ND[rows[chosen]], np.float32) * np.float32(sharpness)
        column_C, weight_DC, intercept_C = _fit(scaled_ND, column_N[chosen])
        weight_DV[:, column_C], intercept_V[column_C] = weight_DC, intercept_C  # a value that a sample lacks: unlikely
        weights.append(weight_DV * sharpness)
        intercepts.append(intercept_V)
    return MemberHeads(
        np.concatenate(weights, axis=1).astype(np.float32), np.concatenate(intercepts).astype(np.float32)
    )


def _fit(
    image_ND: Floats, column_N: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The columns that pictures have, and their `weight_DC` and `intercept_C`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    found = np.unique(column_N)
    if len(found) < 2:  # nothing to tell apart
        return found, np.zeros((image_ND.shape[1], len(found))), np.zeros(len(found))
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(image_ND, column_N)
    if len(found) == 2:  # one row, of the second against the first
        return found, np.vstack([np.zeros_like(model.coef_[0]), model.coef_[0]]).T, np.array([0, model.intercept_[0]])
    return found, model.coef_.T, model.intercept_


def _named(spoken: Sequence[str], phrases: dict[Words, int]) -> list[int]:
    """The columns of phrases in a text, longest first, none over another."""
    found: list[int] = []
    free = [True] * len(spoken)
    for length in range(min(len(spoken), max(map(len, phrases), default=0)), 0, -1):
        for start in range(len(spoken) - length + 1):
            column = phrases.get(tuple(spoken[start : start + length]))
            if column is not None and all(free[start : start + length]):
                found.append(column)
                free[start : start + length] = [False] * length
    return found
