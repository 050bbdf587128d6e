"""Many searches in one request: each as if asked alone, all from one release, one bad one refuses all."""

import base64
from collections.abc import Callable

import httpx
import pytest

from enclip.pipeline.open_release import OpenRelease
from enclip.serving.bulk_schemas import MAX_SEARCHES
from tests.serving.service_world import NUM_PRODUCTS, DrawnShop, ReleaseMaker, Service, World, check_refused


def batch(client: httpx.Client, *searches: dict) -> dict:
    answer = client.post("/v1/search/batch", json={"searches": searches})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_batch_equals_single_searches(client: httpx.Client, shop: DrawnShop) -> None:
    picture = base64.b64encode(shop.picture_of(shop.products.product_id[3])).decode()
    searches = [
        {"text": "navy blue shirt", "k": 7},
        {"image": picture, "k": 3, "spread": True},
        {"text": "red watch", "image": picture, "weights": {"text": 2, "image": 1}},
        {"text": "shirt", "filters": {"gender": "Men"}, "k": 50},
        {"text": "shirt", "filters": {"colour": "no such colour"}},
    ]
    answer = batch(client, *searches)
    assert answer["release"] == 3
    alone = [client.post("/v1/search", json=search).json() for search in searches]
    assert [one["results"] for one in answer["answers"]] == [one["results"] for one in alone]
    assert {one["release"] for one in answer["answers"]} == {3}
    assert answer["answers"][4]["results"] == []


@pytest.mark.parametrize(
    ("searches", "field", "says"),
    [
        ([], "searches", "at least 1"),
        ([{"text": "x"}] * (MAX_SEARCHES + 1), "searches", str(MAX_SEARCHES)),
        ({"text": "x"}, "searches", "valid list"),
        ([{"text": "x"}, {}], "searches.1", "give text"),
        ([{"text": "x"}, {"text": "x", "k": 0}], "searches.1.k", "greater than"),
        ([{"text": "x"}, {"text": "x"}, {"image": "QUJD"}], "searches.2", "picture cannot be read"),
        ([{"text": "x"}, {"like": "no such product"}], "searches.1", "no such product"),
        ([{"text": "x"}, {"text": "x", "else": 1}], "searches.1.else", "not permitted"),
    ],
)
def test_one_bad_search_refuses_all_and_is_named(client: httpx.Client, searches: object, field: str, says: str) -> None:
    check_refused(client.post("/v1/search/batch", json={"searches": searches}), field, says)


def test_as_many_searches_as_allowed_are_answered(client: httpx.Client) -> None:
    assert len(batch(client, *[{"text": "x", "k": 1}] * MAX_SEARCHES)["answers"]) == MAX_SEARCHES


def test_the_description_has_an_example_that_works(client: httpx.Client) -> None:
    description = client.get("/openapi.json").json()
    assert "/v1/search/batch" in description["paths"]
    for example in description["components"]["schemas"]["BatchRequest"]["examples"]:
        assert len(batch(client, *example["searches"])["answers"]) == len(example["searches"])


def test_without_a_release_a_batch_is_told_to_come_back(start_service: Callable[..., Service]) -> None:
    service = start_service(World(alias=None))
    with service.client() as client:
        service.wait_until(lambda state: state["problem"] != "")
        for path, body in (("search/batch", {"searches": [{"text": "x"}]}), ("embed", {"inputs": [{"text": "x"}]})):
            answer = client.post(f"/v1/{path}", json=body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


def test_no_batch_mixes_releases_while_the_alias_moves(
    make_release: ReleaseMaker, start_service: Callable[..., Service]
) -> None:
    """The alias moves under batches and embeddings; every part of an answer fits the release that it names."""
    half = NUM_PRODUCTS // 2
    halves: dict[int, OpenRelease] = {
        1: make_release(1, seed=1, rows=slice(0, half)),
        2: make_release(2, seed=2, rows=slice(half, None)),
    }
    texts = ["navy blue shirt", "red watch", "bag", "shoes"] * 4
    expected = {
        version: [list(release.search(text=text, k=5).product_ids) for text in texts]
        for version, release in halves.items()
    }
    vectors = {version: release.encode_texts(["bag"])[0][0] for version, release in halves.items()}
    world = World(alias=1, releases=halves)
    service = start_service(world, poll_s=0.01)
    failures: list[object] = []
    seen: list[int] = []

    def ask(client: httpx.Client) -> None:
        try:
            answer = batch(client, *({"text": text, "k": 5} for text in texts))
            found = [[hit["product_id"] for hit in one["results"]] for one in answer["answers"]]
            named = {answer["release"], *(one["release"] for one in answer["answers"])}
            if found != expected[answer["release"]] or len(named) > 1:
                failures.append(answer)
            embedded = client.post("/v1/embed", json={"inputs": [{"text": "bag"}] * 16}).json()
            for embedding in embedded["embeddings"]:
                if embedding != pytest.approx(vectors[embedded["release"]], abs=1e-5):
                    failures.append(embedded["release"])
            seen.append(answer["release"])
        except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
            failures.append(repr(error))

    service.ask_while_it_swaps(ask, clients=4, every_s=0.05)
    assert not failures, failures[:2]
    assert {seen.count(1) > 0, seen.count(2) > 0} == {True}, seen
    assert service.follower.state.num_swaps >= 10
