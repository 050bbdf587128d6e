"""Why a product stands where it stands: the parts add up to what the search says, whatever is in the mix."""

from dataclasses import replace

import numpy as np
import pytest

from enclip.errors import QueryError
from enclip.records import Floats
from enclip.retrieval.bank import QueryBank
from enclip.retrieval.explain import explain
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.text import NameIndex
from tests.unit.retrieval.test_heads import DIMS, WEIGHTS, blocks, catalog, heads, log_probability, unit

ALL = Mix(
    pull=0.4,
    narrowing=0.5,
    feedback=0.6,
    name_share=0.3,
    bm25_weight=0.2,
    calibration=0.8,
    exemplar_share=0.3,
    attribute_weight=0.7,
)


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    """Everything that can be in a score."""
    products = catalog(300)
    products = replace(products, name=np.array([f"a {c} thing" for c in products.base_colour], dtype=object))
    pictures = blocks(products)
    captions = [np.random.default_rng(seed).normal(size=(80, dim)) for seed, dim in enumerate(DIMS)]
    bank = QueryBank.of(
        [unit(caption) for caption in captions],
        [picture[:80] for picture in pictures],
        np.arange(1, 81),
        weights=WEIGHTS,
        sharpness=8.0,
    )
    return Searcher.build(
        products,
        pictures,
        WEIGHTS,
        cluster_count=5,
        mix=ALL,
        rescored=300,
        bank=bank,
        heads=heads(products),
        name_block_NDs=[unit(picture + 0.1) for picture in pictures],
        names=NameIndex(products),
    )


@pytest.fixture(scope="module")
def query() -> list[Floats]:
    return [unit(np.random.default_rng(9 + dim).normal(size=(1, dim))) for dim in DIMS]


@pytest.mark.parametrize("without", ["", "blue"])
@pytest.mark.parametrize("text, share", [("shirts", 1.0), ("red shirts", 1.0), ("shirts", 0.4), ("", 0.0)])
def test_the_parts_add_up_to_the_score_of_the_search(
    searcher: Searcher, query: list[Floats], text: str, share: float, without: str
) -> None:
    (ranking,) = searcher.search(query, k=300, texts=[text], text_shares=[share], without=[without])
    for hit in ranking.hits[::23]:
        found = explain(searcher, query, hit.product_id, text=text, text_share=share, without=without)
        assert found.score == pytest.approx(hit.score, abs=2e-6)
        assert sum(found.parts.values()) == pytest.approx(hit.score, abs=1e-5)


def test_a_picture_is_explained_without_what_words_do(searcher: Searcher, query: list[Floats]) -> None:
    parts = explain(searcher, query, "p00007", text_share=0.0).parts
    assert all(abs(parts[name]) < 1e-6 for name in ("names", "exemplars", "attributes", "likely queries", "BM25"))
    assert explain(searcher, query, "p00007", text_share=0.0).attributes == ()


def test_a_broad_query_is_said_to_have_turned(searcher: Searcher, query: list[Floats]) -> None:
    broad, narrow = (explain(searcher, query, "p00007", text=text) for text in ("shirts", "red shirts"))
    assert broad.feedback > 0 and narrow.feedback == 0
    still = explain(searcher.with_mix(feedback=0), query, "p00007", text="shirts")
    assert broad.parts["clusters"] != pytest.approx(still.parts["clusters"], abs=1e-3)


def test_members_say_what_each_thinks_of_it(searcher: Searcher, query: list[Floats]) -> None:
    found = explain(searcher, query, "p00011", text="red")
    for member, view in enumerate(found.members):
        cosine_N = searcher.block(member).astype(np.float32) @ query[member][0]
        assert view.weight == WEIGHTS[member]
        assert view.cosine == pytest.approx(float(cosine_N[11]), abs=1e-5)
        assert view.rank == 1 + int((cosine_N > cosine_N[11]).sum())
    few = np.arange(300) < 20
    assert max(view.rank for view in explain(searcher, query, "p00011", text="red", allowed=few).members) <= 20


def test_what_the_picture_shows_of_what_words_name(searcher: Searcher, query: list[Floats]) -> None:
    made = searcher.heads
    assert made is not None
    red_N = np.exp(log_probability(made, blocks(catalog(300)), 0, 2))
    found = explain(searcher, query, "p00011", text="red shirts", without="bags")
    assert [(named.field, named.values, named.wanted) for named in found.attributes] == [
        ("base_colour", ("Red",), True),
        ("article_type", ("Shirts",), True),
        ("article_type", ("Bags",), False),
    ]
    assert found.attributes[0].probability == pytest.approx(float(red_N[11]), abs=1e-3)
    assert found.attributes[1].probability + found.attributes[2].probability == pytest.approx(1, abs=1e-5)


def test_a_product_that_is_not_there_cannot_be_explained(searcher: Searcher, query: list[Floats]) -> None:
    with pytest.raises(QueryError, match="'nobody' is not in this release"):
        explain(searcher, query, "nobody")
