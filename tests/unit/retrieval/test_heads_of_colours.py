"""Heads that read a picture's colours behind its members: here members know kinds, and colours alone know colours."""

from pathlib import Path

import numpy as np
import pytest

from enclip.errors import ReleaseError
from enclip.pipeline.gallery import extended
from enclip.pipeline.heads import ensemble_heads
from enclip.records import Floats, Product, Products, Split
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import Searcher

COLOURS, TYPES, COUNT, NUM_COLOURS = ("Blue", "Green", "Red"), ("Bags", "Shirts"), 600, 5
DIMS, WEIGHTS, TEXT = [16, 24], [0.75, 0.25], "red shirts"


def unit(vectors: Floats) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def products() -> Products:
    chance = np.random.default_rng(0)
    drawn = zip(
        chance.choice(COLOURS, COUNT), chance.choice(TYPES, COUNT), chance.choice(list(Split), COUNT), strict=True
    )
    return Products.from_rows(
        [
            Product(
                f"p{row:05d}",
                "",
                f"{row:064x}",
                base_colour=str(colour),
                article_type=str(kind),
                split=Split(split),
                group_id=str(row),
            )
            for row, (colour, kind, split) in enumerate(drawn)
        ]
    )


@pytest.fixture(scope="module")
def blocks(products: Products) -> list[Floats]:
    kind_N = (products.article_type == "Shirts").astype(int)
    chance = [np.random.default_rng(member) for member in range(2)]
    return [
        unit(np.eye(dim, dtype=np.float32)[kind_N] + 0.3 * drawn.normal(size=(COUNT, dim)))
        for dim, drawn in zip(DIMS, chance, strict=True)
    ]


@pytest.fixture(scope="module")
def colours(products: Products) -> Floats:
    colour_N = np.array([COLOURS.index(colour) for colour in products.base_colour])
    shown = np.eye(NUM_COLOURS)[colour_N] + 0.1 * np.random.default_rng(5).normal(size=(COUNT, NUM_COLOURS))
    return unit(shown)


def built(products: Products, blocks: list[Floats], colour_NC: Floats | None, *, rescored: int = 100) -> Searcher:
    values = {"base_colour": COLOURS, "article_type": TYPES}
    fitted = ensemble_heads(products, blocks, WEIGHTS, [8.0, 8.0], values, colour_NC=colour_NC)
    heads = fitted.judged if fitted else None
    mix = Mix(attribute_weight=1.0)
    return Searcher.build(
        products, blocks, WEIGHTS, cluster_count=4, mix=mix, rescored=rescored, heads=heads, colour_NC=colour_NC
    )


@pytest.fixture(scope="module")
def searcher(products: Products, blocks: list[Floats], colours: Floats) -> Searcher:
    return built(products, blocks, colours)


def asked(searcher: Searcher, *, seed: int = 3) -> list[Floats]:
    return [unit(np.random.default_rng(seed).normal(size=(1, dim)).astype(np.float32)) for dim in searcher.dims]


def precision(searcher: Searcher, products: Products) -> float:
    unseen = np.asarray(products.split == Split.GATE)
    right = (products.base_colour == "Red") & (products.article_type == "Shirts")
    (ranking,) = searcher.search(asked(searcher), k=15, texts=[TEXT], allowed=unseen)
    return float(np.mean([right[int(found[1:])] for found in ranking.product_ids]))


def test_what_members_do_not_tell_apart_colours_do(
    products: Products, blocks: list[Floats], searcher: Searcher
) -> None:
    without = built(products, blocks, None)
    assert precision(without, products) < 0.7 < 0.9 < precision(searcher, products)
    one, other = (precision(each.member(1), products) for each in (without, searcher))
    assert one < other, "as do one member's own heads"


def test_a_score_is_the_log_probability_of_members_and_colours_together(
    searcher: Searcher, blocks: list[Floats], colours: Floats
) -> None:
    heads, queries = searcher.heads, asked(searcher)
    assert heads is not None and heads.num_colours == NUM_COLOURS and heads.dims == tuple(DIMS)
    seen_ND = np.concatenate([*(block.astype(np.float16) for block in blocks), colours], axis=1)
    logit_NV = seen_ND @ heads.joint.weight_DV + heads.joint.intercept_V
    logs = np.log([np.exp(logit_NV[:, part]) for part in ([0, 1, 2], [2], [3, 4], [4])][1::2]).sum(axis=(0, 2))
    logs -= sum(np.log(np.exp(logit_NV[:, part]).sum(axis=1)) for part in ([0, 1, 2], [3, 4]))
    plain_N = searcher.with_mix(attribute_weight=0).exact_scores(queries, texts=[TEXT])[0]
    gained_N = (searcher.exact_scores(queries, texts=[TEXT])[0] - plain_N) * heads.sharpness
    np.testing.assert_allclose(gained_N - logs, (gained_N - logs).mean(), atol=5e-3)  # but for the intercepts


def test_the_index_knows_of_colours_what_scoring_everything_knows(searcher: Searcher) -> None:
    for seed in range(5):
        queries = asked(searcher, seed=seed)
        expected = np.argsort(-searcher.exact_scores(queries, texts=[TEXT])[0])[:10]
        found = searcher.search(queries, k=10, texts=[TEXT])[0].product_ids
        assert len({f"p{row:05d}" for row in expected} & set(found)) >= 9


def test_words_to_turn_from_are_turned_from_by_colour(searcher: Searcher, products: Products) -> None:
    (ranking,) = searcher.search(asked(searcher), k=60, texts=["shirts"], without=["red"])
    assert np.mean([products.base_colour[int(found[1:])] == "Red" for found in ranking.product_ids]) < 0.05


def test_a_picture_s_search_reads_no_colours(products: Products, blocks: list[Floats], colours: Floats) -> None:
    queries = [block[:3] for block in blocks]
    with_colours, without = (built(products, blocks, each, rescored=COUNT) for each in (colours, None))
    found, expected = with_colours.search(queries, k=20), without.search(queries, k=20)
    assert [one.product_ids for one in found] == [one.product_ids for one in expected]


def test_saved_and_opened_it_answers_alike(searcher: Searcher, tmp_path: Path) -> None:
    searcher.save(tmp_path)
    opened = Searcher.load(tmp_path)
    np.testing.assert_array_equal(opened.wording.colours, searcher.wording.colours)
    assert opened.search(asked(searcher), k=20, texts=[TEXT]) == searcher.search(asked(searcher), k=20, texts=[TEXT])


def test_a_refresh_reads_the_newcomers_colours(
    searcher: Searcher, products: Products, blocks: list[Floats], colours: Floats
) -> None:
    again = extended(searcher, products, [block.astype(np.float16) for block in blocks], colour_NC=colours)
    assert again.search(asked(searcher), k=20, texts=[TEXT]) == searcher.search(asked(searcher), k=20, texts=[TEXT])
    turned = np.roll(colours, 1, axis=0)
    other = extended(searcher, products, [block.astype(np.float16) for block in blocks], colour_NC=turned)
    assert precision(other, products) < 0.7


@pytest.mark.parametrize("shape", [(COUNT, 3), (COUNT - 1, NUM_COLOURS), None])
def test_colours_that_heads_do_not_know_are_refused(
    searcher: Searcher, products: Products, blocks: list[Floats], shape: tuple[int, int] | None
) -> None:
    colour_NC = None if shape is None else np.zeros(shape, np.float32)
    with pytest.raises(ReleaseError, match="Heads read 5 colours of 600 pictures"):
        extended(searcher, products, [block.astype(np.float16) for block in blocks], colour_NC=colour_NC)
