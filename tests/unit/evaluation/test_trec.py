"""Third-party tools recompute our figures from the files."""

from dataclasses import replace
from itertools import pairwise

import ir_measures
import numpy as np
import pytest

from enclip.evaluation.metrics import evaluate
from enclip.evaluation.queries import build_queries
from enclip.evaluation.trec import trec_id, write_trec
from enclip.records import Hit, Query, QueryKind, Ranking
from enclip.retrieval.ranking import rank


def reverse_ranking(gallery) -> Ranking:
    """All products, best first by descending id; the first two tie, and some scores are negative."""
    ids = sorted(gallery.product_id, reverse=True)
    return Ranking(tuple(Hit(product_id, 0.5 - max(1, rank) * 0.2, 0) for rank, product_id in enumerate(ids)))


def test_every_figure_can_be_recomputed(gallery, tmp_path):
    queries = build_queries(gallery)
    rankings = [reverse_ranking(gallery)] * len(queries)
    evaluation = evaluate(queries, rankings)
    write_trec(tmp_path, queries, rankings)
    for suffix, kind in (("", QueryKind.SPECIFIC), (".type", QueryKind.TYPE), (".name", QueryKind.NAME)):
        qrels = list(ir_measures.read_trec_qrels(str(tmp_path / f"qrels{suffix}.trec")))
        run = list(ir_measures.read_trec_run(str(tmp_path / f"run{suffix}.trec")))
        names = ("AP@10", "P@1", "P@10", "R@10", "RR")
        wanted = [ir_measures.parse_measure(name) for name in names]
        theirs = ir_measures.calc_aggregate(wanted, qrels, run)
        ours = evaluation.of_kind(kind)
        mine = (ours.map_at_10_r, ours.p_at_1, ours.p_at_10, ours.r_at_10, ours.mrr)
        assert ours.num_queries == len({qrel.query_id for qrel in qrels}) > 0
        assert mine == pytest.approx([theirs[name] for name in wanted])


@pytest.fixture(scope="module")
def tied() -> tuple[list[Query], list[Ranking]]:
    """Answers in which many products tie, as equal pictures do, under our rule: product_id ascending."""
    chance = np.random.default_rng(0)
    ids = np.array([f"p{number:02d}" for number in range(40)], dtype=object)
    score_QN = chance.integers(0, 5, (30, len(ids))) / 4 - 0.5
    queries = [
        Query(
            f"q{number}", QueryKind.SPECIFIC, "", "A", frozenset(map(str, chance.choice(ids, 1 + number % 14, False)))
        )
        for number in range(len(score_QN))
    ]
    return queries, rank(score_QN, ids, k=40)


def test_with_ties_ir_measures_finds_our_figures_in_the_file_and_others_in_raw_scores(tied, tmp_path):
    """trec_eval takes ties by product_id descending whatever the order, so the file must not hold any."""
    queries, rankings = tied
    write_trec(tmp_path, queries, rankings)
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.trec")))
    run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    raw = [
        ir_measures.ScoredDoc(query.query_id, hit.product_id, hit.score)
        for query, ranking in zip(queries, rankings, strict=True)
        for hit in ranking.hits
    ]
    ours = {result.query_id: result.ap_at_10_r for result in evaluate(queries, rankings).results}
    assert ap_of(qrels, run) == pytest.approx(ours)
    assert ap_of(qrels, raw) != pytest.approx(ours)


def ap_of(qrels, run) -> dict[str, float]:
    return {value.query_id: value.value for value in ir_measures.iter_calc([ir_measures.AP @ 10], qrels, run)}


def test_scores_far_below_zero_are_positive_in_the_file(gallery, tmp_path):
    """Calibration and attributes take several off a cosine."""
    queries = build_queries(gallery)
    low = Ranking(tuple(replace(hit, score=hit.score - 5) for hit in reverse_ranking(gallery).hits))
    write_trec(tmp_path, queries, [low] * len(queries))
    assert all(float(line.split()[4]) > 0 for line in (tmp_path / "run.trec").read_text().splitlines())


def test_scores_in_the_file_are_positive_and_strictly_fall(gallery, tmp_path):
    queries = build_queries(gallery)
    write_trec(tmp_path, queries, [reverse_ranking(gallery)] * len(queries))
    lines = [line.split() for line in (tmp_path / "run.trec").read_text().splitlines()]
    assert all(len(line) == 6 and line[1] == "Q0" for line in lines)
    first = [line for line in lines if line[0] == lines[0][0]]
    scores = [float(line[4]) for line in first]
    assert all(before > after > 0 for before, after in pairwise(scores))
    assert [line[3] for line in first] == [str(rank) for rank in range(1, len(first) + 1)]


def test_the_file_holds_the_first_hundred_and_exactly_the_headline_s_queries(tmp_path):
    queries = [
        Query("type:a", QueryKind.TYPE, "a", "A", frozenset({"p1"})),
        Query("name:b", QueryKind.NAME, "b", "A", frozenset({"p2"})),
    ]
    long = Ranking(tuple(Hit(f"p{number}", 1 - number / 1000, 0) for number in range(150)))
    written = write_trec(tmp_path, queries, [long, long])
    assert {path.name for path in written} == {
        f"{what}{suffix}.trec" for what in ("run", "qrels") for suffix in ("", ".type", ".name")
    }
    assert len((tmp_path / "run.trec").read_text().splitlines()) == 100
    assert (tmp_path / "qrels.trec").read_text() == "type:a 0 p1 1\n"


def test_a_kind_without_queries_has_no_file(tmp_path):
    query = Query("name:b", QueryKind.NAME, "b", "A", frozenset({"p2"}))
    write_trec(tmp_path, [query], [Ranking(())])
    assert {path.name for path in tmp_path.iterdir()} == {"run.trec", "qrels.trec", "run.name.trec", "qrels.name.trec"}
    assert (tmp_path / "run.trec").read_text() == ""


@pytest.mark.parametrize(
    ("text", "word"),
    [("plain-1", "plain-1"), ("a b", "a%20b"), ("a\tb\n", "a%09b%0A"), ("a%20b", "a%2520b"), ("größe", "größe")],
)
def test_ids_become_one_word_and_stay_different(text, word):
    assert trec_id(text) == word
