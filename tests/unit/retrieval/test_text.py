"""BM25 over names."""

import numpy as np
import pytest

from enclip.errors import QueryError, ReleaseError
from enclip.records import Product, Products
from enclip.retrieval import text
from enclip.retrieval.text import NameIndex, words

NAMES = ("Nike Men Black Shoes", "Puma Women Red Shoe", "Fossil Men Silver Watch", "", "United Colors Men's Shirt")


@pytest.fixture
def names() -> NameIndex:
    return NameIndex(Products.from_rows([Product(f"p{i}", name, "") for i, name in enumerate(NAMES)]))


def test_a_product_s_own_name_finds_it_first(names):
    for row in (0, 1, 2, 4):
        assert names.search([NAMES[row]], k=1)[0].product_ids == (f"p{row}",)


def test_only_products_with_a_word_of_the_query_answer_and_plurals_meet(names):
    assert set(names.search(["shoes"], k=5)[0].product_ids) == {"p0", "p1"}
    assert names.search(["submarine", ""], k=5) == [names.search(["boat"], k=1)[0]] * 2


def test_a_rare_word_counts_more_than_a_common_one(names):
    assert names.search(["men silver"], k=1)[0].product_ids == ("p2",)


def test_scores_follow_lucene_s_formula(names):
    """idf · tf/(tf + k1(1 - b + b·length/mean length)), k1 = 0.5, b = 0.3: one word, by hand."""
    lengths = np.array([4, 4, 4, 0, 4])
    idf = np.log(1 + (5 - 2 + 0.5) / (2 + 0.5))
    expected = idf / (1 + 0.5 * (1 - 0.3 + 0.3 * 4 / lengths.mean()))
    np.testing.assert_allclose(names.scores(["shoe"])[0], [expected, expected, 0, 0, 0], rtol=1e-5)


def test_only_allowed_products_answer(names):
    allowed = np.array([False, True, True, True, True])
    assert names.search(["shoes"], k=5, allowed=allowed)[0].product_ids == ("p1",)


def test_words_are_lower_case_without_punctuation():
    assert words("Shirts, Müller/Meier's DRESS & glass") == ["shirt", "müller", "meier", "dress", "glass"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Dresses", "dress"),
        ("WATCHES", "Watch"),
        ("Boxes and Brushes", "box and brush"),
        ("Blouses", "blouse"),
        ("Shoes", "shoe"),
        ("T-Shirts", "tshirt"),
        ("V-Neck", "vneck"),
        ("Men's", "men"),
        ("Women’s", "women"),
        ("Slip-On", "slip on"),
        ("Navy-Blue", "navy blue"),
        ("3-Stripes", "3 stripe"),
        ("Bata - Sandals -", "bata sandal"),
        ("Sizes", "size"),
        ("Bronze Axes", "bronze axe"),
        ("Wash-N-Wear", "wash n wear"),
        ("Levi's-501", "levis 501"),
        ("T‑Shirts", "tshirt"),
        ("crème", "cre\u0300me"),
        ("Röcke", "RO\u0308CKE"),
        ("کفش‌ها", "کفشها"),
        ("red ❤\ufe0f shoe", "red shoe"),
    ],
)
def test_words_meet_however_they_are_written(one, other):
    assert words(one) == words(other)
    assert [part for word in words(one) for part in words(word)] == words(one), "words of words are the same"


def test_an_index_of_words_read_in_another_way_is_made_anew(tmp_path, monkeypatch):
    """As releases from before were: with their own k1 and b, which their weight in the score was chosen for."""
    products = Products.from_rows([Product(f"p{i}", f"Fossil Watches {i}", "") for i in range(4)])
    with monkeypatch.context() as before:
        before.setattr(text, "words", lambda read: read.casefold().split())
        NameIndex(products, k1=1.5, b=0.75).save(tmp_path)
    (tmp_path / text.RULES).unlink()
    made = NameIndex.load(tmp_path, products)
    assert len(made.search(["watch"], k=9)[0].product_ids) == 4
    np.testing.assert_array_equal(made.scores(["watch 2"]), NameIndex(products, k1=1.5, b=0.75).scores(["watch 2"]))
    other = Products.from_rows([Product(f"q{i}", f"Fossil Watch {i}", "") for i in range(3)])
    np.testing.assert_array_equal(
        made.over(other).scores(["watch 2"]), NameIndex(other, k1=1.5, b=0.75).scores(["watch 2"])
    )
    NameIndex(products).save(tmp_path)
    kept = NameIndex.load(tmp_path, products)
    assert isinstance(kept._model.scores["data"], np.memmap), "what fits is left on disk"
    (tmp_path / text.RULES).write_text("[]")
    with pytest.raises(ReleaseError, match="cannot be read"):
        NameIndex.load(tmp_path, products)


def test_a_letter_and_its_word_meet_however_they_are_written():
    named = ["Puma V-Neck Tee", "Puma V Neck Tee", "Vneck", "Plan B Neck Tie"]
    products = Products.from_rows([Product(f"p{i}", name, "") for i, name in enumerate(named)])
    index = NameIndex(products)
    for query in ("v neck", "V-necks", "vneck"):
        assert set(index.search([query], k=9)[0].product_ids) == {"p0", "p1", "p2"}, query
    assert index.search(["neck"], k=9)[0].product_ids == ("p3",), "where nobody writes it as one it stays two words"


def test_best_matches_are_the_best_of_all_whatever_ties():
    chance = np.random.default_rng(0)
    for count in (5, 60, 400):
        score_N = np.round(chance.normal(size=count), 1).astype(np.float32)
        allowed = chance.random(count) < 0.7
        rows = np.flatnonzero(allowed & (score_N > score_N.min()))
        expected = rows[np.lexsort((rows, -np.round(score_N[rows].astype(np.float64), 6)))][:50]
        np.testing.assert_array_equal(text.best_matches(score_N, num_rows=50, allowed=allowed), expected)


def test_words_keep_their_marks_and_are_others_by_these_alone():
    assert len(words("नीला सूट")) == 2
    assert words("शर्ट") != words("शॉर्ट")
    products = Products.from_rows([Product(f"p{i}", name, "") for i, name in enumerate(("नीला सूट", "लाल साड़ी"))])
    assert NameIndex(products).search(["सूट"], k=5)[0].product_ids == ("p0",)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("nothing", ["", "!!!"])
def test_of_products_without_a_word_nothing_is_found(tmp_path, names, nothing):
    """As after a catalog has lost its names, under a champion that searches them."""
    products = Products.from_rows([Product(f"p{i}", nothing, "") for i in range(3)])
    for index in (NameIndex(products), names.over(products)):
        index.save(tmp_path)
        for same in (index, NameIndex.load(tmp_path, products)):
            assert same.search(["shoes", ""], k=5) == [names.search(["boat"], k=1)[0]] * 2
            assert not same.coverage("shoes").any() and same.num_bytes >= 0


def test_a_k_of_zero_is_refused(names):
    with pytest.raises(QueryError):
        names.search(["shoe"], k=0)
