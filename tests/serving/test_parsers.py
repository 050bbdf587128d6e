"""What reads requests, held against anything that can be sent: it understands, or says what is wrong."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from starlette.datastructures import Headers

from enclip.errors import ConfigError
from enclip.pipeline.open_release import OpenRelease
from enclip.records import Products
from enclip.retrieval.searcher import Searcher
from enclip.serving.access import ApiKeys, _given_key, needs_key
from enclip.serving.bulk_schemas import BatchRequest, EmbedRequest
from enclip.serving.envelope import _announced_bytes, _request_id
from enclip.serving.explain_schemas import ExplainRequest
from enclip.serving.schemas import MAX_IMAGE_BYTES, ProductCard, SearchFilters, SearchRequest, SearchWeights
from tests.serving.service_world import DrawnShop, Service, World

ODD_IDS = ("a/b", "a/image", "b\x00c", "c d", "d%2Fe", "e?k=3#f", "f+g&h=i", "ünï-👕", "\u202ex", "{id}", "'; --", "~")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(sorted({*SearchRequest.model_fields, *ExplainRequest.model_fields, "searches", "inputs"}))
header_bytes = st.binary(max_size=120)


def headers_of(name: str, value: bytes) -> Headers:
    """As a server hands them on: bytes, whatever they are."""
    return Headers(raw=[(name.lower().encode(), value)])


@settings(max_examples=500, deadline=None)
@given(body=st.dictionaries(names, values, max_size=6))
@pytest.mark.parametrize("schema", [SearchRequest, ExplainRequest, BatchRequest, EmbedRequest])
def test_a_body_is_understood_or_its_fault_is_named(schema: type[SearchRequest], body: dict) -> None:
    try:
        request = schema.model_validate(json.loads(json.dumps(body)))
    except ValidationError as error:
        assert all(entry["msg"] for entry in error.errors())
        return
    if isinstance(request, SearchRequest):
        assert 1 <= request.k <= 100
        assert 0 <= request.offset <= 900
        assert any(request.given_weights().values())
        # What is cleaned once is clean.
        assert SearchRequest(text=request.text, like=request.like or "x").text == request.text
        assert all(char.isprintable() for char in (request.text or "") + (request.without or ""))


@settings(max_examples=300, deadline=None)
@given(weights=st.dictionaries(st.sampled_from(["text", "image", "like", "words"]), st.floats() | st.text(max_size=9)))
@example(weights={"text": float("nan")})
@example(weights={"text": "1e999"})
@example(weights={"text": -0.0})
def test_weights_are_numbers_from_0_to_100(weights: dict) -> None:
    try:
        found = SearchWeights.model_validate(weights)
    except ValidationError:
        return
    assert all(0 <= getattr(found, name) <= 100 for name in ("text", "image", "like"))
    assert "words" not in weights


@settings(max_examples=300, deadline=None)
@given(value=st.text(max_size=120) | st.lists(st.text(max_size=120), max_size=60) | values)
def test_filters_are_short_lists_of_short_words(value: object) -> None:
    try:
        found = SearchFilters.model_validate({"colour": value})
    except ValidationError:
        return
    assert len(found.colour) <= 50
    assert all(1 <= len(word) <= 100 for word in found.colour)
    assert (found.to_filters() is None) == (not found.colour)


@settings(max_examples=300, deadline=None)
@given(
    image=st.binary(min_size=1, max_size=300),
    width=st.integers(1, 90),
    prefix=st.sampled_from(["", "data:;base64,", "data:image/png;base64,", "data:image/svg+xml;charset=utf-8;base64,"]),
)
def test_a_picture_survives_base64_with_line_breaks_and_as_a_data_url(image: bytes, width: int, prefix: str) -> None:
    text = base64.b64encode(image).decode()
    broken = prefix + "\r\n".join(text[start : start + width] for start in range(0, len(text), width))
    assert SearchRequest.model_validate({"image": broken}).image == image


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9+/=\s]{0,200}", fullmatch=True))
def test_what_is_no_base64_is_said_to_be_none(text: str) -> None:
    try:
        image = SearchRequest.model_validate({"image": text}).image
    except ValidationError as error:
        assert re.search("base64|empty|larger", str(error))
        return
    assert image
    assert len(image) <= MAX_IMAGE_BYTES


@settings(max_examples=300, deadline=None)
@given(value=header_bytes)
@example(value=b"a" * 65)
@example(value=b"a\r\nSet-Cookie: b")
@example(value=b"abc\n")
def test_a_request_id_is_one_that_can_be_logged(value: bytes) -> None:
    found = _request_id(headers_of("X-Request-ID", value))
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", found)
    assert "\n" not in found


@settings(max_examples=300, deadline=None)
@given(value=header_bytes | st.integers().map(lambda number: str(number).encode()))
@example(value=b"9" * 5000)
@example(value=b"\xb2")  # a digit to Python, and no number
@example(value=b"-1")
def test_a_length_is_a_number_or_none_at_all(value: bytes) -> None:
    assert _announced_bytes(headers_of("Content-Length", value)) >= 0


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(["Authorization", "X-API-Key"]), value=header_bytes)
@example(name="Authorization", value=b"Bearer")
@example(name="Authorization", value=b"Bearer \xff\x00")
def test_no_header_but_the_key_opens(name: str, value: bytes) -> None:
    keys = ApiKeys(("a-key-of-the-shop-0123456789",))
    assert not keys.opened_by(_given_key(headers_of(name, value)))


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=80))
def test_keys_are_taken_or_refused_without_being_told(text: str) -> None:
    try:
        keys = ApiKeys.parse(SecretStr(text))
    except ConfigError as error:
        assert len(text.strip()) < 8 or text.strip() not in str(error)
        return
    assert bool(keys) == bool(text.strip())


@settings(max_examples=300, deadline=None)
@given(method=st.sampled_from(["GET", "get", "HEAD", "PUT", "DELETE", "BREW"]), rest=st.text(max_size=40))
def test_nothing_under_v1_is_open_but_pictures(method: str, rest: str) -> None:
    is_picture = rest.startswith("products/") and rest.endswith("/image") and len(rest) > len("products//image")
    assert needs_key(method, f"/v1/{rest}") == (not (is_picture and method.upper() in ("GET", "HEAD")))


@settings(max_examples=300, deadline=None)
@given(product_id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_a_cards_picture_names_its_product_whatever_its_id(shop: DrawnShop, product_id: str) -> None:
    path = ProductCard.of(replace(shop.products.row(0), product_id=product_id)).image
    assert path.isascii()
    named = path.removeprefix("/v1/products/").removesuffix("/image")
    assert not set("/?#") & set(named)
    assert unquote(named) == product_id


@pytest.fixture(scope="module")
def odd_service(start_service: Callable[..., Service], release: OpenRelease, shop: DrawnShop) -> Service:
    """A shop whose products have ids that no URL holds as they are."""
    rows = enumerate(sorted(ODD_IDS))
    products = Products.from_rows([replace(shop.products.row(row), product_id=name) for row, name in rows])
    embedding_ND = release.searcher.block(0)[: len(products)]
    odd = replace(
        release,
        version=4,
        searcher=Searcher.build(products, [embedding_ND], [1.0], cluster_count=2),
        near_duplicates=None,
    )
    return start_service(World(alias=4, releases={4: odd}))


@pytest.mark.parametrize("product_id", ODD_IDS)
def test_a_product_is_found_by_its_id_whatever_that_is(odd_service: Service, product_id: str) -> None:
    with odd_service.client() as client:
        found = client.get(f"/v1/similar/{quote(product_id, safe='')}")
        assert (found.status_code, found.json()["product"]["product_id"]) == (200, product_id)
        assert client.get(found.json()["product"]["image"]).status_code == 200
        assert client.post("/v1/search", json={"like": product_id}).status_code == 200
