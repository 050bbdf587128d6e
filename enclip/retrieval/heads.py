"""What pictures say of attributes: a linear classifier per field on the members' embeddings of train pictures.

A query in words often names values of attributes: "Men Navy Blue Shirts" a gender, a colour and a type. The cosine
of a caption weighs them as training happened to; a head asks for each by itself, `log p(navy blue | x)`, and so a
shirt that is white loses what it should. One head reads all members side by side: where they err in different ways it
knows more than their own heads together. Behind them it reads the picture's own colours, which towers confuse.

Gender and type are told together too: what makes a shirt a man's is not what makes a shoe one. A query that names both
asks for `log p(men, shirts | x)`, which is better known than the sum of the two.

`log p(v | x) = w_v·x + c_v - log Σ_u exp(w_u·x + c_u)`: the first term is one more direction of the query, the second
a constant of it, the third one number per product and field. So a search with heads is still one inner product.
Only pictures are read; what a product's own row says of it has no part in its score.
"""

import copy
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from enclip.records import Floats, Products, Strings
from enclip.retrieval import fusion
from enclip.retrieval.arrays import array_names, read_arrays
from enclip.retrieval.text import words

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

HEADS = "heads.npz"
FEWEST = 3  # train products of a value, below which a head knows nothing of it
FEWEST_HELD = 50  # pictures whose log-loss chooses a penalty; of fewer it is the strongest
ITERATIONS = 100  # of L-BFGS: enough, and stopping there only regularises
INVERSE_PENALTIES = (0.03, 0.1, 0.3)  # what is best depends on the training: docs/decisions/0008
ABSENT = -30.0  # logit of a value that no picture has
NOBODY = np.zeros(0, dtype=np.int64)
PAIR, PAIRED = "gender and article_type", ("gender", "article_type")  # the one pair that pays: docs/decisions/0008
BLOCK = 16_384
LONGEST = 8  # words of a text that are held against a value; values of more are not named
LEAST_DOUBT = 1e-3  # no product is ruled out for good


@dataclass(frozen=True, eq=False)
class LinearHeads:
    """Classifiers over the V values of all fields: logits `x @ weight_DV + intercept_V`."""

    weight_DV: Floats
    intercept_V: Floats


