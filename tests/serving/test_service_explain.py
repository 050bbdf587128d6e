"""Why a product is found, asked of a running service."""

import base64

import httpx
import pytest

from enclip.pipeline.open_release import OpenRelease
from tests.serving.service_world import DrawnShop, Service


def asked(shop: DrawnShop, release: OpenRelease) -> dict[str, dict]:
    picture = base64.b64encode(shop.picture_of(str(release.products.product_id[5]))).decode()
    liked = str(release.products.product_id[9])
    return {
        "words": {"text": "navy blue shirt"},
        "picture": {"image": picture},
        "words and picture": {"text": "in red", "image": picture, "weights": {"text": 2, "image": 1}},
        "product and words to avoid": {"like": liked, "text": "red", "without": "blue"},
    }


@pytest.mark.parametrize("what", ["words", "picture", "words and picture", "product and words to avoid"])
def test_the_parts_add_up_to_the_score_that_the_search_gives(
    client: httpx.Client, shop: DrawnShop, release: OpenRelease, what: str
) -> None:
    body = asked(shop, release)[what]
    hits = client.post("/v1/search", json={**body, "k": 30}).json()["results"]
    for hit in (hits[0], hits[-1]):
        found = client.post("/v1/explain", json={**body, "product_id": hit["product_id"]}).json()
        assert found["release"] == 3
        assert found["product"]["product_id"] == hit["product_id"]
        assert found["score"] == pytest.approx(hit["score"], abs=1e-5)
        assert sum(found["parts"].values()) == pytest.approx(hit["score"], abs=1e-4)
        assert found["cluster"] == hit["cluster"]
        given = {"text": "text", "image": "image", "like": "like", "without": "without"}
        assert set(found["cosines"]) == {part for part in given if part in body}


def test_the_best_of_one_member_is_its_first(client: httpx.Client) -> None:
    best = client.post("/v1/search", json={"text": "navy blue shirt", "k": 1}).json()["results"][0]
    found = client.post("/v1/explain", json={"text": "navy blue shirt", "product_id": best["product_id"]}).json()
    (member,) = found["members"]
    assert member["rank"] == 1
    assert member["version"] == 3
    assert member["weight"] == 1.0
    assert member["cosine"] == pytest.approx(found["cosines"]["text"], abs=1e-4)


def test_what_is_not_there_is_not_explained(service: Service, client: httpx.Client, release: OpenRelease) -> None:
    gone = str(release.products.product_id[3])
    assert client.post("/v1/explain", json={"text": "shirt", "product_id": "nobody"}).status_code == 404
    assert client.post("/v1/explain", json={"like": "nobody", "product_id": gone}).status_code == 404
    assert client.post("/v1/explain", json={"product_id": gone}).status_code == 422
    assert client.post("/v1/explain", json={"text": "shirt"}).status_code == 422
    service.world.withdrawn = frozenset({gone})
    try:
        service.wait_until(lambda state: state["num_withdrawn"] == 1)
        assert client.post("/v1/explain", json={"text": "shirt", "product_id": gone}).status_code == 404
    finally:
        service.world.withdrawn = frozenset()
        service.wait_until(lambda state: state["num_withdrawn"] == 0)
