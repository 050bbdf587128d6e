"""What names say of attributes: learnt from the words of train's names, by names alone where products are searched."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from enclip.errors import ReleaseError
from enclip.pipeline.heads import ensemble_heads, name_heads, train_values
from enclip.pipeline.tune import tune
from enclip.pipeline.validate import Validator
from enclip.recipes import ReleaseRecipe
from enclip.records import Floats, Product, Products, Split
from enclip.retrieval.explain import explain
from enclip.retrieval.mix import Mix
from enclip.retrieval.name_heads import NAME_HEADS, SaidByNames, words_of
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.text import NameIndex
from enclip.retrieval.wording import NAMES_SAY

WORDS = {"Casual Shoes": ("Sneakers", "Loafer"), "Shirts": ("Oxford", "Polo"), "Handbags": ("Tote", "Clutch")}
COLOURS = {"Navy Blue": "Indigo", "Red": "Crimson", "White": "Ivory"}
GENDERS = {"Men": "His", "Women": "Hers"}
QUERY = "men navy blue casual shoes"


def catalog(count: int = 1_200) -> Products:
    """Names that never use the catalog's words for type, colour and gender."""
    chance, rows = np.random.default_rng(0), []
    for row in range(count):
        kind, colour, gender = (chance.choice(list(values)) for values in (WORDS, COLOURS, GENDERS))
        maker, model = chance.choice(["Acme", "Duke"]), chance.choice(WORDS[kind])
        name = f"{maker} {GENDERS[gender]} {COLOURS[colour]} {model} No {row}"
        rows.append(
            Product(
                product_id=f"p{row:04d}",
                name="" if row % 50 == 49 else name,
                image_sha256=f"{row:064x}",
                gender=str(gender),
                base_colour=str(colour),
                article_type=str(kind),
                sub_category="Things",
                split=(Split.TRAIN, Split.TRAIN, Split.SELECT, Split.GATE)[row % 4],
            )
        )
    return Products.from_rows(rows)


def unit(count: int, dim: int, seed: int) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def products() -> Products:
    return catalog()


@pytest.fixture(scope="module")
def built(products: Products) -> Searcher:
    """A hybrid whose pictures and names' embeddings say nothing."""
    return searcher(products)


def searcher(products: Products, *, judged: bool = False) -> Searcher:
    values = train_values(products)
    block = unit(len(products), 12, 1)
    heads, by_name = ensemble_heads(products, [block], [1.0], [8.0], values), name_heads(products, values)
    assert heads is not None and by_name is not None
    return Searcher.build(
        products,
        [block],
        [1.0],
        cluster_count=4,
        mix=Mix(name_share=0.5, bm25_weight=0.2, name_attribute_weight=1.0),
        name_block_NDs=[unit(len(products), 12, 2)],
        names=NameIndex(products),
        heads=heads.judged if judged else heads.final,
        said=(by_name.judged if judged else by_name.final).over(products.name),
        rescored=100,
    )


def meant(products: Products) -> np.ndarray:
    asked = {"gender": "Men", "base_colour": "Navy Blue", "article_type": "Casual Shoes"}
    return np.all([getattr(products, field) == value for field, value in asked.items()], axis=0) & (products.name != "")


def test_words_that_no_query_shares_find_what_they_mean(products: Products, built: Searcher) -> None:
    query = [unit(1, 12, 3)]
    gate = np.asarray(products.split == Split.GATE)
    wanted = set(products.product_id[meant(products) & gate])
    (found,) = built.search(query, k=len(wanted), texts=[QUERY], allowed=gate)
    assert len(wanted) > 9 and set(found.product_ids) == wanted
    (without,) = built.with_mix(name_attribute_weight=0).search(query, k=len(wanted), texts=[QUERY], allowed=gate)
    assert len(wanted & set(without.product_ids)) < len(wanted) / 2


def test_a_search_finds_what_an_exhaustive_one_would(products: Products, built: Searcher) -> None:
    """Of 1,200 products the first pass names 100 by vectors that say nothing."""
    query, texts = [unit(3, 12, 3)], [QUERY, "Duke red shirts", "white handbag by acme"]
    scores = built.exact_scores(query, texts=texts)
    for found, score_N in zip(built.search(query, k=5, texts=texts), scores, strict=True):
        best = np.lexsort((products.product_id, -score_N))[:5]
        assert found.product_ids == tuple(products.product_id[best])