@dataclass(frozen=True, eq=False)
class AttributeHeads:
    """The heads of an ensemble.

    Attributes:
        fields: F columns of the products, and PAIR.
        values: per field its values, in the order of the V columns of the weights.
        joint: over the members' embeddings side by side and the picture's colours, D = ΣD_k + C.
        own: each member's, over its embeddings and the colours, for a search by it alone.
        sharpness: τ; divides logits into units of the score.
        num_colours: C; 0 where heads were fitted without them.
    """

    fields: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    joint: LinearHeads
    own: tuple[LinearHeads, ...]
    sharpness: float
    num_colours: int = 0

    @property
    def dims(self) -> tuple[int, ...]:
        """Per member the width of its block."""
        return tuple(len(member.weight_DV) - self.num_colours for member in self.own)

    def member(self, member: int) -> "AttributeHeads":
        """The heads of one member alone."""
        own = self.own[member]
        return replace(self, joint=own, own=(own,))

    def asked(self, text: str) -> list[list[int]]:
        """Per field the columns of the values that a text names, each once, whole words, the longest first.

        Plurals are alike, and so is what is written as one word or as two ("T-shirt", "Tshirts", "flip flop"). Of
        pairs there are none: what is named of each field is said by itself.
        """
        spoken = words(text)
        return [
            [] if field == PAIR else _named(spoken, phrases)
            for field, phrases in zip(self.fields, self._phrases, strict=True)
        ]

    def scored(self, text: str) -> list[list[int]]:
        """The same of what a score reads: pairs in the place of their parts, where all that are named are known."""
        found = self.asked(text)
        if PAIR not in self.fields:
            return found
        pair, *parts = (self.fields.index(field) for field in (PAIR, *PAIRED))
        named = [[self._phrase_of[column] for column in found[part]] for part in parts]
        columns = [self._phrases[pair].get(one + other) for one, other in product(*named)]
        if columns and None not in columns:
            found[pair] = [column for column in columns if column is not None]
            for part in parts:
                found[part] = []
        return found

    def turned_from(self, text: str) -> list[list[int]]:
        """Per field the columns of the values that words to turn from mean: each as a whole, in any field that has it.
        Who wants no "Casual Shoes" has said nothing against other shoes, or what else is casual.
        """
        named = [self._phrase_of[column] for column in _named(words(text), self._any_phrase)]
        return [
            [] if field == PAIR else [phrases[phrase] for phrase in named if phrase in phrases]
            for field, phrases in zip(self.fields, self._phrases, strict=True)
        ]

    def names(self, text: str, field: str) -> bool:
        """Whether a text names a value of a field."""
        return field in self.fields and bool(self.asked(text)[self.fields.index(field)])

    def num_named(self, text: str) -> int:
        """How many attributes a text names; "Casual Shoes" is one, though "Casual" is a value too."""
        return len(_named(words(text), self._any_phrase))

    def query(self, texts: Sequence[str | None]) -> tuple[Floats, Floats]:
        """`direction_QD` that adds `w_v·x` to a score for the values that each text names, and `[Q, F]`, 1 where
        it names one of a field: of several the mean.
        """
        direction_QD = np.zeros((len(texts), len(self.joint.weight_DV)), np.float32)
        asked_QF = np.zeros((len(texts), len(self.fields)), np.float32)
        for row, text in enumerate(texts):
            for field, columns in enumerate(self.scored(text or "")):
                if columns:
                    direction_QD[row] += self._directions[columns].mean(axis=0)
                    asked_QF[row, field] = 1
        return direction_QD, asked_QF

    def shown(
        self, column_FVs: Sequence[Sequence[int]], embedding_CD: Floats
    ) -> list[tuple[str, tuple[str, ...], Floats]]:
        """Per field with values: the field, those values, and `[C]` how likely a picture shows one.

        Args:
            column_FVs: per field the columns of values, as `asked` and `turned_from` find them.
            embedding_CD: float32 concatenations of the pictures, their colours behind.
        """
        found = []
        for start, field, values, columns in zip(self.starts, self.fields, self.values, column_FVs, strict=True):
            if columns:
                part = slice(start, start + len(values))
                logit_CV = embedding_CD @ self.joint.weight_DV[:, part] + self.joint.intercept_V[part]
                shown_CV = np.exp(logit_CV - fusion.log_sum_exp(logit_CV)[:, None])
                named = [column - start for column in columns]
                found.append((field, tuple(values[column] for column in named), shown_CV[:, named].sum(axis=1)))
        return found

    def avoidance(self, text: str, embedding_CD: Floats) -> Floats:
        """`[C]`, at most 0, in units of the score: `1/τ · log(1 - p)`, p how likely a picture shows what a text means.

        Of several values of a field any counts; fields add up. Words that name no value cost nothing.

        Args:
            embedding_CD: float32 concatenations of the pictures, their colours behind.
        """
        found_C = np.zeros(len(embedding_CD), np.float32)
        for _, _, shown_C in self.shown(self.turned_from(text), embedding_CD):
            found_C += self.doubt(shown_C)
        return found_C

    def doubt(self, shown_C: Floats) -> Floats:
        """`1/τ · log(1 - p)`: at most 0, in units of the score, and never without end, since heads err."""
        return np.asarray(np.log(np.maximum(1 - shown_C, LEAST_DOUBT)) / np.float32(self.sharpness), np.float32)

    def log_probabilities(self, embedding_ND: Floats) -> Floats:
        """`[N, V]`: of each value among those of its field, by pictures' concatenations, their colours behind."""
        logit_NV = embedding_ND @ self.joint.weight_DV + self.joint.intercept_V
        parts = np.split(logit_NV, self.starts[1:], axis=1)
        return np.concatenate([part - fusion.log_sum_exp(part)[:, None] for part in parts], axis=1)

    def normalisers(self, embedding_ND: NDArray[np.floating], colour_NC: NDArray[np.floating]) -> Floats:
        """`[N, F]` in units of the score: per field `1/τ · log Σ_v exp(logit)` of products' concatenations.

        Names behind the pictures are passed over.
        """
        image_DV, colour_CV = np.split(self.joint.weight_DV, [sum(self.dims)])
        found_NF = np.empty((len(embedding_ND), len(self.fields)), np.float32)
        for start in range(0, len(embedding_ND), BLOCK):
            rows = slice(start, start + BLOCK)
            logit_NV = np.asarray(embedding_ND[rows, : len(image_DV)], np.float32) @ image_DV
            logit_NV += np.asarray(colour_NC[rows], np.float32) @ colour_CV + self.joint.intercept_V
            for field, part_NV in enumerate(np.split(logit_NV, self.starts[1:], axis=1)):
                found_NF[start : start + BLOCK, field] = fusion.log_sum_exp(part_NV) / self.sharpness
        return found_NF

    def save(self, path: Path | IO[bytes], offset_NE: Floats) -> None:
        """Write an npz of the heads and the products' normalisers and colours."""
        np.savez(
            path,
            fields=np.array(self.fields),
            counts=np.array([len(values) for values in self.values]),
            values=np.array([value for values in self.values for value in values]),
            joint=self.joint.weight_DV,
            joint_intercept=self.joint.intercept_V,
            weight=np.concatenate([member.weight_DV for member in self.own]),
            intercept=np.stack([member.intercept_V for member in self.own]),
            sharpness=np.float32(self.sharpness),
            dims=np.array(self.dims),
            num_colours=np.array(self.num_colours),
            normaliser=offset_NE,
        )

    @classmethod
    def load(cls, path: Path) -> tuple["AttributeHeads", Floats]:
        """Heads, and what `save` got, of an npz. Raises ReleaseError where it is missing or damaged."""
        names = ("fields", "counts", "values", "weight", "intercept", "sharpness", "dims", "normaliser")
        fields, counts, values, weight, intercept, sharpness, dims, offset = read_arrays(path, *names)
        num_colours = 0  # of releases from before there were any
        if "num_colours" in array_names(path):
            num_colours = int(read_arrays(path, "num_colours")[0])
        parts = np.split(values, np.cumsum(counts)[:-1])
        blocks = zip(np.split(weight, np.cumsum(dims + num_colours)[:-1]), intercept, strict=True)
        own = tuple(LinearHeads(weight_DV, intercept_V) for weight_DV, intercept_V in blocks)
        heads = cls(
            tuple(fields.tolist()),
            tuple(tuple(part.tolist()) for part in parts),
            _joint(path, own),
            own,
            float(sharpness),
            num_colours,
        )
        return heads, offset

    @cached_property
    def _phrases(self) -> list[dict[str, int]]:
        """Per field what a value is known by → its column."""
        return [
            {_known_by(value): column for column, value in enumerate(values, start)}
            for values, start in zip(self.values, self.starts, strict=True)
        ]

    @cached_property
    def _any_phrase(self) -> dict[str, int]:
        """Those of every value of one field."""
        fields = zip(self.fields, self._phrases, strict=True)
        return {phrase: column for field, phrases in fields if field != PAIR for phrase, column in phrases.items()}

    @cached_property
    def _phrase_of(self) -> dict[int, str]:
        return {column: phrase for phrases in self._phrases for phrase, column in phrases.items()}

    @property
    def starts(self) -> list[int]:
        """Per field its first column."""
        return [sum(len(values) for values in self.values[:field]) for field in range(len(self.fields))]

    @cached_property
    def _directions(self) -> Floats:
        """`[V, D]`: what each value adds to a query, in units of the score."""
        return np.ascontiguousarray(self.joint.weight_DV.T / np.float32(self.sharpness), np.float32)


