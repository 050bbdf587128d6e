"""What a query shows before its answers are judged: does any of it tell whether clusters will help?"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from enclip.records import Split
from enclip.retrieval.searcher import Searcher
from enclip.studies.lab import Epoch
from enclip.studies.material import Material, Values

TOP = 10


def query_signals(material: Material, searcher: Searcher, members: Sequence[Epoch]) -> dict[str, Values]:
    """Per gate query, of the ranking without clusters.

    - *breadth*: of how many products the captions that it is like are true.
    - *margin*: the score of the first result above that of the tenth.
    - *agreement*: the share of the first ten that two members have in common, over all pairs; 1 for one member.
    - *concentration*: the share of the first ten that the most frequent cluster holds.
    """
    rows = np.flatnonzero(material.allowed(Split.GATE))
    queries = [material.world.of(Split.GATE, material.embedded(member))[0] for member in members]
    texts = material.world.gate.texts
    top_QK, score_QK = _top(searcher.exact_scores(queries, rows, texts=texts))
    alone = [
        _top(searcher.member(row).exact_scores([own_QD], rows, texts=texts))[0] for row, own_QD in enumerate(queries)
    ]
    cluster_QK = searcher.clusters.assignment_N[rows[top_QK]]
    breadth = np.zeros(len(texts)) if searcher.bank is None else searcher.bank.breadth(searcher.bank.near(queries))
    return {
        "breadth": np.asarray(breadth, np.float64),
        "margin": (score_QK[:, 0] - score_QK[:, -1]).astype(np.float64),
        "agreement": np.array([_overlap([top_QK[query] for top_QK in alone]) for query in range(len(texts))]),
        "concentration": np.array([np.unique(row_K, return_counts=True)[1].max() / len(row_K) for row_K in cluster_QK]),
    }


def rank_correlation(signal: Values, gain: Values) -> float:
    """Spearman's, and 0 where one of them is the same for all queries."""
    if np.ptp(signal) == 0 or np.ptp(gain) == 0:
        return 0.0
    return float(np.corrcoef(pd.Series(signal).rank(), pd.Series(gain).rank())[0, 1])


def _top(score_QN: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    row_QK = np.argsort(-score_QN, axis=1, kind="stable")[:, :TOP]
    return row_QK, np.take_along_axis(score_QN, row_QK, axis=1)


def _overlap(tops: Sequence[NDArray[np.int64]]) -> float:
    shared = [len(np.intersect1d(left, right)) / len(left) for left, right in combinations(tops, 2)]
    return float(np.mean(shared)) if shared else 1.0
