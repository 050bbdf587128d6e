"""Attribute heads: what words name, log-probabilities by hand, and the search against its slow oracle."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enclip.errors import ReleaseError
from enclip.records import Floats, Product, Products
from enclip.retrieval.bank import QueryBank
from enclip.retrieval.heads import HEADS, INVERSE_PENALTIES, PAIR, AttributeHeads, LinearHeads, fit_heads, known_values
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import Searcher

COLOURS, TYPES = ("Blue", "Navy Blue", "Red"), ("Bags", "Shirts")
VALUES = {"base_colour": COLOURS, "article_type": TYPES}
DIMS, WEIGHTS, SHARPNESS = [16, 24], [0.75, 0.25], 8.0


def unit(vectors: np.ndarray) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def catalog(count: int = 600) -> Products:
    chance = np.random.default_rng(0)
    rows = zip(chance.choice(COLOURS, count), chance.choice(TYPES, count), strict=True)
    return Products.from_rows(
        [
            Product(f"p{row:05d}", f"name {row}", f"{row:064x}", base_colour=str(colour), article_type=str(kind))
            for row, (colour, kind) in enumerate(rows)
        ]
    )


def blocks(products: Products) -> list[Floats]:
    """Per member embeddings in which colours and types have directions of their own, under much noise."""
    made = []
    for seed, dim in enumerate(DIMS):
        chance = np.random.default_rng(seed)
        meant = {value: chance.normal(size=dim) for value in (*COLOURS, *TYPES)}
        clean = np.stack([meant[row.base_colour] + meant[row.article_type] for row in products])
        made.append(unit(clean + 0.7 * chance.normal(size=clean.shape)))
    return made


def heads(products: Products) -> AttributeHeads:
    rows, members = np.arange(0, len(products), 2), blocks(products)
    root_D = np.sqrt(np.repeat(WEIGHTS, DIMS)).astype(np.float32)
    joint, _ = fit_heads(products, rows, np.concatenate(members, axis=1) * root_D, VALUES, sharpness=SHARPNESS)
    own = [fit_heads(products, rows, block, VALUES, sharpness=SHARPNESS)[0] for block in members]
    joint = LinearHeads(joint.weight_DV * root_D[:, None], joint.intercept_V)
    return AttributeHeads(tuple(VALUES), tuple(VALUES.values()), joint, tuple(own), SHARPNESS)


def searcher(products: Products, *, rescored: int = 50, **mix: float) -> Searcher:
    return Searcher.build(
        products,
        blocks(products),
        WEIGHTS,
        cluster_count=6,
        mix=Mix(**{"attribute_weight": 0.8, **mix}),
        rescored=rescored,
        heads=heads(products),
    )


def log_probability(made: AttributeHeads, block_NDs: list[Floats], field: int, value: int) -> Floats:
    """By hand: the logits of the members side by side, through a softmax over the field."""
    start = sum(len(values) for values in made.values[:field])
    columns = slice(start, start + len(made.values[field]))
    embedding_ND = np.concatenate(block_NDs, axis=1).astype(np.float16).astype(np.float32)
    logit_NV = embedding_ND @ made.joint.weight_DV[:, columns] + made.joint.intercept_V[columns]
    return np.asarray(logit_NV[:, value] - np.log(np.exp(logit_NV).sum(axis=1)), np.float32)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("navy blue shirt", [[1], [4]]),  # not blue; a plural is alike
        ("BLUE, red bags", [[0, 2], [3]]),
        ("shirting in bluegrass", [[], []]),  # whole words
        ("navy", [[], []]),
        ("", [[], []]),
    ],
)
def test_what_a_text_names(text: str, named: list[list[int]]) -> None:
    made = heads(catalog(60))
    assert made.asked(text) == named
    assert made.num_named(text) == sum(map(len, named))


@pytest.mark.parametrize("text", ["t-shirt", "T shirt", "Tshirts", "tshirt", "a T-shirt, any t-shirts"])
def test_one_word_or_two_is_the_same_value(text: str) -> None:
    made = replace(heads(catalog(60)), values=(COLOURS, ("Shirts", "Tshirts")))
    assert made.asked(text) == [[], [4]], "not Shirts, which the second of two words would be"
    assert made.num_named(text) == 1, "said twice is one attribute, and no more likely for it"


@pytest.mark.parametrize(("text", "column"), [("watch", 3), ("watches", 3), ("Dresses", 4), ("a dress", 4)])
def test_plurals_of_hissing_words_are_alike(text: str, column: int) -> None:
    made = replace(heads(catalog(60)), values=(COLOURS, ("Watches", "Dresses")))
    assert made.asked(text) == [[], [column]]


def test_words_that_several_fields_know_name_one_attribute() -> None:
    made = heads(catalog(60))
    made = replace(made, values=(("Blue", "Navy Bags", "Red"), ("Bags", "Shirts")))
    assert made.num_named("navy bag") == 1 and made.num_named("navy bags, red") == 2


def test_a_query_that_names_two_attributes_is_narrow() -> None:
    built = searcher(catalog(60), pull=0.4, narrowing=0.5)
    queries = [np.zeros((4, dim), np.float32) for dim in DIMS]
    texts = ["red shirts", "shirts", "something else", None]
    np.testing.assert_allclose(built.asked(queries, texts).pull_Q, [0.2, 0.4, 0.4, 0.4])


def test_heads_tell_attributes_of_products_that_they_have_not_seen() -> None:
    products = catalog()
    made, held_out = heads(products), np.arange(1, 600, 2)
    scores_NV = np.stack([log_probability(made, blocks(products), 0, value) for value in range(3)], axis=1)
    found = np.array(COLOURS)[scores_NV.argmax(axis=1)]
    assert (found == products.base_colour)[held_out].mean() > 0.8


def test_a_score_gains_the_log_probability_of_what_its_words_name() -> None:
    products = catalog()
    built, made = searcher(products), heads(products)
    queries = [unit(np.random.default_rng(5).normal(size=(1, dim))) for dim in DIMS]
    plain_N = built.with_mix(attribute_weight=0).exact_scores(queries, texts=["navy blue shirt"])[0]
    found_N = built.exact_scores(queries, texts=["navy blue shirt"])[0]
    logs_N = sum(log_probability(made, blocks(products), field, value) for field, value in ((0, 1), (1, 1)))
    gained_N = (found_N - plain_N) * SHARPNESS / 0.8
    offset = gained_N - logs_N  # a constant of the query: the intercepts
    np.testing.assert_allclose(offset, offset.mean(), atol=5e-3)


def test_search_agrees_with_scoring_everything() -> None:
    products = catalog()
    built = searcher(products, rescored=100, pull=0.0)
    queries = [unit(np.random.default_rng(7).normal(size=(12, dim))) for dim in DIMS]
    texts = [f"{colour} {kind}" for colour in COLOURS for kind in TYPES] * 2
    score_QN = built.exact_scores(queries, texts=texts)
    for scores, ranking in zip(score_QN, built.search(queries, k=600, texts=texts), strict=True):
        by_id = {hit.product_id: hit.score for hit in ranking.hits}
        np.testing.assert_allclose([by_id[f"p{row:05d}"] for row in range(600)], scores, atol=3e-5)
    expected = [{f"p{row:05d}" for row in np.argsort(-scores)[:10]} for scores in score_QN]
    found = [set(ranking.product_ids) for ranking in built.search(queries, k=10, texts=texts)]
    assert np.mean([len(a & b) / 10 for a, b in zip(expected, found, strict=True)]) > 0.95


def test_a_picture_and_other_words_are_scored_as_before() -> None:
    products = catalog()
    built = searcher(products)
    queries = [block[:3] for block in blocks(products)]
    without = built.with_mix(attribute_weight=0)
    assert built.search(queries, k=20) == without.search(queries, k=20)
    assert built.search(queries, k=20, texts=["something"] * 3) == without.search(queries, k=20, texts=["else"] * 3)
    half = built.search(queries, k=20, texts=["red bag"] * 3, text_shares=[0.0] * 3)
    assert half == without.search(queries, k=20)


def test_words_to_turn_from_cost_the_doubt_of_what_they_name() -> None:
    products = catalog(120)
    made, parts = heads(products), blocks(products)
    embedding_ND = np.concatenate(parts, axis=1).astype(np.float16).astype(np.float32)
    red_N = np.exp(log_probability(made, parts, 0, 2))
    expected_N = np.log(np.maximum(1 - red_N, 1e-3)) / SHARPNESS
    np.testing.assert_allclose(made.avoidance("red", embedding_ND), expected_N, atol=1e-4)
    either_N = red_N + np.exp(log_probability(made, parts, 0, 0))
    np.testing.assert_allclose(
        made.avoidance("red or blue", embedding_ND), np.log(np.maximum(1 - either_N, 1e-3)) / SHARPNESS, atol=1e-4
    )
    assert not made.avoidance("striped", embedding_ND).any()


def test_words_to_turn_from_are_what_they_are_as_a_whole() -> None:
    """Who wants no sports shoes wants shoes: Sports is a usage, and Shoes a sub-category, but nobody said so."""
    values = (("Sports Shoes", "Casual Shoes", "Shirts"), ("Sports", "Casual"), ("Shoes", "Topwear", "Shirts"))
    nothing = LinearHeads(np.zeros((4, 8), np.float32), np.zeros(8, np.float32))
    made = AttributeHeads(("article_type", "usage", "sub_category"), values, nothing, (nothing,), SHARPNESS)
    assert made.asked("sports shoes") == [[0], [3], [5]], "all that it may mean, of what is wanted"
    assert made.turned_from("sports shoes") == [[0], [], []]
    assert made.turned_from("sports, casual shoe") == [[1], [3], []]
    assert made.turned_from("shirts") == [[2], [], [7]], "a value of two fields is one in both"
    assert made.turned_from("striped") == [[], [], []]


def test_a_search_without_a_colour_shows_hardly_any_of_it() -> None:
    products = catalog(600)
    built = searcher(products, attribute_weight=0.0)
    queries = [block[:1] for block in blocks(products)]

    (wanted,) = {str(products.base_colour[0])}
    colour_of = dict(zip(products.product_id, products.base_colour, strict=True))
    (before,) = built.search(queries, k=30, texts=["shirts"])
    (after,) = built.search(queries, k=30, texts=["shirts"], without=[wanted])
    counts = [sum(colour_of[found] == wanted for found in ranking.product_ids) for ranking in (before, after)]
    assert counts[0] >= 20
    assert counts[1] <= 3
    (other,) = built.search(queries, k=30, texts=["shirts"], without=["striped"])
    assert other == before


def test_the_heads_of_one_member_are_its_own() -> None:
    products = catalog()
    alone = searcher(products).member(1)
    own, _ = fit_heads(products, np.arange(0, 600, 2), blocks(products)[1], VALUES, sharpness=SHARPNESS)
    assert alone.heads is not None and alone.heads.dims == (DIMS[1],)
    np.testing.assert_allclose(alone.heads.joint.weight_DV, own.weight_DV, atol=1e-5)
    found = alone.search([blocks(products)[1][:1]], k=30, texts=["red bags"])[0].product_ids
    rows = [int(product_id[1:]) for product_id in found]
    assert np.mean(products.base_colour[rows] == "Red") > 0.6


def test_where_members_err_differently_they_know_more_side_by_side() -> None:
    """One member tells blue from the rest, the other red from the rest, and so neither the third colour."""
    products, chance = catalog(1200), np.random.default_rng(0)
    colour_N = np.array([COLOURS.index(colour) for colour in products.base_colour])
    made = [unit(np.eye(2)[(colour_N == known).astype(int)] + 0.3 * chance.normal(size=(1200, 2))) for known in (0, 2)]
    rows, held, values = np.arange(600), np.arange(600, 1200), {"base_colour": COLOURS}
    shares_right = []
    for seen_ND in (np.hstack(made) / 2**0.5, *made):
        fit, _ = fit_heads(products, rows, seen_ND, values, sharpness=8.0, held=held)
        found_N = (seen_ND @ fit.weight_DV + fit.intercept_V).argmax(axis=1)
        shares_right.append((found_N == colour_N)[held].mean())
    joint, one, other = shares_right
    assert joint > 0.9 > 0.75 > max(one, other)


def worn() -> tuple[Products, Floats]:
    """What makes a shirt a man's makes a shoe a woman's: by itself the direction says nothing of the gender."""
    chance = np.random.default_rng(0)
    drawn = zip(chance.choice(["Men", "Women"], 800), chance.choice(["Shirts", "Shoes"], 800), strict=True)
    products = Products.from_rows(
        [
            Product(f"p{row:05d}", "", f"{row:064x}", gender=str(who), article_type=str(what))
            for row, (who, what) in enumerate(drawn)
        ]
    )
    men_N, shirt_N = products.gender == "Men", products.article_type == "Shirts"
    shown = np.stack([np.where(shirt_N, 1.0, -1.0), np.where(men_N == shirt_N, 1.0, -1.0)], axis=1)
    return products, unit(np.hstack([shown, np.zeros((800, 6))]) + 0.3 * chance.normal(size=(800, 8)))


def heads_of_worn(products: Products, image_ND: Floats, *fields: str) -> AttributeHeads:
    values = known_values(products, np.arange(400), fields)
    fit, _ = fit_heads(products, np.arange(400), image_ND, values, sharpness=SHARPNESS)
    return AttributeHeads(tuple(values), tuple(values.values()), fit, (fit,), SHARPNESS)


def test_gender_and_type_are_told_together() -> None:
    products, image_ND = worn()
    held = np.arange(800) >= 400
    right = (products.gender == "Men") & (products.article_type == "Shirts")

    def precision(*fields: str) -> float:
        built = Searcher.build(
            products,
            [image_ND],
            [1.0],
            cluster_count=1,
            mix=Mix(attribute_weight=1.0),
            rescored=800,
            heads=heads_of_worn(products, image_ND, *fields),
        )
        nothing = [np.zeros((1, 8), np.float32)]
        (ranking,) = built.search(nothing, k=60, texts=["men's shirt for men"], allowed=held)
        return float(np.mean([right[int(found[1:])] for found in ranking.product_ids]))

    assert precision("gender", "article_type") < 0.75 < 0.95 < precision("gender", "article_type", PAIR)


@pytest.mark.parametrize(
    ("text", "scored"),
    [
        ("women shoe", [[], [], [7]]),  # the pair in the place of both
        ("shoes for men and women", [[], [], [5, 7]]),
        ("men", [[0], [], []]),
        ("shoes", [[], [3], []]),
        ("striped", [[], [], []]),
    ],
)
def test_a_score_reads_pairs_where_both_are_named(text: str, scored: list[list[int]]) -> None:
    products, image_ND = worn()
    made = heads_of_worn(products, image_ND, "gender", "article_type", PAIR)
    pairs = ("Men Shirts", "Men Shoes", "Women Shirts", "Women Shoes")
    assert made.values == (("Men", "Women"), ("Shirts", "Shoes"), pairs)
    assert made.scored(text) == scored
    assert not made.asked(text)[2], "what is said of a result is said by field"
    assert made.num_named(text) == sum(map(len, made.asked(text))), "a pair is two attributes"


def test_a_pair_that_is_not_known_is_its_parts() -> None:
    products, image_ND = worn()
    rows = np.flatnonzero((products.gender == "Men") | (products.article_type == "Shoes"))
    products, image_ND = products.take(rows), image_ND[rows]
    values = known_values(products, np.arange(len(rows)), ("gender", "article_type", PAIR))
    fit, _ = fit_heads(products, np.arange(len(rows)), image_ND, values, sharpness=SHARPNESS)
    made = AttributeHeads(tuple(values), tuple(values.values()), fit, (fit,), SHARPNESS)
    assert made.scored("women shirts") == made.asked("women shirts") == [[1], [2], []]
    assert made.scored("shirts for men or women") == [[0, 1], [2], []]
    men = np.flatnonzero(products.gender == "Men")
    assert known_values(products, men, ("gender", "article_type", PAIR)).keys() == {"article_type"}


@pytest.mark.parametrize(("noise", "chosen"), [(0.05, INVERSE_PENALTIES[-1]), (2.0, INVERSE_PENALTIES[0])])
def test_pictures_that_no_head_has_seen_choose_how_strongly_it_is_held_back(noise: float, chosen: float) -> None:
    """Clear pictures want little of it, those that say next to nothing much; the fit is that of the penalty alone."""
    products, chance = catalog(300), np.random.default_rng(0)
    kind_N = (products.article_type == "Shirts").astype(int)
    image_ND = unit(np.eye(20)[kind_N] + noise * chance.normal(size=(300, 20)))
    rows, held, values = np.arange(100), np.arange(100, 300), {"article_type": TYPES}
    made, penalties = fit_heads(products, rows, image_ND, values, sharpness=8.0, held=held)
    assert penalties == {"article_type": chosen}
    alone, _ = fit_heads(products, rows, image_ND, values, sharpness=8.0, penalties=penalties)
    np.testing.assert_allclose(made.weight_DV, alone.weight_DV, atol=0.05 * np.abs(alone.weight_DV).max())
    few, strongest = fit_heads(products, rows, image_ND, values, sharpness=8.0, held=held[:20])
    assert strongest == {"article_type": INVERSE_PENALTIES[0]} and few.weight_DV.any()


def test_heads_of_a_release_from_before_members_were_read_side_by_side_are_their_own_together(tmp_path: Path) -> None:
    made, path = heads(catalog()), tmp_path / HEADS
    made.save(path, np.zeros((600, 2), np.float32))
    with np.load(path) as file:
        arrays = {name: file[name] for name in file if not name.startswith("joint")}
    np.savez(path, **arrays, weights=np.array(WEIGHTS))
    opened, _ = AttributeHeads.load(path)
    by_hand = [weight * own.weight_DV for weight, own in zip(WEIGHTS, made.own, strict=True)]
    np.testing.assert_allclose(opened.joint.weight_DV, np.concatenate(by_hand), atol=1e-6)
    constants = sum(weight * own.intercept_V for weight, own in zip(WEIGHTS, made.own, strict=True))
    np.testing.assert_allclose(opened.joint.intercept_V, constants, atol=1e-5)
    np.testing.assert_array_equal(opened.member(1).joint.weight_DV, made.own[1].weight_DV)


def test_a_saved_searcher_opens_with_its_heads(tmp_path: Path) -> None:
    built = searcher(catalog())
    built.save(tmp_path)
    opened = Searcher.load(tmp_path)
    queries = [unit(np.random.default_rng(9).normal(size=(2, dim))) for dim in DIMS]
    assert opened.search(queries, k=10, texts=["red bag", "x"]) == built.search(queries, k=10, texts=["red bag", "x"])


def test_heads_that_are_damaged_or_gone_are_refused(tmp_path: Path) -> None:
    built = searcher(catalog())
    built.save(tmp_path)
    (tmp_path / HEADS).write_bytes(b"not an npz")
    with pytest.raises(ReleaseError, match="heads"):
        Searcher.load(tmp_path)
    (tmp_path / HEADS).unlink()
    with pytest.raises(ReleaseError, match="no heads"):
        Searcher.load(tmp_path)


def test_heads_of_other_products_are_refused(tmp_path: Path) -> None:
    built = searcher(catalog())
    built.save(tmp_path)
    heads(catalog()).save(tmp_path / HEADS, np.zeros((5, 2), np.float32))
    with pytest.raises(ReleaseError, match="not of its 600 products"):
        Searcher.load(tmp_path)


def test_values_that_are_rare_or_alone_have_no_head() -> None:
    products = Products.from_rows(
        [
            Product(
                f"p{row}",
                "",
                f"{row:064x}",
                base_colour="Red" if row < 5 else "Blue" if row < 8 else "Taupe",
                article_type="Bags",
            )
            for row in range(10)
        ]
    )
    fields = ("base_colour", "article_type", "gender")
    assert known_values(products, np.arange(10), fields) == {"base_colour": ("Blue", "Red")}


def test_spellings_of_one_value_are_one() -> None:
    """Words meet a value whatever its case or number; so does what is learned of it."""
    spelled = {"Navy Blue": ["Navy Blue", "Navy Blue", "navy blue", "NAVY  BLUE"], "Red": ["Red", "Reds", "red", "Red"]}
    rows = [colour for colours in spelled.values() for colour in colours] + ["–"] * 4
    products = Products.from_rows(
        [Product(f"p{row:02d}", "", f"{row:064x}", base_colour=colour) for row, colour in enumerate(rows)]
    )
    every = np.arange(len(rows))
    values = known_values(products, every, ["base_colour"])
    assert values == {"base_colour": ("Navy Blue", "Red")}
    image_ND = unit(np.repeat(np.eye(3), 4, axis=0))
    made, _ = fit_heads(products, every, image_ND, values, sharpness=20.0)
    logit_NV = image_ND @ made.weight_DV + made.intercept_V
    assert (logit_NV[:8].argmax(axis=1) == [0] * 4 + [1] * 4).all()
    # The intercept of classes of one size alone would say the same of both, had a spelling been left out.
    assert np.ptp(logit_NV[:4] @ [1, -1]) < 1e-3 and np.ptp(logit_NV[4:8] @ [1, -1]) < 1e-3


def test_a_sample_of_one_value_alone_tells_nothing_apart() -> None:
    products = Products.from_rows(
        [Product(f"p{row}", "", f"{row:064x}", base_colour="Red" if row else "Blue") for row in range(8)]
    )
    image_ND = unit(np.random.default_rng(0).normal(size=(8, 4)))
    made, _ = fit_heads(products, np.arange(1, 8), image_ND, {"base_colour": ("Blue", "Red")}, sharpness=20.0)
    assert not made.weight_DV.any() and made.intercept_V[1] == 0 > made.intercept_V[0]


def test_two_values_are_a_softmax_as_well() -> None:
    products = catalog(100)
    kept, _ = fit_heads(products, np.arange(100), blocks(products)[0], {"article_type": TYPES}, sharpness=SHARPNESS)
    logit_NV = blocks(products)[0] @ kept.weight_DV + kept.intercept_V
    assert (np.array(TYPES)[logit_NV.argmax(axis=1)] == products.article_type).mean() > 0.8


def test_bank_and_heads_stand_side_by_side(tmp_path: Path) -> None:
    products = catalog()
    texts = [unit(np.random.default_rng(seed).normal(size=(20, dim))) for seed, dim in enumerate(DIMS)]
    both = Searcher.build(
        products,
        blocks(products),
        WEIGHTS,
        cluster_count=4,
        mix=Mix(attribute_weight=0.5, calibration=1.0, exemplar_share=0.3, pull=0.2),
        bank=QueryBank.of(texts, texts, np.arange(1, 21), weights=WEIGHTS, sharpness=SHARPNESS),
        heads=heads(products),
    )
    assert both.wording.offset_NE.shape == (600, 3)
    changed = both.with_mix(exemplar_share=0.0)
    np.testing.assert_array_equal(changed.wording.offset_NE[:, 1:], both.wording.offset_NE[:, 1:])
    assert np.abs(changed.wording.offset_NE[:, 0] - both.wording.offset_NE[:, 0]).max() > 1e-5
    both.save(tmp_path)
    queries = [unit(np.random.default_rng(9).normal(size=(2, dim))) for dim in DIMS]
    words = ["red bag", "blue shirts"]
    assert Searcher.load(tmp_path).search(queries, k=9, texts=words) == both.search(queries, k=9, texts=words)