def test_words_to_turn_from_are_read_in_names(products: Products, built: Searcher) -> None:
    """“Shirts” without “navy blue” leave out those that are called Indigo, whatever pictures say."""
    named = np.asarray((products.split == Split.GATE) & (products.name != ""))
    shirts = named & (products.article_type == "Shirts")
    others = set(products.product_id[shirts & (products.base_colour != "Navy Blue")])
    query = [unit(1, 12, 3)]
    (found,) = built.search(query, k=len(others), texts=["shirts"], without=["navy blue"], allowed=named)
    assert len(others) > 30 and set(found.product_ids) == others
    (all_shirts,) = built.search(query, k=len(others), texts=["shirts"], allowed=named)
    assert set(all_shirts.product_ids) != others
    why = explain(built, query, found.product_ids[0], text="shirts", without="navy blue")
    assert why.score == pytest.approx(found.hits[0].score, abs=1e-4)


def test_what_a_name_shows_is_its_probability(products: Products, built: Searcher) -> None:
    said, heads = built.wording.said, built.heads
    assert said is not None and heads is not None
    rows = np.arange(40, 60)  # one of them is without a name, which shows nothing
    (red_C,), (either_C,) = (said.shown(heads.asked(text), rows) for text in ("red", "red or navy blue"))
    expected_N = said.log_probability(heads.asked("red"))
    assert expected_N is not None
    speaks = products.name[rows] != ""
    np.testing.assert_allclose(red_C[speaks], np.exp(expected_N[rows][speaks]), atol=1e-5)
    assert not speaks.all() and not red_C[~speaks].any() and (either_C >= red_C).all()


def test_why_says_what_the_name_means_where_names_are_read(products: Products, built: Searcher) -> None:
    query, navy = [unit(1, 12, 3)], products.base_colour == "Navy Blue"
    for row in (int(np.flatnonzero(navy & (products.name != ""))[0]), 49):
        wanted, avoided = explain(built, query, f"p{row:04d}", text="navy blue", without="shirts").attributes
        assert (wanted.wanted, avoided.wanted) == (True, False)
        if products.name[row]:
            assert wanted.by_name is not None and wanted.by_name > 0.8 and avoided.by_name is not None
        else:
            assert wanted.by_name is None and avoided.by_name is None
    unread = explain(built.with_mix(name_attribute_weight=0), query, "p0000", text="navy blue").attributes
    assert [named.by_name for named in unread] == [None]


def test_words_alone_rank_by_what_they_add_to_a_score(products: Products, built: Searcher) -> None:
    """Words that say nothing find nothing."""
    allowed, texts = np.asarray(products.split == Split.GATE), [QUERY, "red shirts", "unheard of"]
    query = [np.repeat(unit(1, 12, 3), len(texts), axis=0)]
    found = built.by_words(query, k=30, texts=texts, allowed=allowed)
    asked = built.asked(query, texts)
    for row, ranking in enumerate(found[:2]):
        match_N = built.matches(asked, row)
        assert match_N is not None and len(ranking.hits) == 30
        best = np.lexsort((np.arange(len(products)), -np.round(np.where(allowed, match_N, -np.inf), 6)))[:30]
        assert list(ranking.product_ids) == list(products.product_id[best])
    assert found[2].hits == ()


def test_log_probabilities_are_scikit_learns(products: Products, built: Searcher) -> None:
    said, heads = built.wording.said, built.heads
    assert said is not None and heads is not None
    known = products.split != Split.GATE
    word_NW = words_of(products.name, said.heads.vocabulary)
    field = heads.fields.index("base_colour")
    column = heads.starts[field] + heads.values[field].index("Navy Blue")
    found_N = said.log_probability([[column] if row == field else [] for row in range(len(heads.fields))])
    penalties = (1.0, 3.0, 10.0)
    fits = [LogisticRegression(C=penalty).fit(word_NW[known], products.base_colour[known]) for penalty in penalties]
    expected = [fit.predict_log_proba(word_NW)[:, list(fit.classes_).index("Navy Blue")] for fit in fits]
    assert min(float(np.abs(found_N - values).max()) for values in expected) < 0.02
    assert (found_N[products.name == ""] < -0.5).all() and (found_N <= 1e-5).all()


def test_values_of_a_field_count_in_the_mean_and_fields_add_up(built: Searcher) -> None:
    said, heads = built.wording.said, built.heads
    assert said is not None and heads is not None

    def of(text: str) -> Floats:
        found = said.log_probability(heads.scored(text))
        assert found is not None
        return found

    np.testing.assert_allclose(of("red or navy blue"), (of("red") + of("navy blue")) / 2, atol=1e-4)
    np.testing.assert_allclose(of("red shirts"), of("red") + of("shirts"), atol=1e-4)
    assert said.log_probability([[] for _ in heads.fields]) is None


