"""The bank comes from the train split alone, and the parts of a score are chosen on select, the least of equals."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from enclip.pipeline.bank import bank_texts
from enclip.pipeline.heads import ensemble_heads, train_values
from enclip.pipeline.tune import _is_better, tune
from enclip.pipeline.validate import Validator
from enclip.recipes import ReleaseRecipe
from enclip.records import Floats, Product, Products, Split
from enclip.retrieval.bank import QueryBank
from enclip.retrieval.heads import AttributeHeads
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import Searcher

COLOURS, TYPES, DIM = ("Red", "Blue", "Green", "Black"), ("Shirts", "Shoes", "Bags"), 48


def catalog(count: int = 480) -> Products:
    chance = np.random.default_rng(0)
    rows = [
        Product(
            product_id=f"p{row:04d}",
            name=f"Thing {row}",
            image_sha256=f"{row:064x}",
            gender="Men",
            base_colour=str(chance.choice(COLOURS)),
            article_type=str(chance.choice(TYPES)),
            sub_category="Things",
            split=(Split.TRAIN, Split.TRAIN, Split.SELECT, Split.GATE)[row % 4],
        )
        for row in range(count)
    ]
    return Products.from_rows(rows)


def unit(vectors: Floats) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def world(hubs: float):
    """Pictures and texts of attributes in one space; some products resemble everything, by `hubs`."""
    products, chance = catalog(), np.random.default_rng(1)
    directions = {word: chance.normal(size=DIM) for word in ("Men", "Things", *COLOURS, *TYPES)}

    def embedded(text: str) -> Floats:
        return sum((directions.get(word, np.zeros(DIM)) for word in text.split()), np.zeros(DIM))

    texts = bank_texts(products)
    meant = np.stack([embedded(f"{row.gender} {row.base_colour} {row.article_type}") for row in products])
    everything = sum(directions.values())
    is_hub = (chance.random(len(products)) < 0.2)[:, None]
    image_ND = unit(meant + 1.5 * chance.normal(size=meant.shape) + hubs * is_hub * everything)
    text_JD = unit(np.stack([embedded(text) for text in texts.texts]))
    bank = QueryBank.of([text_JD], [texts.exemplars(image_ND)], texts.counts, weights=[1.0], sharpness=12.0)
    select = Validator(products, split=Split.SELECT)
    queries = [unit(np.stack([embedded(text) for text in select.texts]))]

    def build(count: int, mix: Mix) -> Searcher:
        return Searcher.build(products, [image_ND], [1.0], cluster_count=count, mix=mix, bank=bank)

    return build, queries, select, products.split == Split.SELECT


def with_heads(bare: Searcher, bank: QueryBank | None) -> Callable[[int, Mix], Searcher]:
    """What builds the same searcher with heads of its pictures."""
    products, block = bare.products, bare.block(0)
    fitted = ensemble_heads(products, [block], [1.0], [12.0], train_values(products))
    assert fitted is not None
    heads = fitted.judged

    def build(count: int, mix: Mix) -> Searcher:
        return Searcher.build(products, [block], [1.0], cluster_count=count, mix=mix, bank=bank, heads=heads)

    return build


def test_the_bank_is_the_train_splits_captions_with_the_products_they_are_true_of() -> None:
    products = catalog()
    found = bank_texts(products)
    assert len(found.texts) == len(set(found.texts))
    assert "Men Red Shirts" in found.texts and "Shoes" in found.texts and "Things" in found.texts
    wanted = (products.base_colour == "Red") & (products.article_type == "Shirts") & (products.split == Split.TRAIN)
    assert set(found.rows[found.texts.index("Men Red Shirts")]) == set(np.flatnonzero(wanted))
    assert found.counts.tolist() == [len(rows) for rows in found.rows]
    image_ND = np.random.default_rng(0).normal(size=(len(products), 5)).astype(np.float32)
    place = found.texts.index("Blue Bags")
    np.testing.assert_allclose(found.exemplars(image_ND)[place], image_ND[found.rows[place]].mean(axis=0), atol=1e-6)


def test_what_only_other_splits_say_is_not_in_the_bank() -> None:
    products = catalog()
    is_train = products.split == Split.TRAIN
    secret = np.where(is_train, products.article_type, "Secret").astype(object)
    assert not any("Secret" in text for text in bank_texts(replace(products, article_type=secret)).texts)


def test_a_catalog_of_names_has_a_bank_of_names() -> None:
    bare = {
        column: np.full(480, "", dtype=object) for column in ("gender", "base_colour", "article_type", "sub_category")
    }
    found = bank_texts(replace(catalog(), **bare))
    assert len(found.texts) == 240 and found.texts[0].startswith("Thing ")
    nameless = bank_texts(replace(catalog(), **bare, name=np.full(480, "", dtype=object)))
    assert nameless.texts == []


def test_hubs_are_calibrated_away_where_select_shows_that_it_pays() -> None:
    build, queries, select, allowed = world(hubs=0.5)
    recipe = ReleaseRecipe(cluster_counts=(6,), pulls=(0.0,), feedbacks=(0.0,), exemplar_shares=(0.0,))
    tuned = tune(build, queries, select, allowed, recipe, mix=Mix())
    assert tuned.searcher.mix == Mix(calibration=1.0)
    assert "calibration 1" in tuned.why["bank"] and "best of 2" in tuned.why["bank"]

    def quality(searcher: Searcher) -> float:
        return select.quality_of_rankings(searcher.search(queries, k=10, texts=select.texts, allowed=allowed))

    assert quality(tuned.searcher) > quality(build(6, Mix())) + 0.01


def test_of_equals_the_least_is_taken() -> None:
    build, queries, select, allowed = world(hubs=0.0)
    recipe = ReleaseRecipe(cluster_counts=(1,), feedbacks=(0.0,), calibrations=(0.0,), exemplar_shares=(0.0,))
    tuned = tune(build, queries, select, allowed, recipe, mix=Mix())  # one cluster pulls all alike
    assert tuned.searcher.mix == Mix()
    assert tuned.why["clusters"].startswith("1 clusters, feedback 0: ") and "of 7." in tuned.why["clusters"]


def test_feedback_of_clusters_stands_unless_select_proves_another_better() -> None:
    build, queries, select, allowed = world(hubs=0.0)
    once = {"pulls": (0.0,), "calibrations": (0.0,), "exemplar_shares": (0.0,)}
    tuned = tune(build, queries, select, allowed, ReleaseRecipe(**once), mix=Mix())
    assert tuned.searcher.mix == Mix(feedback=0.25)
    assert tuned.searcher.clusters.count == 44, "2√480 of the grid come first"
    assert "by default" in tuned.why["clusters"]

    def astray(count: int, mix: Mix) -> Searcher:
        """Clusters whose means are anything but like their products: to turn toward them harms."""
        made = build(count, mix)
        made.cluster_mean_CD[:] = unit(np.random.default_rng(1).normal(size=made.cluster_mean_CD.shape))
        return made

    tuned = tune(astray, queries, select, allowed, ReleaseRecipe(**once, feedbacks=(0.0, 1.0)), mix=Mix())
    assert tuned.searcher.mix == Mix()


def test_where_names_are_searched_feedback_is_no_default() -> None:
    build, queries, select, allowed = world(hubs=0.0)
    bank = build(4, Mix()).bank

    def named(count: int, mix: Mix) -> Searcher:
        made = build(count, Mix())
        block = made.block(0)
        return Searcher.build(
            made.products, [block], [1.0], cluster_count=count, mix=mix, name_block_NDs=[block], bank=bank
        )

    recipe = ReleaseRecipe(cluster_counts=(6,), pulls=(0.0,), calibrations=(0.0,), exemplar_shares=(0.0,))
    tuned = tune(named, queries, select, allowed, recipe, mix=Mix(name_share=0.5))
    assert tuned.searcher.mix == Mix(name_share=0.5)


def test_where_attributes_count_feedback_is_no_default() -> None:
    build, queries, select, allowed = world(hubs=0.0)
    bare = build(6, Mix())
    headed = with_heads(bare, bare.bank)
    once = {"cluster_counts": (6,), "pulls": (0.0,), "calibrations": (0.0,), "exemplar_shares": (0.0,)}
    tuned = tune(headed, queries, select, allowed, ReleaseRecipe(**once, attribute_weights=(0.5,)), mix=Mix())
    assert tuned.searcher.mix == Mix(attribute_weight=0.5)
    tuned = tune(headed, queries, select, allowed, ReleaseRecipe(**once, attribute_weights=(0.0,)), mix=Mix())
    assert tuned.searcher.mix == Mix(feedback=0.25), "heads without a weight say nothing of a product"


def test_clusters_that_gain_less_than_an_error_are_left_out() -> None:
    theirs = np.full(100, 0.5)
    gains = np.tile([0.1, -0.1], 50)  # a standard error of 0.01
    assert not _is_better(theirs + 0.009 + gains, theirs, errors=1.0)
    assert _is_better(theirs + 0.011 + gains, theirs, errors=1.0)
    assert not _is_better(theirs, theirs, errors=0.0)


def test_what_was_settled_before_stays() -> None:
    build, queries, select, allowed = world(hubs=0.5)
    recipe = ReleaseRecipe(cluster_counts=(4, 9), exemplar_shares=(0.0, 0.35))
    tuned = tune(build, queries, select, allowed, recipe, mix=Mix())
    again = tune(build, queries, select, allowed, recipe, mix=Mix())
    assert tuned.searcher.mix == again.searcher.mix and tuned.why == again.why
    assert tuned.searcher.mix.calibration == 1.0, "the clusters are chosen over the calibrated score"


def test_heads_are_weighed_where_select_shows_that_they_pay() -> None:
    build, queries, select, allowed = world(hubs=0.0)
    recipe = ReleaseRecipe(cluster_counts=(6,), pulls=(0.0,))
    tuned = tune(with_heads(build(6, Mix()), None), queries, select, allowed, recipe, mix=Mix())
    assert tuned.searcher.mix.attribute_weight > 0
    assert tuned.why["attributes"].startswith(f"weight {tuned.searcher.mix.attribute_weight:g}: ")


def test_a_releases_heads_learn_from_selects_pictures_once_it_has_judged() -> None:
    """Members have seen the train split's pictures, and tell them apart better than any others."""
    products = catalog(1_200)
    colour_N = np.array([COLOURS.index(colour) for colour in products.base_colour])
    is_train = np.asarray(products.split == Split.TRAIN)
    chance = np.random.default_rng(3)
    remembered, shown = (np.eye(4)[colour_N] for _ in range(2))
    remembered = np.where(is_train[:, None], remembered, chance.normal(size=(1_200, 4)))
    block = unit(np.hstack([2 * remembered, shown + 0.6 * chance.normal(size=(1_200, 4))]))
    fitted = ensemble_heads(products, [block], [1.0], [8.0], {"base_colour": COLOURS})
    assert fitted is not None
    gate = products.split == Split.GATE

    def loss(heads: AttributeHeads) -> float:
        order = [heads.values[0].index(colour) for colour in products.base_colour[gate]]
        return float(-np.mean(heads.log_probabilities(block[gate])[np.arange(gate.sum()), order]))

    assert loss(fitted.final) < 0.8 * loss(fitted.judged)
    bank = QueryBank.of([block[:9]], [block[:9]], np.arange(1, 10), weights=[1.0], sharpness=8.0)
    mix = Mix(attribute_weight=1.0, calibration=1.0)
    first, wanted = (
        Searcher.build(products, [block], [1.0], cluster_count=4, mix=mix, bank=bank, heads=heads)
        for heads in (fitted.judged, fitted.final)
    )
    asked = {"k": 9, "texts": ["red", "blue"]}
    queries = [unit(chance.normal(size=(2, 8)))]
    changed = first.with_heads(fitted.final)
    assert changed.search(queries, **asked) == wanted.search(queries, **asked) != first.search(queries, **asked)


@pytest.mark.parametrize("part", ["attribute_weights", "calibrations", "exemplar_shares", "narrowings"])
def test_a_recipe_refuses_parts_outside_0_to_1(part: str) -> None:
    with pytest.raises(ValueError, match=part):
        ReleaseRecipe(**{part: (0.0, 1.5)})
