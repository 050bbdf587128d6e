"""Embeddings for other programs: of unit norm by member, the search's own scores again, limits."""

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from enclip.pipeline.open_release import OpenRelease
from enclip.retrieval.searcher import Searcher
from enclip.serving.bulk_schemas import MAX_INPUTS
from enclip.serving.schemas import MAX_IMAGE_BYTES
from tests.serving.service_world import DrawnShop, ReleaseMaker, Service, World, check_refused

WEIGHTS = (0.7, 0.3)


@pytest.fixture(scope="module")
def ensemble(make_release: ReleaseMaker) -> OpenRelease:
    """Release 8: two members of unequal weight."""
    first, second = make_release(8, seed=1), make_release(8, seed=2)
    members = (*first.manifest.members, *second.manifest.members)
    weighted = tuple(
        member.model_copy(update={"weight": weight}) for member, weight in zip(members, WEIGHTS, strict=True)
    )
    blocks = [first.searcher.block(0), second.searcher.block(0)]
    return replace(
        first,
        manifest=first.manifest.model_copy(update={"members": weighted}),
        searcher=Searcher.build(first.products, blocks, WEIGHTS, cluster_count=4, rescored=50),
        encoders=(*first.encoders, *second.encoders),
    )


@pytest.fixture(scope="module")
def ensemble_client(start_service: Callable[..., Service], ensemble: OpenRelease) -> Iterator[httpx.Client]:
    with start_service(World(alias=8, releases={8: ensemble})).client() as opened:
        yield opened


def as_base64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def embed(client: httpx.Client, *inputs: dict) -> dict:
    answer = client.post("/v1/embed", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    return answer.json()


def score(answer: dict, one: int, other: int) -> float:
    """As the description of the answer says, in plain Python."""
    total, start = 0.0, 0
    for dim, weight in zip(answer["dims"], answer["weights"], strict=True):
        a = answer["embeddings"][one][start : start + dim]
        b = answer["embeddings"][other][start : start + dim]
        total += weight * sum(x * y for x, y in zip(a, b, strict=True))
        start += dim
    return total


def test_an_embedding_is_the_members_blocks_of_unit_norm(ensemble_client: httpx.Client, ensemble: OpenRelease) -> None:
    answer = embed(ensemble_client, {"text": "navy blue shirt"}, {"text": "red watch"})
    assert (answer["release"], answer["weights"]) == (8, list(WEIGHTS))
    assert answer["dims"] == [member.dim for member in ensemble.manifest.members]
    starts = np.cumsum([0, *answer["dims"]])
    for row, text in enumerate(("navy blue shirt", "red watch")):
        embedding = np.array(answer["embeddings"][row], np.float32)
        assert len(embedding) == starts[-1]
        for member, encoder in enumerate(ensemble.encoders):
            block = embedding[starts[member] : starts[member + 1]]
            assert np.linalg.norm(block) == pytest.approx(1, abs=1e-6)
            np.testing.assert_allclose(block, encoder.encode_texts([text])[0], atol=1e-6)


@pytest.mark.parametrize("by_picture", [False, True])
def test_embeddings_give_the_search_s_own_scores(
    ensemble_client: httpx.Client, shop: DrawnShop, by_picture: bool
) -> None:
    query = {"image": as_base64(shop.picture_of(shop.products.product_id[7]))} if by_picture else {"text": "navy shirt"}
    found = ensemble_client.post("/v1/search", json={**query, "k": 20}).json()["results"]
    pictures = [{"image": as_base64(shop.picture_of(hit["product_id"]))} for hit in found]
    answer = embed(ensemble_client, query, *pictures)
    scores = [score(answer, 0, place) for place in range(1, len(found) + 1)]
    # The index holds half-precision embeddings; those of the answer are whole.
    assert scores == pytest.approx([hit["score"] for hit in found], abs=2e-3)
    assert np.ptp(scores) > 0.01, "the scores differ, so that agreeing means something"


def test_texts_and_pictures_keep_their_order(ensemble_client: httpx.Client, shop: DrawnShop) -> None:
    pictures = [{"image": as_base64(shop.picture_of(id_))} for id_ in shop.products.product_id[:2]]
    mixed = [{"text": "red watch"}, pictures[0], {"text": "navy shirt"}, pictures[1]]
    together = embed(ensemble_client, *mixed)["embeddings"]
    alone = [embed(ensemble_client, one)["embeddings"][0] for one in mixed]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_words_are_read_as_a_search_reads_them(ensemble_client: httpx.Client) -> None:
    first, second = embed(ensemble_client, {"text": "red watch"}, {"text": "\x00 red watch\n"})["embeddings"]
    assert first == second


@pytest.mark.parametrize(
    ("inputs", "field", "says"),
    [
        ([], "inputs", "at least 1"),
        ([{"text": "x"}] * (MAX_INPUTS + 1), "inputs", str(MAX_INPUTS)),
        ("text", "inputs", "valid list"),
        ([{"text": "x"}, {}], "inputs.1", "give either text or an image"),
        ([{"text": "x"}, {"text": "x", "image": "QUJD"}], "inputs.1", "give either text or an image"),
        ([{"text": "x"}, {"text": " \n"}], "inputs.1.text", "empty"),
        ([{"text": "x" * 1001}], "inputs.0.text", "1000"),
        ([{"text": "x"}, {"image": "no base64!"}], "inputs.1.image", "not base64"),
        ([{"image": as_base64(bytes(MAX_IMAGE_BYTES + 1))}], "inputs.0.image", "larger"),
        ([{"text": "x"}, {"image": as_base64(b"no picture")}], "inputs.1", "picture cannot be decoded"),
        ([{"text": "x", "k": 3}], "inputs.0.k", "not permitted"),
    ],
)
def test_a_bad_input_is_named(client: httpx.Client, inputs: object, field: str, says: str) -> None:
    check_refused(client.post("/v1/embed", json={"inputs": inputs}), field, says)


def test_as_many_inputs_as_allowed_are_embedded(client: httpx.Client) -> None:
    out = io.BytesIO()
    Image.new("RGB", (60, 80), "navy").save(out, "JPEG")
    inputs = [{"text": f"shirt {place}"} for place in range(MAX_INPUTS - 1)] + [{"image": as_base64(out.getvalue())}]
    assert len(embed(client, *inputs)["embeddings"]) == MAX_INPUTS


def test_the_description_has_an_example_that_works(client: httpx.Client) -> None:
    description = client.get("/openapi.json").json()
    assert "/v1/embed" in description["paths"]
    for example in description["components"]["schemas"]["EmbedRequest"]["examples"]:
        assert len(embed(client, *example["inputs"])["embeddings"]) == len(example["inputs"])
