"""ranx recomputes our figures where definitions agree, ties too. It compiles for a minute: once, for both tests."""

from types import ModuleType

import numpy as np
import pytest

from enclip.evaluation import kagl
from enclip.evaluation.metrics import evaluate
from enclip.evaluation.trec import write_trec
from enclip.records import Query, QueryKind, Ranking
from enclip.retrieval.ranking import rank

# numba has much to say about what it compiles
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
METRICS = ["map@10", "precision@1", "precision@10", "recall@1", "recall@10", "mrr"]


@pytest.fixture(scope="module")
def ranx() -> ModuleType:
    return pytest.importorskip("ranx")


@pytest.fixture(scope="module")
def tied() -> tuple[list[Query], list[Ranking]]:
    """Answers in which many products tie, under our rule: product_id ascending."""
    chance = np.random.default_rng(0)
    ids = np.array([f"p{number:02d}" for number in range(40)], dtype=object)
    score_QN = chance.integers(0, 5, (30, len(ids))) / 4 - 0.5
    relevant = [frozenset(map(str, chance.choice(ids, 1 + number % 14, False))) for number in range(len(score_QN))]
    queries = [Query(f"q{number}", QueryKind.SPECIFIC, "", "A", wanted) for number, wanted in enumerate(relevant)]
    return queries, rank(score_QN, ids, k=10)


def test_our_figures_are_found_in_the_file(ranx, tied, tmp_path):
    """ranx divides AP by R too."""
    queries, rankings = tied
    write_trec(tmp_path, queries, rankings)
    theirs = ranx.evaluate(
        ranx.Qrels.from_file(str(tmp_path / "qrels.trec"), kind="trec"),
        ranx.Run.from_file(str(tmp_path / "run.trec"), kind="trec"),
        METRICS,
    )
    ours = evaluate(queries, rankings).of_kind(QueryKind.SPECIFIC)
    mine = (ours.map_at_10_r, ours.p_at_1, ours.p_at_10, ours.r_at_1, ours.r_at_10, ours.mrr)
    assert mine == pytest.approx(tuple(theirs.values()))


def test_the_leaderboard_s_figures_are_found_in_the_answers(ranx, tied):
    queries, rankings = tied
    found = kagl.figures(queries, kagl.values(queries, rankings))
    theirs = ranx.evaluate(
        ranx.Qrels({query.query_id: dict.fromkeys(query.relevant, 1) for query in queries}),
        ranx.Run(
            {
                query.query_id: {product_id: -float(place) for place, product_id in enumerate(ranking.product_ids)}
                for query, ranking in zip(queries, rankings, strict=True)
            }
        ),
        METRICS,
    )
    ours = (found.map_at_10_r, found.p_at_1, found.p_at_10, found.r_at_1, found.r_at_10, found.mrr_at_10)
    assert ours == pytest.approx(tuple(theirs.values()))
