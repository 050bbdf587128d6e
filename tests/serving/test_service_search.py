"""What the API answers: searches, filters, pictures, figures."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from enclip.errors import QueryError
from enclip.pipeline.open_release import OpenRelease
from enclip.records import Filters
from enclip.serving.schemas import CatalogAnswer, CatalogChoice
from tests.serving.service_world import DrawnShop, Service


def search(client: httpx.Client, **body: object) -> dict:
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: dict) -> list[str]:
    return [hit["product_id"] for hit in answer["results"]]


def as_base64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def test_words_give_the_release_s_own_ranking(client: httpx.Client, release: OpenRelease) -> None:
    answer = search(client, text="navy blue shirt", k=7)
    expected = release.search(text="navy blue shirt", k=7)
    assert answer["release"] == 3
    assert ids(answer) == list(expected.product_ids)
    assert [hit["score"] for hit in answer["results"]] == pytest.approx([hit.score for hit in expected.hits], abs=1e-5)
    assert [hit["cluster"] for hit in answer["results"]] == [hit.cluster for hit in expected.hits]


def test_hits_carry_the_product_s_own_words(client: httpx.Client, shop: DrawnShop) -> None:
    for hit in search(client, text="bag", k=20)["results"]:
        product = shop.products.row(list(shop.products.product_id).index(hit["product_id"]))
        shown = (hit["name"], hit["category"], hit["article_type"], hit["gender"], hit["colour"])
        assert shown == (
            product.name,
            product.sub_category,
            product.article_type,
            product.gender,
            product.base_colour,
        )


@pytest.mark.parametrize("wrap", [as_base64, lambda image: "data:image/jpeg;base64," + as_base64(image)])
def test_a_product_s_picture_finds_that_product(client: httpx.Client, shop: DrawnShop, wrap) -> None:
    for product_id in shop.products.product_id[:5]:
        assert ids(search(client, image=wrap(shop.picture_of(product_id)), k=3))[0] == product_id


def test_base64_may_be_wrapped_in_lines(client: httpx.Client, shop: DrawnShop) -> None:
    product_id = shop.products.product_id[0]
    wrapped = base64.encodebytes(shop.picture_of(product_id)).decode()
    assert "\n" in wrapped.strip()
    assert ids(search(client, image=wrapped, k=1)) == [product_id]


def test_weights_move_the_answer_between_words_and_picture(client: httpx.Client, shop: DrawnShop) -> None:
    picture = as_base64(shop.picture_of(shop.products.product_id[0]))
    words_only = ids(search(client, text="red watch", k=10))
    picture_only = ids(search(client, image=picture, k=10))
    assert words_only != picture_only

    def both(text: float, image: float) -> list[str]:
        return ids(search(client, text="red watch", image=picture, weights={"text": text, "image": image}, k=10))

    assert both(1, 0) == words_only
    assert both(0, 1) == picture_only
    assert ids(search(client, text="red watch", image=picture, k=10)) == both(1, 1)


def test_filters_by_any_case_and_by_list(client: httpx.Client, release: OpenRelease, shop: DrawnShop) -> None:
    genders = {hit["gender"] for hit in search(client, text="shirt", filters={"gender": "mEN"}, k=50)["results"]}
    assert genders == {"Men"}
    some = [str(value) for value in sorted(set(shop.products.article_type))[:2]]
    answer = search(client, text="shirt", filters={"category": some, "gender": ["Men", "Women"]}, k=50)
    expected = release.search(text="shirt", k=50, filters=Filters(category=tuple(some), gender=("Men", "Women")))
    assert ids(answer) == list(expected.product_ids)
    assert {hit["article_type"] for hit in answer["results"]} <= set(some)


def test_filters_that_nothing_passes_give_an_empty_answer(client: httpx.Client) -> None:
    assert search(client, text="shirt", filters={"colour": "no such colour"})["results"] == []
    assert len(search(client, text="shirt", filters={"colour": None, "gender": []}, k=9)["results"]) == 9


def test_similar_leaves_the_product_itself_out(client: httpx.Client, release: OpenRelease, shop: DrawnShop) -> None:
    product_id = shop.products.product_id[4]
    answer = client.get(f"/v1/similar/{product_id}", params={"k": 6}).json()
    assert answer["product"]["product_id"] == product_id
    assert ids(answer) == list(release.similar(product_id, k=6).product_ids)
    assert product_id not in ids(answer)


def test_similar_takes_filters(client: httpx.Client, shop: DrawnShop) -> None:
    product_id = shop.products.product_id[4]
    answer = client.get(f"/v1/similar/{product_id}", params={"k": 30, "gender": ["women", "unisex"]}).json()
    assert {hit["gender"] for hit in answer["results"]} == {"Women", "Unisex"}


def test_k_bounds_the_answer(client: httpx.Client) -> None:
    assert len(search(client, text="shirt")["results"]) == 20
    assert len(search(client, text="shirt", k=1)["results"]) == 1
    assert len(search(client, text="shirt", k=100)["results"]) == 80  # the whole catalog


def test_pictures_come_as_they_went_in_and_cache(client: httpx.Client, shop: DrawnShop) -> None:
    hit = search(client, text="shirt", k=1)["results"][0]
    answer = client.get(hit["image"])
    assert answer.content == shop.picture_of(hit["product_id"])
    assert answer.headers["content-type"] == "image/jpeg"
    again = client.get(hit["image"], headers={"If-None-Match": f'"x", {answer.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")


def test_a_withdrawn_product_is_nowhere(service: Service, client: httpx.Client, shop: DrawnShop) -> None:
    gone = str(shop.products.product_id[0])
    picture = as_base64(shop.picture_of(gone))
    window = {card["product_id"] for card in client.get("/v1/catalog").json()["window"]}
    service.world.withdrawn = frozenset({gone})
    try:
        service.wait_until(lambda state: state["num_withdrawn"] == 1)
        assert gone not in ids(search(client, image=picture, k=100))
        assert client.get(f"/v1/similar/{gone}").status_code == 404
        assert client.get(f"/v1/products/{gone}/image").status_code == 404
        catalog = client.get("/v1/catalog").json()
        assert catalog["num_products"] == len(shop.products) - 1
        assert gone not in {card["product_id"] for card in catalog["window"]}
        assert window  # the window was not empty to begin with
    finally:
        service.world.withdrawn = frozenset()
    service.wait_until(lambda state: state["num_withdrawn"] == 0)
    assert ids(search(client, image=picture, k=1)) == [gone]


def test_the_catalog_offers_what_filters_and_searches_can_find(client: httpx.Client, shop: DrawnShop) -> None:
    catalog = client.get("/v1/catalog").json()
    assert catalog["release"] == 3
    assert catalog["num_products"] == len(shop.products)
    for field in ("categories", "genders", "colours"):
        counts = [choice["num_products"] for choice in catalog[field]]
        assert sum(counts) == len(shop.products)
        assert counts == sorted(counts, reverse=True)
    first = catalog["categories"][0]
    found = search(client, text="x", filters={"category": first["value"]}, k=100)
    assert len(found["results"]) == first["num_products"]
    assert len(catalog["examples"]) == 6
    assert len({card["category"] for card in catalog["window"]}) == len(catalog["categories"])


def test_filters_offer_what_choosing_them_would_leave(client: httpx.Client) -> None:
    colour = client.get("/v1/catalog").json()["colours"][0]["value"]
    narrowed = client.get("/v1/catalog", params={"colour": colour}).json()
    assert narrowed["colours"] == client.get("/v1/catalog").json()["colours"], "a filter does not narrow its own field"
    for choice in narrowed["categories"][:4]:
        filters = {"category": choice["value"], "colour": colour}
        assert len(search(client, text="x", filters=filters, k=100)["results"]) == choice["num_products"]
    assert sum(choice["num_products"] for choice in narrowed["genders"]) == narrowed["colours"][0]["num_products"]


def test_a_phone_s_upright_flag_is_followed(client: httpx.Client, shop: DrawnShop) -> None:
    product_id = shop.products.product_id[3]
    upright = Image.open(io.BytesIO(shop.picture_of(product_id)))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn right to see it upright"
    upright.rotate(90, expand=True).save(turned, "PNG", exif=exif)
    assert ids(search(client, image=as_base64(turned.getvalue()), k=1)) == [product_id]


def test_searches_at_once_answer_as_one_by_one(client: httpx.Client, service: Service) -> None:
    texts = [f"{colour} {thing}" for colour in ("red", "navy blue", "white") for thing in ("shirt", "bag", "watch")]
    alone = [ids(search(client, text=text, k=10)) for text in texts]

    def at_once(text: str) -> list[str]:
        with service.client() as own:
            return ids(search(own, text=text, k=10))

    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(at_once, texts * 4)) == alone * 4


def test_figures_count_routes_and_name_the_release(client: httpx.Client) -> None:
    def value(line_start: str) -> float:
        lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(line_start)]
        return float(lines[0].split()[-1]) if lines else 0.0

    searches = 'enclip_requests_total{method="POST",route="/v1/search",status="200"}'
    unmatched = 'enclip_requests_total{method="GET",route="unmatched",status="404"}'
    before = value(searches), value(unmatched)
    search(client, text="shirt")
    client.get("/made/up/path")
    client.request("BREW", "/pot")
    assert (value(searches), value(unmatched)) == (before[0] + 1, before[1] + 1)
    assert value("enclip_release ") == 3
    assert value("enclip_follow_problem ") == 0
    assert 0 <= value("enclip_alias_age_seconds") < 5
    assert "/made/up" not in client.get("/metrics").text
    assert "BREW" not in client.get("/metrics").text


def test_every_answer_has_an_id_and_guards_the_browser(client: httpx.Client) -> None:
    for path in ("/", "/health/live", "/v1/catalog", "/static/page.js", "/nowhere"):
        headers = client.get(path).headers
        assert len(headers["x-request-id"]) == 32
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
    assert client.get("/health/live", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    forged = client.get("/health/live", headers={"X-Request-ID": "a b\tc" * 3}).headers["x-request-id"]
    assert len(forged) == 32


def test_near_duplicates_are_folded_only_when_asked(
    client: httpx.Client, release: OpenRelease, shop: DrawnShop
) -> None:
    first = release.products.product_id[0]
    picture = as_base64(shop.picture_of(first))
    plain, spread = (search(client, image=picture, k=10, spread=on) for on in (False, True))
    assert [hit["folded"] for hit in plain["results"]] == [0] * 10
    expected = release.search(image=shop.picture_of(first), k=10, spread=True)
    assert [(hit["product_id"], hit["folded"]) for hit in spread["results"]] == [
        (hit.product_id, hit.folded) for hit in expected.hits
    ]
    assert spread["results"][0]["product_id"] == first and spread["results"][0]["folded"] >= 1
    assert set(ids(plain)) & set(release.products.product_id[4::4]) and len(set(ids(spread))) == 10
    assert not set(ids(spread)) & set(release.products.product_id[4::4])


def test_the_description_has_an_example_with_spread_that_works(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]
    examples = schema["SearchRequest"]["examples"]
    assert any(example.get("spread") for example in examples)
    for example in examples:
        assert len(search(client, **example)["results"]) <= example["k"]
    assert "folded" in schema["SearchHit"]["properties"]


def test_a_product_and_words_are_searched_together(client: httpx.Client, release: OpenRelease) -> None:
    product_id = str(release.products.product_id[11])
    found = search(client, like=product_id, text="red", weights={"like": 2, "text": 1}, k=10)
    expected = release.search(like=product_id, text="red", weights={"like": 2, "text": 1}, k=10)
    assert [hit["product_id"] for hit in found["results"]] == list(expected.product_ids)
    assert product_id not in expected.product_ids
    alone = search(client, like=product_id, k=10)
    similar = client.get(f"/v1/similar/{product_id}", params={"k": 10}).json()
    assert [hit["product_id"] for hit in alone["results"]] == [hit["product_id"] for hit in similar["results"]]


def test_words_to_turn_from_change_the_answer(client: httpx.Client, release: OpenRelease) -> None:
    found = search(client, text="shirt", without="red", k=10)
    assert [hit["product_id"] for hit in found["results"]] == list(
        release.search(text="shirt", without="red", k=10).product_ids
    )
    assert found["results"] != search(client, text="shirt", k=10)["results"]


def test_a_product_that_is_unknown_or_withdrawn_cannot_be_liked(
    service: Service, client: httpx.Client, release: OpenRelease
) -> None:
    product_id = str(release.products.product_id[3])
    assert client.post("/v1/search", json={"like": "no such product"}).status_code == 404
    service.world.withdrawn = frozenset({product_id})
    try:
        service.wait_until(lambda state: state["num_withdrawn"] == 1)
        assert client.post("/v1/search", json={"like": product_id}).status_code == 404
    finally:
        service.world.withdrawn = frozenset()
        service.wait_until(lambda state: state["num_withdrawn"] == 0)


@pytest.mark.parametrize("spread", [False, True])
def test_pages_neither_overlap_nor_leave_anything_out(client: httpx.Client, spread: bool) -> None:
    # 80 products, 50 of them scored again in a first pass: the pages cross that border.
    pages = [search(client, text="shirt", k=9, offset=start, spread=spread)["results"] for start in range(0, 80, 9)]
    paged = [hit["product_id"] for page in pages for hit in page]
    assert len(paged) == len(set(paged)) == 80
    assert search(client, text="shirt", k=9, offset=0, spread=spread)["results"] == pages[0]
    assert search(client, text="shirt", k=9, offset=90, spread=spread)["results"] == []


@pytest.mark.parametrize("body", [{"offset": -1}, {"offset": 901}, {"like": ""}, {"without": "a" * 1001}])
def test_what_is_out_of_range_is_refused(client: httpx.Client, body: dict) -> None:
    assert client.post("/v1/search", json={"text": "shirt", **body}).status_code == 422


def test_counts_find_a_value_however_it_is_spelled() -> None:
    answer = CatalogAnswer(
        release=1,
        num_products=2,
        categories=[],
        genders=[],
        colours=[CatalogChoice(value=value, num_products=1) for value in ("Navy Blue", "navy blue ", "Red")],
        examples=[],
        window=[],
    )
    narrowed = answer.narrowed({"category": {}, "gender": {}, "colour": {"NAVY BLUE": 2}})
    assert [choice.num_products for choice in narrowed.colours] == [2, 2, 0]


def test_the_core_refuses_a_withdrawn_product_to_be_like(release: OpenRelease) -> None:
    product_id = str(release.products.product_id[3])
    with pytest.raises(QueryError, match="is withdrawn"):
        release.search(like=product_id, withdrawn=frozenset({product_id}))
    gone = frozenset({str(release.products.product_id[4])})
    found = release.search(like=product_id, withdrawn=gone, k=80)
    assert len(found.hits) == len(release.products) - 2
    best = found.hits[0].product_id
    explanation, _ = release.explain(best, like=product_id, withdrawn=gone)
    assert explanation.members[0].rank == 1, "the product itself does not count"
