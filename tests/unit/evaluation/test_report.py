"""Tables a reader can trust: numbers of queries beside every figure."""

import pytest

from enclip.evaluation import report
from enclip.evaluation.intervals import Interval
from enclip.evaluation.metrics import Evaluation, evaluate
from enclip.records import Hit, Query, QueryKind, Ranking


def answered(*answers: str) -> Evaluation:
    queries = [
        Query("q1", QueryKind.SPECIFIC, "q1", "Shirts", frozenset("ab")),
        Query("q2", QueryKind.SPECIFIC, "q2", "Bags | Cases", frozenset("c")),
        Query("t1", QueryKind.TYPE, "t1", "Shirts", frozenset("abcde")),
    ]
    rankings = [
        Ranking(tuple(Hit(product_id, 1 - rank / 10, 0) for rank, product_id in enumerate(answer)))
        for answer in answers
    ]
    return evaluate(queries, rankings)


def test_a_table_aligns_numbers_and_rounds_floats():
    table = report.markdown_table(("name", "value", "count"), [("a", 0.12345, 3), ("b", "", 4)])
    assert table == "| name | value | count |\n| --- | ---: | ---: |\n| a | 0.123 | 3 |\n| b |  | 4 |\n"


def test_a_pipe_in_a_name_does_not_end_the_cell():
    assert "| Bags \\| Cases |" in report.categories_table(answered("ab", "c", "a"))


def test_an_empty_table_has_its_header():
    assert report.markdown_table(("a", "b"), []) == "| a | b |\n| --- | --- |\n"


def test_kinds_show_the_variants_side_by_side_with_numbers():
    table = report.kinds_table({"release 3": answered("ab", "xc", "ax"), "BM25": answered("", "", "")})
    assert "over R" in table
    assert "over hits" in table
    assert "| specific | release 3 | 0.750 | 0.750 | 0.750 |" in table
    assert "| type | release 3 | 0.200 | 0.200 | 1.000 |" in table
    assert "| specific | BM25 | 0.000 |" in table
    assert "name" not in table
    assert table.splitlines()[2].endswith("| 2 | 3 |")


def test_categories_stand_beside_the_champion_s():
    table = report.categories_table(answered("ab", "c", "a"), answered("ab", "xc", "a"))
    assert "| Bags \\| Cases | 1.000 | 0.500 | +0.500 | 1 | 1 |" in table
    assert "champion" in table


def test_a_category_that_the_champion_does_not_know_has_an_empty_cell():
    only_shirts = evaluate(
        [Query("q1", QueryKind.SPECIFIC, "q1", "Shirts", frozenset("ab"))], [Ranking((Hit("a", 1.0, 0),))]
    )
    assert "| Bags \\| Cases | 1.000 |  |  | 1 | 1 |" in report.categories_table(answered("ab", "c", "a"), only_shirts)


@pytest.mark.parametrize("mean", [0.02, -0.02])
def test_differences_carry_their_sign(mean):
    table = report.differences_table({"ensemble − best member": Interval(mean, mean - 0.01, mean + 0.01, 0.9, 120)})
    assert f"| {mean:+.3f} | {mean - 0.01:+.3f} | {mean + 0.01:+.3f} | 0.900 | 120 |" in table