def test_a_products_own_attributes_have_no_part_in_it(products: Products) -> None:
    """Of the products that are searched the names alone are read."""
    gate = np.asarray(products.split == Split.GATE)
    hidden = {
        column: np.where(gate, "Secret", getattr(products, column)).astype(object)
        for column in ("base_colour", "article_type")
    }
    query = [unit(1, 12, 3)]
    known, unknown = searcher(products), searcher(replace(products, **hidden))
    assert known.search(query, k=30, texts=[QUERY], allowed=gate) == unknown.search(
        query, k=30, texts=[QUERY], allowed=gate
    )


def test_a_product_without_a_name_is_not_pushed_behind_all_that_have_one(products: Products, built: Searcher) -> None:
    """Names say of attributes four times what pictures do; what is likely of any product counts once."""
    said, heads = built.wording.said, built.heads
    assert said is not None and heads is not None
    asked = said.log_probability(heads.scored(QUERY))
    found = built.wording.said_by_names(QUERY)
    assert asked is not None and found is not None
    silent = np.asarray(products.name == "")
    np.testing.assert_array_equal(said.is_silent, silent)
    np.testing.assert_allclose(found[silent], asked[silent] / heads.sharpness, rtol=1e-5)
    np.testing.assert_allclose(found[~silent], NAMES_SAY * asked[~silent] / heads.sharpness, rtol=1e-5)
    wrong = ~silent & (products.base_colour != "Navy Blue")
    assert found[~silent & meant(products)].min() > found[silent].max() > found[wrong].mean()


def test_pictures_and_words_that_name_nothing_leave_names_out(built: Searcher) -> None:
    query, silent = [unit(1, 12, 3)], built.with_mix(name_attribute_weight=0)
    for texts in (None, ["acme"], [""]):
        assert built.search(query, k=9, texts=texts) == silent.search(query, k=9, texts=texts)
    half = built.search(query, k=9, texts=[QUERY], text_shares=[0.0])
    assert half == silent.search(query, k=9, texts=[QUERY], text_shares=[0.0])


def test_files_hold_it_and_refuse_what_does_not_fit(products: Products, built: Searcher, tmp_path: Path) -> None:
    built.save(tmp_path)
    query = [unit(1, 12, 3)]
    assert Searcher.load(tmp_path).search(query, k=9, texts=[QUERY]) == built.search(query, k=9, texts=[QUERY])
    path = tmp_path / NAME_HEADS
    with pytest.raises(ReleaseError, match="1201 products"):
        SaidByNames.load(path, num_products=1_201)
    arrays = dict(np.load(path))
    damaged = {
        "word": [np.full_like(arrays["word"], 10**6), arrays["word"].astype(str), np.int32(1)],
        "first": [arrays["first"][::-1], arrays["first"] * 2, arrays["first"][:-1]],
        "normaliser": [arrays["normaliser"] * np.nan, arrays["normaliser"].astype(str), arrays["normaliser"][:, :1]],
        "weight": [arrays["weight"][:-1], arrays["weight"][0], arrays["weight"].astype(bytes)],
        "intercept": [arrays["intercept"] + np.inf, arrays["intercept"][:-1]],
        "vocabulary": [np.arange(len(arrays["vocabulary"])), arrays["vocabulary"][0]],
        "starts": [arrays["starts"].astype(float), arrays["starts"][0]],
    }
    for name, others in damaged.items():
        for other in others:
            np.savez(path, **{**arrays, name: other})
            with pytest.raises(ReleaseError, match="not of the release's 1200"):
                Searcher.load(tmp_path)
    np.savez(path, **{**arrays, "starts": arrays["starts"] + 1})
    with pytest.raises(ReleaseError, match="of other attributes"):
        Searcher.load(tmp_path)
    path.unlink()
    with pytest.raises(ReleaseError, match="hold nothing of them"):
        Searcher.load(tmp_path)


def test_select_weighs_it_after_bm25(products: Products) -> None:
    select = Validator(products, split=Split.SELECT)
    queries = [unit(len(select.texts), 12, 4)]
    recipe = ReleaseRecipe(pulls=(0.0,), bm25_weights=(0.3,))
    mix = Mix(name_share=0.5)
    built = searcher(products, judged=True)
    silent = built.with_mix(bm25_weight=0, name_attribute_weight=0)
    allowed = products.split == Split.SELECT
    tuned = tune(lambda count, mix: silent, queries, select, allowed, recipe, mix=mix)
    assert tuned.searcher.mix.bm25_weight == 0.3 and tuned.searcher.mix.name_attribute_weight > 0
    assert [*tuned.why][-2:] == ["BM25", "attributes by name"]
    assert tuned.why["attributes by name"].startswith(f"weight {tuned.searcher.mix.name_attribute_weight:g}: ")


def test_a_catalog_of_names_alone_or_attributes_alone_has_none(products: Products) -> None:
    nameless = replace(products, name=np.full(len(products), "", dtype=object))
    assert name_heads(nameless, train_values(nameless)) is None
    assert name_heads(products, {}) is None
