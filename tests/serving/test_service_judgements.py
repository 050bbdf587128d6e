"""Judgements over HTTP: stored, the last word counts, one clear answer to what cannot be judged."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import Engine

from enclip.judgements import JudgedQuery, ResultRow, Standing, judge, judged_results, standings
from enclip.pipeline.open_release import OpenRelease
from enclip.serving.schemas import MAX_PRODUCT_ID
from tests.serving.service_world import (
    DrawnShop,
    ReleaseMaker,
    Service,
    World,
    check_refused,
    forget_judgements,
)

WORDS = {"text": "navy blue shirt"}


@pytest.fixture(scope="module")
def world(release: OpenRelease, make_release: ReleaseMaker) -> World:
    releases = {2: make_release(2, seed=2, rows=slice(0, 40)), 3: release}
    return World(alias=3, releases=releases, other_aliases={"previous": 2})


@pytest.fixture(scope="module")
def service(world: World, judgements_database: Engine, start_service: Callable[..., Service]) -> Service:
    return start_service(world)


@pytest.fixture
def engine(judgements_database: Engine) -> Engine:
    """The service's database, without a judgement."""
    forget_judgements(judgements_database)
    return judgements_database


@pytest.fixture
def client(service: Service, engine: Engine) -> Iterator[httpx.Client]:
    with service.client() as opened:
        yield opened


def test_at_first_it_says_that_there_is_nothing(client: httpx.Client) -> None:
    answer = client.get("/v1/judgements/summary").json()
    assert answer["says"] == "Nothing has been judged yet."
    assert answer["standings"] == []
    assert (answer["num_queries"], answer["num_good"], answer["num_bad"]) == (0, 0, 0)


def test_judgements_are_stored_and_counted(client: httpx.Client, engine: Engine, shop: DrawnShop) -> None:
    first, second = map(str, shop.products.product_id[:2])
    for body in (
        {**WORDS, "left": "champion", "right": "previous", "verdict": "better"},
        {"text": "bag", "left": 2, "right": 3, "verdict": "better"},
        {"like": first, "left": 2, "right": 3, "verdict": "same"},
        {**WORDS, "release": 3, "product_id": first, "verdict": "good"},
        {**WORDS, "release": "previous", "product_id": second, "verdict": "bad", "by": "ann"},
        {"like": first, "release": 3, "product_id": second, "verdict": "good"},
    ):
        answer = client.post("/v1/judgements", json=body)
        assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "text": "",
        "like": first,
        "left": None,
        "right": None,
        "release": 3,
        "product_id": second,
        "verdict": "good",
        "by": "",
    }
    assert standings(engine) == [Standing(release=3, against=2, wins=1, ties=1, losses=1)]
    assert [(found.product_id, found.is_good) for found in judged_results(engine)] == [(first, True), (second, False)]
    answer = client.get("/v1/judgements/summary").json()
    assert answer["says"] == "3 comparisons and 3 results have been judged."
    assert answer["standings"] == [{"release": 3, "against": 2, "wins": 1, "ties": 1, "losses": 1}]
    assert [answer[name] for name in ("num_queries", "num_good", "num_bad", "num_like")] == [1, 1, 1, 1]


def test_the_last_word_of_a_judge_counts(client: httpx.Client, engine: Engine, shop: DrawnShop) -> None:
    product_id = str(shop.products.product_id[0])
    for text, by, verdict in (
        ("navy blue shirt", "ann", "good"),
        ("  Navy blue\n shirt ", " ann ", "bad"),
        ("navy blue shirt", "bob", "good"),
    ):
        body = {"text": text, "release": 3, "product_id": product_id, "verdict": verdict, "by": by}
        assert client.post("/v1/judgements", json=body).json()["by"] == by.strip()
    (found,) = judged_results(engine)
    assert (found.text, found.num_good, found.num_bad) == ("navy blue shirt", 1, 1)


