"""A query's exact scores of some products: everything that makes a score, and no index."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclip.records import Floats, Products
from enclip.retrieval import fusion
from enclip.retrieval.bank import QueryBank
from enclip.retrieval.clusters import Clusters, cluster_means, firm
from enclip.retrieval.half import single
from enclip.retrieval.heads import AttributeHeads
from enclip.retrieval.mix import Mix
from enclip.retrieval.text import NameIndex, Texts, word_shares
from enclip.retrieval.wording import Wording

AVOIDANCE = np.float32(2.0)  # of the heads' log-doubt in a score: docs/reports/refining.md
STRONGEST = 40.0  # nats that a whole feedback gives a product like its clusters: docs/decisions/0013
FIRST, FIRST_SHARE = 40, 0.04  # results that feed back: at most so many, and of those that may be found


@dataclass(frozen=True, slots=True)
class Asked:
    """Q queries as all steps of a search need them.

    Attributes:
        query_QD, offset_QE: what is multiplied with embeddings and with offsets.
        pull_Q: of products toward their clusters. feedback_Q: of the clusters of its first results.
        share_Q: of words in a query.
        texts: per query its words. avoided: words to turn from, "" where the heads know none of them.
    """

    query_QD: Floats
    offset_QE: Floats
    pull_Q: Floats
    feedback_Q: Floats
    share_Q: Floats
    texts: Texts | None
    avoided: Sequence[str]


class Scorer:
    """The scores of N products by an ensemble.

    A product's own score is that of its half-precision embeddings; then it is pulled toward the mean score of its
    cluster: `(1 - pull) · own + pull · mean of cluster`, so a product whose picture is poor is helped by those that
    look like it. The mean is over the whole cluster, whatever a search allows; a small or loose cluster pushes none
    of its products down.

    A broad query turns toward the clusters that its first results lie in (`toward`), as far as the mix's feedback says.

    Where products' names are searched too, the concatenation holds a second block for each member: the
    text tower's embedding of the name. `(1 - share)·image + share·name` is one inner product again, with
    the share on the query's side: a query without words leaves the names out. BM25's score is blended with the
    vectors', each by bounds of its own, cosine's and the query's, instead of those of the candidates (Bruch et al.,
    arXiv 2210.11934, 4.1): a product's score does not depend on which others were found or filtered out. What names
    say of attributes is added (`SaidByNames`).

    What words do beyond that, by a bank of likely queries and by attribute heads, is `Wording`; a query that is a
    picture leaves it out. Words to turn from take off twice the doubt of heads, and of what reads names
    (`Wording.avoidance`).

    Attributes:
        products: the N products, by product_id ascending.
        embedding_ND: float16 concatenation of the members' image embeddings, D = ΣD_k; with names those of
            the names behind it, D = 2ΣD_k.
        dims, weights: per member the width of its block and its share of the score.
        clusters, names, wording: see their modules; names may be None.
        mix: the weights of what enters the score beside cosines. Clusters of a pull of 0 still name each hit's.
        cluster_mean_CD: the clusters' mean embeddings.
    """

    def __init__(
        self,
        products: Products,
        embedding_ND: NDArray[np.float16],
        *,
        dims: Sequence[int],
        weights: Sequence[float],
        clusters: Clusters,
        mix: Mix,
        cluster_mean_CD: Floats | None,
        names: NameIndex | None,
        wording: Wording | None,
    ) -> None:
        self.products = products
        self.embedding_ND = embedding_ND
        self.dims = tuple(int(dim) for dim in dims)
        self.weights = tuple(float(weight) for weight in weights)
        self.clusters = clusters
        self.mix = mix
        self.names = names
        self.wording = wording or Wording.over(embedding_ND, mix, bank=None, heads=None)
        # Computed where a searcher is built, kept in its files: opening one must not read all embeddings.
        self.cluster_mean_CD = cluster_means(embedding_ND, clusters) if cluster_mean_CD is None else cluster_mean_CD

    def gather(self) -> None:
        """Compute what follows from the parts, once they are known to fit each other."""
        self._mean_offset_CE = cluster_means(self.wording.offset_NE, self.clusters)
        self._firm_C = firm(self.clusters, self.cluster_mean_CD[:, : sum(self.dims)])

    def asked(
        self,
        query_QDs: Sequence[Floats],
        texts: Texts | None = None,
        text_shares: Sequence[float] | None = None,
        without: Texts | None = None,
    ) -> Asked:
        """Queries as `Searcher.search` describes them, ready to score."""
        share_Q = word_shares(len(query_QDs[0]), texts, text_shares)
        mix = self.mix
        query_QD, offset_QE, breadth_Q = self.wording.query(
            query_QDs, self.weights, mix, share_Q=share_Q, texts=texts, names=self.has_names
        )
        pull_Q = np.asarray(mix.pull * (1 - mix.narrowing * (1 - breadth_Q)), np.float32)
        feedback_Q = np.zeros_like(pull_Q)
        if self.bank is not None:
            feedback_Q = np.asarray(mix.feedback * STRONGEST / self.bank.sharpness * breadth_Q * share_Q, np.float32)
        avoided = [
            words if self.heads is not None and words and any(self.heads.turned_from(words)) else ""
            for words in without or [None] * len(share_Q)
        ]
        return Asked(query_QD, offset_QE, pull_Q, feedback_Q, share_Q, texts, avoided)

    def matches(self, asked: Asked, query: int) -> Floats | None:
        """`[N]` what the words of names add to the scores of one query, BM25 and attributes; None where they have no
        part in them.
        """
        text = asked.texts[query] if asked.texts is not None else None
        if not text:
            return None
        found = []
        if self.names is not None and self.mix.bm25_weight:
            found.append(np.float32(self._bm25(asked, query)) * self.names.coverage(text))
        if self.mix.name_attribute_weight and (said_N := self.wording.said_by_names(text)) is not None:
            found.append(np.float32(self.mix.name_attribute_weight * asked.share_Q[query]) * said_N)
        return np.sum(found, axis=0) if found else None

    def score(
        self,
        asked: Asked,
        query: int,
        row_C: NDArray[np.int64],
        match_N: Floats | None,
        toward_D: Floats | None = None,
    ) -> Floats:
        """`[C]` of some rows for one query.

        Args:
            match_N: as `matches` gives it. toward_D: as `toward` does.
        """
        query_D = asked.query_QD[query] if toward_D is None else asked.query_QD[query] + toward_D
        score_C = self._pulled(query_D, asked.offset_QE[query], row_C, float(asked.pull_Q[query]))
        if match_N is not None:
            score_C = self._blended(asked, query, score_C, match_N[row_C])
        if asked.avoided[query]:
            by_name = self.mix.name_attribute_weight > 0
            score_C = score_C + AVOIDANCE * self.wording.avoidance(
                asked.avoided[query], row_C, self.shown(row_C), names=by_name
            )
        return score_C

    def toward(self, asked: Asked, query: int, row_C: NDArray[np.int64], score_C: Floats, *, allowed: int) -> Floats:
        """`[D]` by which a query turns toward the clusters of its first results, as many as each holds of them.

        Feedback by clusters (Lee et al., SIGIR 2008): what most of the first have in common is what was meant.

        Args:
            row_C, score_C: candidates, and their scores without it.
            allowed: the number of products that may be found.
        """
        num_first = min(FIRST, math.ceil(FIRST_SHARE * allowed))
        first = np.lexsort((row_C, -score_C))[:num_first]
        found, count_C = np.unique(self.clusters.assignment_N[row_C[first]], return_counts=True)
        mean_D = (count_C / count_C.sum()).astype(np.float32) @ self.cluster_mean_CD[found]
        image_D = asked.feedback_Q[query] * np.repeat(np.asarray(self.weights, np.float32), self.dims)
        if not self.has_names:
            return np.asarray(image_D * mean_D, np.float32)
        share_1 = self.mix.name_share * asked.share_Q[query : query + 1]
        return np.asarray(fusion.share_query(image_D[None], share_1)[0] * mean_D, np.float32)

    def shown(self, row_C: NDArray[np.int64]) -> Floats:
        """`[C, D + colours]` float32: what heads read of some rows."""
        image_CD = single(self.embedding_ND[row_C, : sum(self.dims)])
        return np.concatenate([image_CD, self.wording.colours[row_C]], axis=1)

    def weighed(self, mix: Mix) -> "Scorer":
        """The same with other weights; products keep the bias that the true shares of names and exemplars gave them."""
        changed = copy.copy(self)
        changed.mix = mix
        return changed

    def exact_scores(
        self, query_QDs: Sequence[Floats], rows: NDArray[np.int64] | None = None, *, texts: Texts | None = None
    ) -> Floats:
        """`score_QN` over all products or some rows, without clusters: the slow oracle."""
        rows = np.arange(len(self.products)) if rows is None else rows
        asked = self.asked(query_QDs, texts)
        score_QN = asked.query_QD @ np.asarray(self.embedding_ND[rows], np.float32).T
        score_QN -= asked.offset_QE @ self.wording.offset_NE[rows].T
        for query, score_N in enumerate(score_QN):
            match_N = self.matches(asked, query)
            if match_N is not None:
                score_QN[query] = self._blended(asked, query, score_N, match_N[rows])
        return score_QN

    def block(self, member: int) -> NDArray[np.float16]:
        """One member's embeddings of the pictures, `[N, D_k]`."""
        start = sum(self.dims[:member])
        return self.embedding_ND[:, start : start + self.dims[member]]

    def name_block(self, member: int) -> NDArray[np.float16]:
        """One member's embeddings of the names, `[N, D_k]`; needs `has_names`."""
        start = sum(self.dims) + sum(self.dims[:member])
        return self.embedding_ND[:, start : start + self.dims[member]]

    @property
    def bank(self) -> QueryBank | None:
        """The bank of likely queries."""
        return self.wording.bank

    @property
    def heads(self) -> AttributeHeads | None:
        """The attribute heads."""
        return self.wording.heads

    @property
    def has_names(self) -> bool:
        """Whether names are embedded beside the pictures."""
        return bool(self.embedding_ND.shape[1] == 2 * sum(self.dims))

    def _bm25(self, asked: Asked, query: int) -> float:
        return self.mix.bm25_weight * float(asked.share_Q[query])

    def _blended(self, asked: Asked, query: int, score_C: Floats, match_C: Floats) -> Floats:
        return np.asarray((1 - self._bm25(asked, query)) * score_C + match_C, np.float32)

    def _pulled(self, query_D: Floats, offset_E: Floats, row_C: NDArray[np.int64], pull: float) -> Floats:
        # Not `@`: BLAS adds in another order at the edges of a matrix, and so breaks ties between equal
        # pictures by where they lie; einsum treats every row alike.
        score_C = np.einsum("cd,d->c", single(self.embedding_ND[row_C]), query_D)
        score_C = score_C - np.einsum("ce,e->c", self.wording.offset_NE[row_C], offset_E)
        if pull > 0 and len(row_C):
            found, place_C = np.unique(self.clusters.assignment_N[row_C], return_inverse=True)
            mean_C = self.cluster_mean_CD[found] @ query_D - self._mean_offset_CE[found] @ offset_E
            pulled_C = (1 - pull) * score_C + pull * mean_C[place_C]
            score_C = np.where(self._firm_C[found][place_C], pulled_C, np.maximum(score_C, pulled_C))
        return np.asarray(score_C, np.float32)
