"""Rankings → figures. Values come per query first, and means second (D6).

With `rel_i` 1 where the product at rank i is relevant, `P@i` the share of relevant products in the
first i, and R the number of relevant products:

- AP@10 = Σ_{i≤10} P@i · rel_i / min(10, R): ours, and the headline. 1 is reachable for every R.
- AP@10 over R: the same sum over R, as trec_eval, pytrec_eval, BEIR and ranx have it; at most 10/R.
- AP@10 over hits: the same sum over the relevant products among the first 10, as torchmetrics has it;
  what was missed costs nothing.

A query that is answered with nothing scores 0; P@10 of a short answer still divides by 10.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclip.errors import EnclipError
from enclip.evaluation.queries import headline_kind
from enclip.records import Query, QueryKind, Ranking

CUTOFF = 10


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One query's values. `ap_at_10_r` and `ap_at_10_hits` are the variants by denominator."""

    query_id: str
    kind: QueryKind
    category: str
    num_relevant: int
    ap_at_10: float
    ap_at_10_r: float
    ap_at_10_hits: float
    p_at_1: float
    p_at_10: float
    r_at_1: float
    r_at_10: float
    rr: float


@dataclass(frozen=True, slots=True)
class Means:
    """Means over queries. `num_relevant` sums the queries' relevant products; `mrr` looks as deep as the rankings."""

    num_queries: int
    num_relevant: int
    map_at_10: float
    map_at_10_r: float
    map_at_10_hits: float
    p_at_1: float
    p_at_10: float
    r_at_1: float
    r_at_10: float
    mrr: float

    def as_dict(self) -> dict[str, float]:
        """The fields by name, for JSON and MLflow."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one search answered, query by query. `headline` is the kind whose mean is the headline."""

    results: tuple[QueryResult, ...]
    headline: QueryKind

    @property
    def map_at_10(self) -> float:
        """mAP@10 over the headline's queries."""
        return self.of_kind(self.headline).map_at_10

    def of_kind(self, kind: QueryKind) -> Means:
        """Means over the queries of one kind."""
        return means(result for result in self.results if result.kind == kind)

    def by_category(self, kind: QueryKind | None = None) -> dict[str, Means]:
        """Means per category over the queries of one kind (the headline's), categories in order."""
        grouped: dict[str, list[QueryResult]] = defaultdict(list)
        for result in self.results:
            if result.kind == (kind or self.headline):
                grouped[result.category].append(result)
        return {category: means(grouped[category]) for category in sorted(grouped)}

    def category_spread(self) -> float:
        """Best minus worst category's mAP@10, over the headline's; 0 with fewer than two categories."""
        values = [category.map_at_10 for category in self.by_category().values()]
        return max(values) - min(values) if values else 0.0

    def summary(self) -> dict[str, Any]:
        """JSON: `map_at_10`, `by_category`, and each kind's means under its name."""
        kinds = {result.kind for result in self.results}
        return {
            "map_at_10": self.map_at_10,
            "headline": str(self.headline),
            "by_category": {category: values.as_dict() for category, values in self.by_category().items()},
            "by_kind": {str(kind): self.of_kind(kind).as_dict() for kind in QueryKind if kind in kinds},
        }


def evaluate(queries: Sequence[Query], rankings: Sequence[Ranking]) -> Evaluation:
    """Values of each query's ranking; query i was answered by ranking i.

    Raises:
        EnclipError: another number of rankings than of queries, or two queries of one id.
    """
    if len(queries) != len(rankings):
        raise EnclipError(f"{len(rankings)} rankings for {len(queries)} queries.")
    if len({query.query_id for query in queries}) < len(queries):
        raise EnclipError("Two queries have the same id.", remedy="Build queries with build_queries.")
    results = tuple(measure(query, ranking.product_ids) for query, ranking in zip(queries, rankings, strict=True))
    return Evaluation(results, headline_kind(queries))


def measure(query: Query, product_ids: Sequence[str]) -> QueryResult:
    """One query's values from the answer's product ids, best first; a repeated id counts once."""
    ranked = list(dict.fromkeys(product_ids))
    hit = [product_id in query.relevant for product_id in ranked]
    num_relevant = len(query.relevant)
    precision_sum = sum(sum(hit[: rank + 1]) / (rank + 1) for rank in range(min(CUTOFF, len(hit))) if hit[rank])
    found = sum(hit[:CUTOFF])
    first = hit.index(True) + 1 if True in hit else math.inf

    def over(denominator: int) -> float:
        return precision_sum / denominator if denominator else 0.0

    return QueryResult(
        query_id=query.query_id,
        kind=query.kind,
        category=query.category,
        num_relevant=num_relevant,
        ap_at_10=over(min(CUTOFF, num_relevant)),
        ap_at_10_r=over(num_relevant),
        ap_at_10_hits=over(found),
        p_at_1=float(sum(hit[:1])),
        p_at_10=found / CUTOFF,
        r_at_1=sum(hit[:1]) / num_relevant if num_relevant else 0.0,
        r_at_10=found / num_relevant if num_relevant else 0.0,
        rr=1 / first,
    )


def means(results: Iterable[QueryResult]) -> Means:
    """Plain means over queries; all 0 over none."""
    rows = tuple(results)

    def mean(name: str) -> float:
        return math.fsum(getattr(row, name) for row in rows) / len(rows) if rows else 0.0

    return Means(
        num_queries=len(rows),
        num_relevant=sum(row.num_relevant for row in rows),
        map_at_10=mean("ap_at_10"),
        map_at_10_r=mean("ap_at_10_r"),
        map_at_10_hits=mean("ap_at_10_hits"),
        p_at_1=mean("p_at_1"),
        p_at_10=mean("p_at_10"),
        r_at_1=mean("r_at_1"),
        r_at_10=mean("r_at_10"),
        mrr=mean("rr"),
    )


def ap_at_10_of_scores(score_QN: NDArray[np.floating], relevant_QN: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`[Q]` AP@10 straight from scores, for the many ensembles that are tried on *select*.

    The same definition; ties, equal to 6 decimals, by column ascending, as retrieval has them.
    """
    # Negated first: a stable ascending sort then leaves ties in the order of columns.
    order_QK = np.argsort(-np.round(score_QN, 6), axis=1, kind="stable")[:, :CUTOFF]
    hit_QK = np.take_along_axis(relevant_QN, order_QK, axis=1)
    precision_QK = np.cumsum(hit_QK, axis=1) / np.arange(1, hit_QK.shape[1] + 1)
    possible_Q = np.minimum(CUTOFF, relevant_QN.sum(axis=1))
    ap_Q: NDArray[np.float64] = (precision_QK * hit_QK).sum(axis=1) / np.maximum(possible_Q, 1)
    return ap_Q


def relevance(queries: Sequence[Query], product_ids: Sequence[str] | NDArray[np.object_]) -> NDArray[np.bool_]:
    """`relevant_QN`: True where product j is relevant to query i."""
    row_of = {product_id: row for row, product_id in enumerate(product_ids)}
    relevant_QN = np.zeros((len(queries), len(row_of)), bool)
    for row, query in enumerate(queries):
        relevant_QN[row, [row_of[product_id] for product_id in query.relevant if product_id in row_of]] = True
    return relevant_QN
