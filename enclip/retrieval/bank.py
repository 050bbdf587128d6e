"""A bank of likely queries, with products known to be meant by them: what makes a text's scores comparable.

Contrastive training compares a picture with the captions of its batch; a search compares pictures with
each other for one text. The bank, captions of the train products, closes that gap in three ways:

- *calibration*: some products resemble everything and crowd the top of every search ("hubs"). What ranks
  them right is how likely the query is *given* the product, among all that could be asked:
  `log p(q | x) = τ·s(q, x) - log Σ_j n_j^½ exp(τ·s(b_j, x))` up to a constant of the query, with the scores s,
  the temperature τ of training, and n_j the products that caption b_j is true of. That is query-bank
  normalisation (Bogolin et al., CVPR 2022, arXiv 2112.12777) as a posterior; the root of the counts lies
  between favouring the rare and the common. The second term is one number per product, and costs a search nothing.
- *exemplars*: each caption has the mean picture of the train products it is true of. A text is moved toward
  the exemplars of the captions it is like, out of the gap between texts and pictures (in the spirit of
  Tip-Adapter, Zhang et al., arXiv 2111.03930, with classes replaced by captions).
- *breadth*: how many products the captions that a text is like are true of.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from enclip.records import Floats
from enclip.retrieval import fusion
from enclip.retrieval.arrays import read_arrays
from enclip.retrieval.half import single

BANK = "bank.npz"
BLOCK = 4_096  # products scored against the bank at once
AT_ONCE = 256  # queries whose exemplars are in memory: of one they take 1 MB
COUNT_POWER = 0.5
NEAREST = 64  # captions that a query can be like: on the real catalog the rest moved no AP@10 by 0.0001


@dataclass(frozen=True, eq=False)
class Near:
    """Of Q queries `[Q, M]` rows of the captions that each is most like, and a softmax over their cosines."""

    row_QM: NDArray[np.int64]
    like_QM: Floats


@dataclass(frozen=True, eq=False)
class QueryBank:
    """J texts that could be asked for.

    Attributes:
        text_JD: float16 concatenation of the members' embeddings of the texts, D = ΣD_k, each of unit norm.
        exemplar_JD: the same of the pictures that each text is true of.
        count_J: of how many train products each is true.
        sharpness: τ, what multiplies scores before a softmax.
        dims, weights: per member the width of its block and its share of the score.
    """

    text_JD: NDArray[np.float16]
    exemplar_JD: NDArray[np.float16]
    count_J: NDArray[np.int64]
    sharpness: float
    dims: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(
        cls,
        text_JDs: Sequence[Floats],
        exemplar_JDs: Sequence[Floats],
        count_J: NDArray[np.int64],
        *,
        weights: Sequence[float],
        sharpness: float,
    ) -> "QueryBank":
        """A bank of per member `[J, D_k]` of texts and of their pictures' means, of any length but 0."""
        exemplars = [fusion.unit(exemplar_JD) for exemplar_JD in exemplar_JDs]
        return cls(
            text_JD=fusion.concatenate(text_JDs).astype(np.float16),
            exemplar_JD=fusion.concatenate(exemplars).astype(np.float16),
            count_J=np.asarray(count_J, np.int64),
            sharpness=float(sharpness),
            dims=tuple(block.shape[1] for block in text_JDs),
            weights=tuple(float(weight) for weight in weights),
        )

    def member(self, member: int) -> "QueryBank":
        """The bank of one member alone."""
        columns = slice(sum(self.dims[:member]), sum(self.dims[: member + 1]))
        return replace(
            self,
            text_JD=self.text_JD[:, columns],
            exemplar_JD=self.exemplar_JD[:, columns],
            dims=(self.dims[member],),
            weights=(1.0,),
        )

    def near(self, query_QDs: Sequence[Floats]) -> Near:
        """The captions that each query is most like."""
        score_QM, row_QM = self._texts.search(
            fusion.weight_query(query_QDs, self.weights), min(NEAREST, len(self.count_J))
        )
        logit_QM = 2 * self.sharpness * score_QM  # texts are more alike than texts and pictures are
        return Near(row_QM, np.asarray(np.exp(logit_QM - fusion.log_sum_exp(logit_QM)[:, None]), np.float32))

    def enrich(self, query_QDs: Sequence[Floats], share_Q: Floats, near: Near) -> list[Floats]:
        """Per member the queries, moved toward the exemplars of what they are like: unit norm where they had it.

        Args:
            share_Q: per query the exemplars' part, 0 to 1; 0 leaves it as it is.
        """
        known_QD = np.empty((len(near.like_QM), self.exemplar_JD.shape[1]), np.float32)
        for start in range(0, len(known_QD), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            known_QD[part] = np.einsum("qm,qmd->qd", near.like_QM[part], single(self.exemplar_JD[near.row_QM[part]]))
        share_Q1 = np.asarray(share_Q, np.float32)[:, None]
        own_QD = np.concatenate(query_QDs, axis=1)
        moved_QD = fusion.unit_blocks(
            (1 - share_Q1) * own_QD + share_Q1 * fusion.unit_blocks(known_QD, self.dims), self.dims
        )
        return self._blocks(np.where(share_Q1 > 0, moved_QD, own_QD))

    def breadth(self, near: Near) -> Floats:
        """`[Q]`, 0 to 1: the logarithm of how many train products a query speaks of, over the bank's largest."""
        counted_Q = (near.like_QM * self.count_J[near.row_QM]).sum(axis=1)
        return np.asarray(np.log1p(counted_Q) / np.log1p(max(1, int(self.count_J.max()))), np.float32)

    def bias(
        self, embedding_ND: NDArray[np.floating], *, name_share: float = 0.0, exemplar_share: float = 0.0
    ) -> Floats:
        """`[N]` float32 in units of the score: `1/τ · log Σ_j n_j^½ · exp(τ · s(b_j, x))`.

        Args:
            embedding_ND: what `blocks.joined` made, with names or without.
            name_share, exemplar_share: of the searcher whose score it is.
        """
        shares = np.full(len(self.count_J), exemplar_share, np.float32)
        text_JDs, exemplar_JDs = self._blocks(self.text_JD), self._blocks(self.exemplar_JD)
        moved = [
            fusion.unit((1 - exemplar_share) * text_JD + exemplar_share * exemplar_JD) if shares.any() else text_JD
            for text_JD, exemplar_JD in zip(text_JDs, exemplar_JDs, strict=True)
        ]
        query_JD = fusion.weight_query(moved, self.weights)
        if embedding_ND.shape[1] > query_JD.shape[1]:
            query_JD = fusion.share_query(query_JD, np.full(len(query_JD), name_share, np.float32))
        query_DJ = query_JD.T * np.float32(self.sharpness)
        prior_J = (COUNT_POWER * np.log(np.maximum(self.count_J, 1))).astype(np.float32)
        bias_N = np.empty(len(embedding_ND), np.float32)
        for start in range(0, len(embedding_ND), BLOCK):
            block_ND = np.asarray(embedding_ND[start : start + BLOCK], np.float32)
            bias_N[start : start + BLOCK] = fusion.log_sum_exp(block_ND @ query_DJ + prior_J) / self.sharpness
        return bias_N

    def save(self, path: Path, bias_N: Floats) -> None:
        """Write an npz of the bank and the products' bias, which is dear to compute again."""
        np.savez(
            path,
            text=self.text_JD,
            exemplar=self.exemplar_JD,
            count=self.count_J,
            sharpness=np.float32(self.sharpness),
            dims=np.array(self.dims),
            weights=np.array(self.weights),
            bias=bias_N,
        )

    @classmethod
    def load(cls, path: Path) -> tuple["QueryBank", Floats]:
        """Bank and bias of an npz. Raises ReleaseError where it is missing or damaged."""
        text, exemplar, count, sharpness, dims, weights, bias = read_arrays(
            path, "text", "exemplar", "count", "sharpness", "dims", "weights", "bias"
        )
        bank = cls(text, exemplar, count, float(sharpness), tuple(dims.tolist()), tuple(weights.tolist()))
        return bank, bias

    @cached_property
    def _texts(self) -> "faiss.IndexScalarQuantizer":
        """The texts in half precision, as they are: less to read at each query than twice as much."""
        index = faiss.IndexScalarQuantizer(
            self.text_JD.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        index.add(self.text_JD.astype(np.float32))
        return index

    def _blocks(self, embedding_JD: NDArray[np.floating]) -> list[Floats]:
        return np.split(np.asarray(embedding_JD, np.float32), np.cumsum(self.dims)[:-1], axis=1)