def test_what_was_said_is_told_to_who_said_it_and_can_be_taken_back(
    client: httpx.Client, engine: Engine, shop: DrawnShop
) -> None:
    product_id = str(shop.products.product_id[0])
    pair, result = {"left": 3, "right": 2}, {"release": 3, "product_id": product_id}
    for said in ({**pair, "verdict": "better"}, {**result, "verdict": "good"}):
        client.post("/v1/judgements", json={**WORDS, **said, "by": "ann"}).raise_for_status()

    def said_by(name: str, text: str = "NAVY blue  shirt") -> list[dict]:
        answer = client.get("/v1/judgements", params={"text": text, "by": name})
        return [
            {name: value for name, value in said.items() if name in {*pair, *result, "verdict"} and value is not None}
            for said in answer.json()["judgements"]
        ]

    assert said_by("ann") == [{"left": 2, "right": 3, "verdict": "worse"}, {**result, "verdict": "good"}]
    assert said_by("bob") == said_by("ann", "bag") == []
    for back in (pair, result):
        for _ in range(2):  # again is harmless
            answer = client.post("/v1/judgements", json={**WORDS, **back, "verdict": "none", "by": "ann"})
            assert answer.json()["verdict"] == "none"
    assert said_by("ann") == []
    assert not standings(engine) and not judged_results(engine)
    assert client.get("/v1/judgements", params={"text": "x" * 1001}).status_code == 422


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({}, "verdict", "required"),
        ({**WORDS, "verdict": "fine"}, "verdict", "'better'"),
        ({"left": 2, "right": 3, "verdict": "same"}, "body", "either text or like"),
        ({"text": " \x00 ", "left": 2, "right": 3, "verdict": "same"}, "body", "either text or like"),
        ({**WORDS, "like": "1", "left": 2, "right": 3, "verdict": "same"}, "body", "either text or like"),
        ({**WORDS, "left": 2, "verdict": "same"}, "body", "needs left and right"),
        ({**WORDS, "release": 2, "product_id": "1", "verdict": "same"}, "body", "needs left and right"),
        ({**WORDS, "left": 2, "right": 3, "release": 3, "verdict": "same"}, "body", "nothing else"),
        ({**WORDS, "left": 2, "right": 3, "verdict": "good"}, "body", "needs release and product_id"),
        ({**WORDS, "release": 3, "verdict": "bad"}, "body", "needs release and product_id"),
        ({**WORDS, "verdict": "none"}, "body", "needs left and right"),
        (
            {**WORDS, "left": 2, "right": 3, "product_id": "1", "verdict": "none"},
            "body",
            "needs release and product_id",
        ),
        ({"text": "x" * 1001, "left": 2, "right": 3, "verdict": "same"}, "text", "1000"),
        ({"like": "x" * 201, "left": 2, "right": 3, "verdict": "same"}, "like", "200"),
        ({"like": "a\x00b", "left": 2, "right": 3, "verdict": "same"}, "like", "not the id of a product"),
        ({**WORDS, "release": 3, "product_id": "x" * 201, "verdict": "bad"}, "product_id", "200"),
        ({**WORDS, "release": 3, "product_id": "a\x00b", "verdict": "none"}, "product_id", "not the id of a product"),
        ({**WORDS, "left": 2, "right": 3, "verdict": "same", "by": "x" * 101}, "by", "100"),
        ({**WORDS, "left": 2, "right": 3, "verdict": "same", "stars": 5}, "stars", "not permitted"),
    ],
)
def test_what_cannot_be_judged_is_named(
    client: httpx.Client, engine: Engine, body: dict, field: str, says: str
) -> None:
    check_refused(client.post("/v1/judgements", json=body), field, says)
    assert not standings(engine) and not judged_results(engine)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"left": 2, "right": 9, "verdict": "same"}, 404, "No release is called '9'"),
        ({"left": "previous", "right": 2, "verdict": "same"}, 422, "both release 2"),
        ({"release": 9, "product_id": "1", "verdict": "good"}, 404, "No release is called '9'"),
        ({"release": 3, "product_id": "nobody", "verdict": "good"}, 404, "Release 3 has no product 'nobody'"),
    ],
)
def test_what_is_not_there_cannot_be_judged(
    client: httpx.Client, engine: Engine, body: dict, status: int, says: str
) -> None:
    answer = client.post("/v1/judgements", json={**WORDS, **body})
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]
    assert not standings(engine) and not judged_results(engine)


def test_what_was_said_of_a_product_that_has_gone_can_be_taken_back(
    start_service: Callable[..., Service], engine: Engine
) -> None:
    world = World(alias=None, releases={3: None})  # no release answers, and this one cannot be opened
    judge(engine, JudgedQuery(**WORDS), "gone", is_good=True, release=3)
    with start_service(world).client() as client:
        body = {**WORDS, "release": 3, "product_id": "gone"}
        assert client.post("/v1/judgements", json={**body, "verdict": "good"}).status_code == 503
        assert judged_results(engine)
        answer = client.post("/v1/judgements", json={**body, "verdict": "none"})
        assert (answer.status_code, answer.json()["release"], answer.json()["verdict"]) == (200, 3, "none")
        assert client.post("/v1/judgements", json={**body, "release": 9, "verdict": "none"}).status_code == 404
    assert not judged_results(engine)


def test_a_database_that_hangs_keeps_judgements_waiting_and_nothing_else(client: httpx.Client, engine: Engine) -> None:
    num_judges = 48  # more than there are threads for all routes together
    held = sqlite3.connect(str(engine.url.database), isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(num_judges) as threads:
        body = {**WORDS, "left": 2, "right": 3, "verdict": "same"}
        asked = [
            threads.submit(client.post, "/v1/judgements", json={**body, "by": str(number)})
            for number in range(num_judges)
        ]
        try:
            until = time.monotonic() + 2
            while time.monotonic() < until:
                assert client.get("/metrics", timeout=5).status_code == 200
            assert not any(future.done() for future in asked)
        finally:
            held.rollback()
            held.close()
        assert {future.result().status_code for future in asked} == {200}
    assert [found.ties for found in standings(engine)] == [num_judges]


def test_a_page_of_another_site_cannot_judge(client: httpx.Client, engine: Engine) -> None:
    """What a browser sends across sites without asking is no JSON, and is not read as such."""
    body = '{"text": "bag", "left": 2, "right": 3, "verdict": "same"}'
    answer = client.post("/v1/judgements", content=body, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422
    assert standings(engine) == []


def test_the_description_has_examples_of_both_kinds(client: httpx.Client, world: World, engine: Engine) -> None:
    examples = client.get("/openapi.json").json()["components"]["schemas"]["JudgementRequest"]["examples"]
    found = str(world.releases[3].search(text="shirt", k=1).product_ids[0])
    for example in examples:
        ours = {"left": 2, "right": 3} if "left" in example else {"release": 3, "product_id": found}
        assert client.post("/v1/judgements", json={**example, **ours}).status_code == 200
    assert standings(engine) and judged_results(engine)


def test_what_is_taken_fits_its_column() -> None:
    columns = ResultRow.__table__.columns
    assert min(columns["product_id"].type.length, columns["like_id"].type.length) >= MAX_PRODUCT_ID
