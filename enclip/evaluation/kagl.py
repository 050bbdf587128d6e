"""The KAGL protocol: the figures that public fashion leaderboards report on "Fashion Product Images".

Three tasks, each over all products of a gallery. A query is a value of one column, relevant are all
products that have it:

- text → image: each product's name (`productDisplayName`);
- subCategory → product: "Topwear"; articleType → product: "Shirts". Every category counts, one of a
  single product too.

Definitions are those of the leaderboard's own code (marqo-ai/marqo-FashionCLIP: `eval.py`,
`utils/metrics.py`, `summarize_results.py`), computed by ir_measures. They differ from ours
(`enclip.evaluation.metrics`, `queries`) in this:

- only the first 10 answers are looked at, so MRR is MRR@10; ours looks as deep as the ranking;
- AvgR is the mean of R@1 and R@10, AvgP that of P@1 and P@10; neither is an average over ranks;
- AP@10 divides by R; the variants over min(10, R), which is ours, and over the hits stand beside it;
- a name's relevant products are those spelled exactly like it; ours ignores case and adds those with
  the same picture. Categories need no least number of products, so the best possible P@10 lies below 1;
- ties go by product_id ascending, as everywhere here; the leaderboard leaves them to `torch.topk`.

The leaderboard asks up to 2,000 names drawn at random, this every name: the same figure without the
draw's error. Its category tasks mix the product's name into its embedding, see `NAME_SHARE`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclip.evaluation.metrics import CUTOFF, measure
from enclip.records import Products, Query, QueryKind, Ranking

NUM_PUBLISHED = 44_434  # products that the published figures were measured over
NAME_SHARE = 0.1  # a product of the category tasks is 0.9 · picture + 0.1 · name, at unit norm (configs/KAGL.json)
SOURCE = "https://github.com/marqo-ai/marqo-FashionCLIP/blob/main/LEADERBOARD.md"
RESEMBLING = 0.01  # galleries whose sizes differ by no more are compared without a warning


@dataclass(frozen=True, slots=True)
class Task:
    """One of the three tasks. `headline` is the field of `Figures` that published lines are placed beside."""

    key: str
    title: str
    column: str
    kind: QueryKind
    headline: str


TEXT_TO_IMAGE = Task("text_to_image", "text → image", "name", QueryKind.NAME, "r_at_10")
SUB_CATEGORY = Task("sub_category_to_product", "subCategory → product", "sub_category", QueryKind.TYPE, "p_at_10")
ARTICLE_TYPE = Task("article_type_to_product", "articleType → product", "article_type", QueryKind.TYPE, "p_at_10")
CATEGORY_TASKS = (SUB_CATEGORY, ARTICLE_TYPE)
TASKS = (TEXT_TO_IMAGE, *CATEGORY_TASKS)


@dataclass(frozen=True, slots=True)
class Published:
    """A line of the leaderboard: R@10 of text → image, P@10 of the category tasks."""

    system: str
    text_to_image: float
    sub_category_to_product: float
    article_type_to_product: float


PUBLISHED = (  # SOURCE, section KAGL, of 2024-08-09
    Published("Marqo-FashionSigLIP", 0.489, 0.687, 0.629),
    Published("FashionCLIP 2.0", 0.404, 0.571, 0.577),
    Published("OpenFashionCLIP", 0.325, 0.491, 0.489),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over a task's queries; `num_relevant` sums their relevant products."""

    num_queries: int
    num_relevant: int
    avg_recall: float
    r_at_1: float
    r_at_10: float
    avg_precision: float
    p_at_1: float
    p_at_10: float
    mrr_at_10: float
    map_at_10_r: float
    map_at_10: float
    map_at_10_hits: float

    def as_dict(self) -> dict[str, float]:
        """The fields by name, for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


VALUES = ("r_at_1", "r_at_10", "p_at_1", "p_at_10", "mrr_at_10", "map_at_10_r", "map_at_10", "map_at_10_hits")


def task_queries(gallery: Products, task: Task) -> tuple[Query, ...]:
    """The task's queries by text; none where the gallery's column is empty."""
    relevant: dict[str, list[str]] = defaultdict(list)
    for product_id, text in zip(gallery.product_id, getattr(gallery, task.column), strict=True):
        if text:
            relevant[str(text)].append(str(product_id))
    return tuple(
        Query(f"{task.key}:{number}", task.kind, text, "", frozenset(relevant[text]))
        for number, text in enumerate(sorted(relevant))
    )


def values(queries: Sequence[Query], rankings: Sequence[Ranking]) -> NDArray[np.float64]:
    """`value_QV`, columns as in `VALUES`, of the first 10 answers; query i was answered by ranking i.

    All from ir_measures but AP@10 over min(10, R) and over the hits, which it does not have.
    """
    import ir_measures  # trec_eval behind it; the command line must not wait for it

    # Scores that strictly fall, since tools break ties in their own ways; the order is ours.
    run = [
        ir_measures.ScoredDoc(query.query_id, product_id, float(-rank))
        for query, ranking in zip(queries, rankings, strict=True)
        for rank, product_id in enumerate(ranking.product_ids[:CUTOFF])
    ]
    qrels = [ir_measures.Qrel(query.query_id, product_id, 1) for query in queries for product_id in query.relevant]
    wanted = {ir_measures.parse_measure(name): column for column, name in enumerate(_MEASURES)}
    row_of = {query.query_id: row for row, query in enumerate(queries)}
    value_QV = np.zeros((len(queries), len(VALUES)))
    for metric in ir_measures.iter_calc(list(wanted), qrels, run):
        value_QV[row_of[metric.query_id], wanted[metric.measure]] = metric.value
    for row, (query, ranking) in enumerate(zip(queries, rankings, strict=True)):
        result = measure(query, ranking.product_ids[:CUTOFF])
        value_QV[row, len(_MEASURES) :] = result.ap_at_10, result.ap_at_10_hits
    return value_QV


_MEASURES = ("R@1", "R@10", "P@1", "P@10", "RR@10", "AP@10")  # the first of VALUES, as ir_measures names them


def figures(queries: Sequence[Query], value_QV: NDArray[np.float64]) -> Figures:
    """Means of `values` over the queries; all 0 over none."""
    count = len(queries)
    mean = {name: math.fsum(value_QV[:, column]) / count if count else 0.0 for column, name in enumerate(VALUES)}
    return Figures(
        num_queries=count,
        num_relevant=sum(len(query.relevant) for query in queries),
        avg_recall=(mean["r_at_1"] + mean["r_at_10"]) / 2,
        avg_precision=(mean["p_at_1"] + mean["p_at_10"]) / 2,
        **mean,
    )


def cautions(num_products: int, *, num_seen: int, whole: bool) -> Iterable[str]:
    """In plain words, why the figures may not be placed beside the published ones.

    Args:
        num_seen: products of the gallery that the release has learnt from.
        whole: the gallery is a catalog given by path, not a gate split.
    """
    if abs(num_products - NUM_PUBLISHED) > RESEMBLING * NUM_PUBLISHED:
        task = "an easier" if num_products < NUM_PUBLISHED else "a harder"
        remedy = "" if whole else " Measure the whole data set with --catalog PATH."
        yield (
            f"{num_products:,} products are searched here, {NUM_PUBLISHED:,} in the published figures: "
            f"{task} task, not to be compared with them.{remedy}"
        )
    if num_seen:
        yield (
            f"The release has learnt from {num_seen:,} of these products, by picture or by product line; "
            "the published models had seen none of them."
        )
