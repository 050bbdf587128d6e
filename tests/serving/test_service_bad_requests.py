"""Whatever is sent, the answer is a problem that says what to change, and never a 5xx."""

import base64
import http.client
import io
import json
import struct
import zlib

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from enclip.serving.schemas import MAX_BODY_BYTES, MAX_IMAGE_BYTES
from tests.serving.service_world import Service

JSON = {"Content-Type": "application/json"}


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (60, 80), "navy").save(out, "JPEG")
    return out.getvalue()


def bomb() -> bytes:
    """A small PNG that would decode to 30,000 × 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(30_000 * 3_751), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def check_problem(answer: httpx.Response, status: int, *, field: str = "", says: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["detail"]
    assert says in problem["detail"], problem
    if field:
        assert field in {entry["field"] for entry in problem["errors"]}, problem


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({}, "body", "give text, an image or a product to be like"),
        ({"text": "   \n\t "}, "body", "give text, an image or a product to be like"),
        ({"text": "\x00\x01"}, "body", "give text, an image or a product to be like"),
        ({"text": "x" * 1001}, "text", "1000"),
        ({"text": "x" * 100_000}, "text", "1000"),
        ({"text": 7}, "text", "string"),
        ({"text": "x", "k": 0}, "k", "greater than or equal to 1"),
        ({"text": "x", "k": 101}, "k", "less than or equal to 100"),
        ({"text": "x", "k": 10**400}, "k", ""),
        ({"text": "x", "k": "many"}, "k", "integer"),
        ({"text": "x", "K": 3}, "K", "not permitted"),
        ({"text": "x", "weights": {"text": -1}}, "weights.text", "greater than"),
        ({"text": "x", "weights": {"text": 0}}, "body", "every weight is 0"),
        ({"text": "x", "weights": {"words": 1}}, "weights.words", "not permitted"),
        ({"text": "x", "weights": [1, 2]}, "weights", "object"),
        ({"text": "x", "filters": {"price": "1"}}, "filters.price", "not permitted"),
        ({"text": "x", "filters": {"colour": ["x"] * 51}}, "filters.colour", "50"),
        ({"text": "x", "filters": {"colour": "x" * 101}}, "filters.colour.0", "100"),
        ({"text": "x", "filters": {"colour": [[1]]}}, "filters.colour.0", "string"),
        ({"image": ""}, "image", "empty"),
        ({"image": "no base64!"}, "image", "not base64"),
        ({"image": "QUJD\u00e9"}, "image", "not base64"),
        ({"image": ["QUJD"]}, "image", "bytes"),
        ({"image": as_base64(bytes(MAX_IMAGE_BYTES + 1))}, "image", "larger"),
    ],
)
def test_a_bad_field_is_named(client: httpx.Client, body: dict, field: str, says: str) -> None:
    check_problem(client.post("/v1/search", json=body), 422, field=field, says=says)


@pytest.mark.parametrize(
    "image",
    [
        b"GIF89a",
        b"no picture at all",
        b"<html></html>",
        jpeg()[:300],
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bomb(),
    ],
    ids=["cut gif", "text", "html", "cut jpeg", "svg", "bomb"],
)
def test_what_is_no_picture_is_said_to_be_none(client: httpx.Client, image: bytes) -> None:
    check_problem(client.post("/v1/search", json={"image": as_base64(image)}), 422, says="picture")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"text": "\xff\xfe"}',
        b'{"text": NaN}',
        b'{"text": "x", "k": Infinity}',
        b'{"text": "x", "weights": {"text": NaN}}',
        b'{"text": "x", "weights": {"text": 1e999}}',
        b'{"text": "x", "k": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"text": "x", "\\ud800": 1}',
    ],
)
def test_what_is_no_json_object_is_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/search", content=body, headers=JSON)
    assert answer.status_code in (400, 422), answer.text
    check_problem(answer, answer.status_code)


def test_words_that_no_tokenizer_takes_are_cleaned(client: httpx.Client) -> None:
    odd = ["navy\ud800shirt", "‮\u200bshirt\x00", "𝔫𝔞𝔳𝔶 👕" * 50, "ﷺ" * 1000, "<script>alert(1)</script>"]
    for text in odd:
        answer = client.post("/v1/search", content=json.dumps({"text": text}).encode(), headers=JSON)
        assert answer.status_code in (200, 422), answer.text


@pytest.mark.parametrize("text", ["👕🟦", "👨‍👩‍👧", "قميص أزرق", "\u202eshirt", "[/b]", "=cmd|' /C calc'!A0"])
def test_words_in_any_script_are_searched(client: httpx.Client, text: str) -> None:
    answer = client.post("/v1/search", json={"text": text, "k": 3})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["results"]) == 3


def test_a_body_that_is_too_large_is_refused_announced_or_not(client: httpx.Client) -> None:
    body = json.dumps({"image": "A" * MAX_BODY_BYTES}).encode()
    check_problem(client.post("/v1/search", content=body, headers=JSON), 413, says="larger")

    def pieces():
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    check_problem(client.post("/v1/search", content=pieces(), headers=JSON), 413, says="larger")
    assert client.get("/health/live").status_code == 200


def test_a_client_that_sends_before_it_reads_sees_why_it_was_refused(service: Service) -> None:
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=30)
    connection.request("POST", "/v1/search", body=bytes(32 * 1024 * 1024), headers=JSON)
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["status"]) == (413, 413)
    connection.close()


def test_the_largest_picture_allowed_is_read(client: httpx.Client) -> None:
    padded = jpeg() + bytes(MAX_IMAGE_BYTES - len(jpeg()))
    assert client.post("/v1/search", json={"image": as_base64(padded), "k": 1}).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/similar/nobody", 404),
        ("/v1/similar/" + "x" * 201, 422),
        ("/v1/similar/10001?k=0", 422),
        ("/v1/similar/10001?k=ten", 422),
        ("/v1/similar/10001?colour=" + "x" * 101, 422),
        ("/v1/similar/%00", 404),
        ("/v1/similar/%ff", 404),
        ("/v1/similar/a%2Fb", 404),
        ("/v1/products/nobody/image", 404),
        ("/v1/products/..%2F..%2Fetc%2Fpasswd/image", 404),
        ("/static/..%2f..%2fapp.py", 404),
        ("/static/", 404),
        ("/v1/search", 405),
        ("/nowhere", 404),
    ],
)
def test_bad_paths_are_problems(client: httpx.Client, path: str, status: int) -> None:
    check_problem(client.get(path), status)


def test_the_description_names_the_problems_that_are_answered(client: httpx.Client) -> None:
    description = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in description["components"]["schemas"]
    for operations in description["paths"].values():
        for operation in operations.values():
            problems = {status for status in operation["responses"] if status >= "400"}
            assert problems >= ({"400", "413", "422"} if "requestBody" in operation else set())
            for status in problems - {"503"}:
                assert set(operation["responses"][status]["content"]) == {"application/problem+json"}
    search = description["paths"]["/v1/search"]["post"]
    assert set(search["responses"]) == {"200", "400", "404", "413", "422", "429", "503"}
    assert search["responses"]["503"]["headers"]["Retry-After"]["required"]
    (timeout,) = search["parameters"]
    assert timeout["schema"] == {"type": "integer", "minimum": 1, "maximum": 600_000, "title": "X-Request-Timeout-Ms"}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
bodies = st.fixed_dictionaries(
    {},
    optional={name: values | st.text(max_size=40) for name in ("text", "image", "weights", "filters", "k", "else")},
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies)
def test_no_json_whatever_makes_the_service_fail(client: httpx.Client, body: dict) -> None:
    answer = client.post("/v1/search", content=json.dumps(body).encode(), headers=JSON)
    assert answer.status_code in (200, 400, 422), answer.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=12))
def test_no_damaged_picture_makes_the_service_fail(client: httpx.Client, damage: list[tuple[int, int]]) -> None:
    image = bytearray(jpeg())
    for place, value in damage:
        image[place % len(image)] = value
    answer = client.post("/v1/search", json={"image": as_base64(bytes(image)), "k": 1})
    assert answer.status_code in (200, 422), answer.text
