"""A bank of likely queries → how much each product resembles queries at large, to be taken off its score.

Contrastive training compares a picture with the captions of its batch; a search compares pictures with
each other for one text. Some products resemble everything and so crowd the top of every search ("hubs").
What ranks them right is how likely the query is *given* the product, among all that could be asked:
`log p(q | x) = τ·s(q, x) − log Σ_j n_j^½ exp(τ·s(b_j, x))` up to a constant of the query, with the scores s, the
temperature τ that the members were trained with, and a bank of captions b_j of the products they were
trained on. That is query-bank normalisation (Bogolin et al., CVPR 2022, arXiv 2112.12777) as a posterior,
with captions counted by the square root of their number: all alike favours the rare, all counted the common.

The second term is one number per product: it costs a search nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.records import Floats
from enclip.retrieval import fusion
from enclip.retrieval.arrays import read_arrays

BANK = "bank.npz"
BLOCK = 4_096  # products scored against the bank at once
COUNT_POWER = 0.5


@dataclass(frozen=True, eq=False)
class QueryBank:
    """J texts that could be asked for.

    Attributes:
        text_JD: float16 concatenation of the members' embeddings of the texts, D = ΣD_k.
        log_prior_J: float32, added to the scaled scores.
        sharpness: τ, the inverse temperature of the posterior.
    """

    text_JD: NDArray[np.float16]
    log_prior_J: Floats
    sharpness: float

    @classmethod
    def of(cls, text_JDs: Sequence[Floats], count_J: NDArray[np.int64], *, sharpness: float) -> "QueryBank":
        """A bank of the members' embeddings `[J, D_k]` of texts, and of how many products each text is true."""
        prior_J = COUNT_POWER * np.log(np.maximum(count_J, 1))
        return cls(fusion.concatenate(text_JDs).astype(np.float16), prior_J.astype(np.float32), float(sharpness))

    def member(self, start: int, width: int) -> "QueryBank":
        """The bank of one member, whose block of the concatenation begins at `start`."""
        return replace(self, text_JD=self.text_JD[:, start : start + width])

    def bias(
        self,
        embedding_ND: NDArray[np.floating],
        dims: Sequence[int],
        weights: Sequence[float],
        *,
        name_share: float = 0.0,
    ) -> Floats:
        """`[N]` float32 in units of the score: `1/τ · log Σ_j prior_j · exp(τ · s(b_j, x))`.

        Args:
            embedding_ND: what `blocks.joined` made, with names or without.
            dims, weights, name_share: of the searcher whose score it is.
        """
        text_JDs = np.split(np.asarray(self.text_JD, np.float32), np.cumsum(dims)[:-1], axis=1)
        query_JD = fusion.weight_query(text_JDs, weights)
        if embedding_ND.shape[1] > query_JD.shape[1]:
            query_JD = fusion.share_query(query_JD, np.full(len(query_JD), name_share, np.float32))
        query_DJ = query_JD.T * np.float32(self.sharpness)
        bias_N = np.empty(len(embedding_ND), np.float32)
        for start in range(0, len(embedding_ND), BLOCK):
            block_ND = np.asarray(embedding_ND[start : start + BLOCK], np.float32)
            bias_N[start : start + BLOCK] = _log_sum_exp(block_ND @ query_DJ + self.log_prior_J) / self.sharpness
        return bias_N

    def save(self, path: Path, bias_N: Floats) -> None:
        """Write an npz of the bank and the products' bias, which is dear to compute again."""
        np.savez(
            path, text=self.text_JD, log_prior=self.log_prior_J, sharpness=np.float32(self.sharpness), bias=bias_N
        )

    @classmethod
    def load(cls, path: Path) -> tuple["QueryBank", Floats]:
        """Bank and bias of an npz. Raises ReleaseError where it is missing or damaged."""
        text, log_prior, sharpness, bias = read_arrays(path, "text", "log_prior", "sharpness", "bias")
        return cls(text, log_prior, float(sharpness)), bias


def _log_sum_exp(logit_NJ: Floats) -> Floats:
    most_N1 = logit_NJ.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(logit_NJ - most_N1).sum(axis=1)) + most_N1[:, 0], np.float32)
