"""What people judge, stored on SQLite and on Postgres; and the qrels that become of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from enclip.database import open_database
from enclip.judgements import (
    Counts,
    JudgedQuery,
    Opinion,
    Preference,
    Said,
    Standing,
    count_results,
    judge,
    judged_results,
    prefer,
    said_of,
    standings,
    take_back_preference,
    take_back_result,
)

SHIRT = JudgedQuery(text="navy blue shirt")


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    postgres = request.param == "postgres"
    opened = open_database(request.getfixturevalue("postgres_url") if postgres else f"sqlite:///{tmp_path}/catalog.db")
    yield opened
    opened.dispose()


def test_nothing_is_judged_at_first(engine: Engine) -> None:
    assert standings(engine) == []
    assert judged_results(engine) == []
    assert count_results(engine) == Counts(num_queries=0, num_good=0, num_bad=0, num_like=0)


def test_releases_stand_by_what_judges_preferred_whichever_was_on_the_left(engine: Engine) -> None:
    prefer(engine, SHIRT, between=(3, 4), winner=4)
    prefer(engine, JudgedQuery(text="bag"), between=(4, 3), winner=4)
    prefer(engine, JudgedQuery(like="15"), between=(3, 4), winner=3)
    prefer(engine, JudgedQuery(text="watch"), between=(3, 4), winner=None)
    prefer(engine, SHIRT, between=(2, 3), winner=2)
    assert standings(engine) == [
        Standing(release=4, against=3, wins=2, ties=1, losses=1),
        Standing(release=3, against=2, wins=0, ties=0, losses=1),
    ]


def test_a_judge_s_last_word_on_a_matter_counts(engine: Engine) -> None:
    prefer(engine, SHIRT, between=(3, 4), winner=4, by="ann")
    prefer(engine, JudgedQuery(text="Navy  Blue Shirt"), between=(4, 3), winner=3, by="ann")
    prefer(engine, SHIRT, between=(3, 4), winner=None, by="bob")
    assert standings(engine) == [Standing(release=4, against=3, wins=0, ties=1, losses=1)]
    judge(engine, SHIRT, "15", is_good=True, release=3, by="ann")
    judge(engine, SHIRT, "15", is_good=False, release=4, by="ann")
    (found,) = judged_results(engine)
    assert (found.num_good, found.num_bad, found.is_good) == (0, 1, False)
    assert found.last_at.tzinfo is not None


def test_a_result_is_good_where_more_judges_say_so(engine: Engine) -> None:
    for by, text, is_good in (
        ("ann", "navy blue shirt", True),
        ("bob", "Navy blue SHIRT", True),
        ("", "navy blue shirt", False),
    ):
        judge(engine, JudgedQuery(text=text), "15", is_good=is_good, release=3, by=by)
    for by, is_good in (("ann", True), ("bob", False)):
        judge(engine, SHIRT, "16", is_good=is_good, release=3, by=by)
    judge(engine, JudgedQuery(text="bag"), "15", is_good=False, release=3)
    judge(engine, JudgedQuery(like="15"), "16", is_good=True, release=3)
    assert [(found.text, found.product_id, found.num_good, found.num_bad) for found in judged_results(engine)] == [
        ("bag", "15", 0, 1),
        ("navy blue shirt", "15", 2, 1),  # as it was spelled last
        ("navy blue shirt", "16", 1, 1),
    ]
    assert [found.is_good for found in judged_results(engine)] == [False, True, False]  # a draw is not good
    assert count_results(engine) == Counts(num_queries=2, num_good=1, num_bad=2, num_like=1)


def test_words_and_products_of_one_spelling_are_different_queries() -> None:
    assert JudgedQuery(text="15").key != JudgedQuery(like="15").key
    assert JudgedQuery(text=" A  b").key == JudgedQuery(text="a B").key


def test_words_of_any_length_and_script_are_kept(engine: Engine) -> None:
    words = "ß衬衫👕 " * 199 + "%_'\""
    judge(engine, JudgedQuery(text=words), "a b", is_good=True, release=1)
    assert judged_results(engine)[0].text == words


def test_what_one_judge_said_of_a_query_can_be_read_and_taken_back(engine: Engine) -> None:
    prefer(engine, SHIRT, between=(4, 3), winner=4, by="ann")
    prefer(engine, SHIRT, between=(4, 2), winner=None, by="ann")
    judge(engine, SHIRT, "15", is_good=False, release=4, by="ann")
    judge(engine, SHIRT, "16", is_good=True, release=4, by="bob")
    assert said_of(engine, SHIRT, by="ann") == Said(
        preferences=(Preference(2, 4, None), Preference(3, 4, 4)), results=(Opinion("15", 4, False),)
    )
    take_back_preference(engine, SHIRT, between=(3, 4), by="ann")
    take_back_result(engine, SHIRT, "15", by="ann")
    take_back_result(engine, SHIRT, "16", by="ann")  # it was bob who said it
    assert said_of(engine, SHIRT, by="ann") == Said(preferences=(Preference(2, 4, None),), results=())
    assert said_of(engine, SHIRT, by="bob").results == (Opinion("16", 4, True),)