def summed(own: Sequence[LinearHeads], weights: Sequence[float]) -> LinearHeads:
    """What makes the logits of members side by side their own ones, summed by weight."""
    parts = list(zip(weights, own, strict=True))
    weight_DV = np.concatenate([weight * member.weight_DV for weight, member in parts])
    intercept_V = np.sum([weight * member.intercept_V for weight, member in parts], axis=0)
    return LinearHeads(weight_DV.astype(np.float32), intercept_V.astype(np.float32))


def _joint(path: Path, own: Sequence[LinearHeads]) -> LinearHeads:
    """What a file holds for all members; of releases from before there was any, their own summed."""
    if "weights" not in array_names(path):
        return LinearHeads(*read_arrays(path, "joint", "joint_intercept"))
    (weights,) = read_arrays(path, "weights")
    return summed(own, weights.tolist())


def known_values(products: Products, rows: NDArray[np.int64], fields: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Field → its values in these products, each of at least three of them; a field of fewer than two is left out.

    So is a pair where one of its fields is. Values that words cannot tell apart ("Navy Blue", "navy-blue") are one, by
    its commonest spelling.
    """
    found: dict[str, tuple[str, ...]] = {}
    for field in fields:
        spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for value in said_of(products, field)[rows]:
            spellings[_known_by(str(value))][str(value)] += 1
        alike = [counts for said, counts in spellings.items() if said and counts.total() >= FEWEST]
        if len(alike) > 1:
            found[field] = tuple(sorted(min(counts, key=lambda value: (-counts[value], value)) for counts in alike))
    if not found.keys() >= set(PAIRED):
        found.pop(PAIR, None)
    return found


def said_of(products: Products, field: str) -> Strings:
    """What products' rows say of a field, or of both of a pair."""
    if field != PAIR:
        return np.asarray(getattr(products, field))
    parts = zip(*(getattr(products, part) for part in PAIRED), strict=True)
    return np.array([" ".join(pair) if all(pair) else "" for pair in parts], dtype=object)


def known_rows(products: Products, field: str, known: Sequence[str]) -> NDArray[np.int64]:
    """`column_N`: which of a field's known values each product has, in any spelling; -1 for another or none."""
    column_of = {_known_by(value): column for column, value in enumerate(known)}
    return np.array([column_of.get(_known_by(str(value)), -1) for value in said_of(products, field)], np.int64)


def fit_heads(
    products: Products,
    rows: NDArray[np.int64],
    image_ND: "NDArray[np.floating] | csr_matrix",
    values: Mapping[str, tuple[str, ...]],
    *,
    sharpness: float,
    held: NDArray[np.int64] = NOBODY,
    penalties: Mapping[str, float] | None = None,
    tried: Sequence[float] = INVERSE_PENALTIES,
) -> tuple[LinearHeads, dict[str, float]]:
    """Heads by scikit-learn's logistic regression, and per field the inverse penalty that they were fitted with.

    Args:
        rows: to fit on; one that stands twice counts twice. held: others, whose log-loss chooses each field's penalty.
        image_ND: embeddings of the products, of one member or of several; or the words of their names.
        values: as `known_values` found them.
        sharpness: what multiplies embeddings: a penalty then means the same for every member.
        penalties: per field, where they are known. tried: those to choose from, where they are not.
    """
    weights, intercepts, chosen = [], [], {}
    for field, known in values.items():
        column_N = known_rows(products, field, known)
        train, other = rows[column_N[rows] >= 0], held[column_N[held] >= 0]
        scaled = [image_ND[part].astype(np.float32) * np.float32(sharpness) for part in (train, other)]
        candidates = tried if penalties is None else (penalties[field],)
        if len(other) < FEWEST_HELD:
            candidates = candidates[:1]
        column_C, weight_DC, intercept_C, chosen[field] = _fit(
            scaled[0], column_N[train], scaled[1], column_N[other], candidates
        )
        weight_DV, intercept_V = np.zeros((image_ND.shape[1], len(known))), np.full(len(known), ABSENT)
        weight_DV[:, column_C], intercept_V[column_C] = weight_DC, intercept_C  # a value that a sample lacks: unlikely
        weights.append(weight_DV * sharpness)
        intercepts.append(intercept_V)
    heads = LinearHeads(
        np.concatenate(weights, axis=1).astype(np.float32), np.concatenate(intercepts).astype(np.float32)
    )
    return heads, chosen


def _fit(
    image_ND: "Floats | csr_matrix",
    column_N: NDArray[np.int64],
    held_HD: "Floats | csr_matrix",
    column_H: NDArray[np.int64],
    tried: Sequence[float],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], float]:
    """The columns that pictures have, their `weight_DC` and `intercept_C`, and the inverse penalty.

    Penalties are tried from the strongest on, until the held pictures' log-loss grows.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    found = np.unique(column_N)
    if len(found) < 2:  # nothing to tell apart
        return found, np.zeros((image_ND.shape[1], len(found))), np.zeros(len(found)), tried[0]
    seen = np.isin(column_H, found)
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    best, least = (model, tried[0]), math.inf
    for penalty in tried if seen.any() else tried[:1]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=penalty).fit(image_ND, column_N)
        loss = _log_loss(model, held_HD[seen], np.searchsorted(found, column_H[seen]))
        if loss >= least:
            break
        best, least = (copy.deepcopy(model), penalty), loss
    model, penalty = best
    if len(found) == 2:  # one row, of the second against the first
        weight_DC, intercept_C = np.vstack([np.zeros_like(model.coef_[0]), model.coef_[0]]).T, model.intercept_
        return found, weight_DC, np.array([0, intercept_C[0]]), penalty
    return found, model.coef_.T, model.intercept_, penalty


def _log_loss(model: "LogisticRegression", image_HD: "Floats | csr_matrix", place_H: NDArray[np.int64]) -> float:
    """The mean of what pictures' own values lack in log-probability; 0 for no pictures."""
    if not len(place_H):
        return 0.0
    return -float(np.mean(model.predict_log_proba(image_HD)[np.arange(len(place_H)), place_H]))


def _known_by(value: str) -> str:
    """The letters of a value's words: people write "T-shirt" and "Tshirts"."""
    return "".join(words(value))


def _named(spoken: Sequence[str], phrases: Mapping[str, int]) -> list[int]:
    """The columns of phrases in a text, each once, longest first, none over another."""
    found: dict[int, None] = {}
    free = [True] * len(spoken)
    for length in range(min(len(spoken), LONGEST), 0, -1):
        for start in range(len(spoken) - length + 1):
            column = phrases.get("".join(spoken[start : start + length]))
            if column is not None and all(free[start : start + length]):
                found[column] = None
                free[start : start + length] = [False] * length
    return list(found)
