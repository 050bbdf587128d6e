import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from enclip.models.captions import NAME, SHORTENED, TEMPLATES, UNKNOWN, Captions
from enclip.records import Product, Products

VALUES = {
    "name": st.sampled_from(["Acme Tee", "acme tee ", "Dune Cap", ""]),
    "gender": st.sampled_from(["Men", "Women", "men", ""]),
    "sub_category": st.sampled_from(["Topwear", "Bags", ""]),
    "article_type": st.sampled_from(["Tees", "Caps", ""]),
    "base_colour": st.sampled_from(["Red", "Navy Blue", ""]),
    "usage": st.sampled_from(["Casual", "NA", ""]),
}


@st.composite
def catalogs(draw: st.DrawFn) -> Products:
    size = draw(st.integers(1, 12))
    return Products.from_rows(
        [
            Product(product_id=f"{row:02d}", image_sha256="", **{field: draw(kind) for field, kind in VALUES.items()})
            for row in range(size)
        ]
    )


@given(catalogs())
@settings(deadline=None, max_examples=100)
def test_truth_is_that_every_claimed_field_agrees(products: Products):
    key_NT = Captions(products).key_NT
    for number, template in enumerate(TEMPLATES):
        for j in range(len(products)):
            if key_NT[j, number] == UNKNOWN:
                continue
            target = (key_NT[:, number] == key_NT[j, number])[:, None]
            for i in range(len(products)):
                expected = all(
                    _clean(products, field, i) == _clean(products, field, j) != "" for field in template.fields
                )
                assert target[i, 0] == expected


@given(catalogs())
@settings(deadline=None, max_examples=100)
def test_a_caption_is_unknown_exactly_where_a_field_is_empty(products: Products):
    captions = Captions(products)
    for number, template in enumerate(TEMPLATES):
        complete = [all(_clean(products, field, row) for field in template.fields) for row in range(len(products))]
        assert list(captions.key_NT[:, number] != UNKNOWN) == complete
    assert list(captions.usable) == list(np.any(captions.key_NT != UNKNOWN, axis=1))


@given(catalogs(), st.integers(0, 9))
@settings(deadline=None, max_examples=100)
def test_what_is_drawn_for_a_product_is_true_of_it(products: Products, seed: int):
    captions = Captions(products)
    rows = np.flatnonzero(captions.usable)
    template_B2 = captions.draw(rows, np.random.default_rng(seed))
    assert template_B2.shape == (len(rows), 2)
    for row, pair in zip(rows, template_B2, strict=True):
        for template in pair:
            assert captions.key_NT[row, template] != UNKNOWN
            assert captions.text(int(row), int(template)).strip()


def test_a_specific_caption_reads_like_a_query():
    product = Product(
        product_id="1", name="X", image_sha256="", gender="Men", base_colour="Navy Blue", article_type="Shirts"
    )
    captions = Captions(Products.from_rows([product]))
    texts = {captions.text(0, number) for number in range(len(TEMPLATES)) if captions.key_NT[0, number] != UNKNOWN}
    assert texts == {"X", "Men Navy Blue Shirts", "Navy Blue Shirts", "Men Shirts", "Shirts"}


def test_each_product_gets_its_name_and_attributes_by_their_shares():
    size = 4000
    product = {"image_sha256": "", "gender": "Men", "base_colour": "Red", "article_type": "Caps", "usage": "Sports"}
    products = Products.from_rows([Product(product_id=f"{row:04d}", name="N", **product) for row in range(size)])
    template_B2 = Captions(products).draw(np.arange(size), np.random.default_rng(0))
    assert np.all(template_B2[:, 0] == TEMPLATES.index(NAME))
    known = [number for number, template in enumerate(TEMPLATES) if number and "sub_category" not in template.fields]
    total = sum(TEMPLATES[number].share for number in known)
    for number in known:
        assert abs(np.mean(template_B2[:, 1] == number) - TEMPLATES[number].share / total) < 0.03


def test_an_attribute_is_left_out_as_often_as_asked_and_one_always_stays():
    size, chance = 6000, 0.4
    product = {
        "name": "",
        "image_sha256": "",
        "gender": "Men",
        "base_colour": "Red",
        "article_type": "Caps",
        "usage": "Sports",
    }
    products = Products.from_rows([Product(product_id=f"{row:04d}", **product) for row in range(size)])
    whole, rows = Captions(products), np.arange(size)
    short = Captions(products, attribute_dropout=chance)
    before, after = (captions.draw(rows, np.random.default_rng(0)) for captions in (whole, short))
    for number, template in enumerate(TEMPLATES):
        chosen = before == number  # the templates are drawn first, from the same seed
        if not chosen.any():
            continue
        kept = [set((*TEMPLATES, *SHORTENED)[left].fields) for left in after[chosen]]
        assert all(fields and fields <= set(template.fields) for fields in kept)
        count = len(template.fields)
        for field in template.fields:  # all are dropped by chance**count, and one of them comes back
            missing = np.mean([field not in fields for fields in kept])
            assert abs(missing - (chance - chance**count / count)) < 0.04


def test_a_name_is_no_attribute():
    products = Products.from_rows([Product(product_id="1", name="X", image_sha256="", article_type="Caps")])
    template_B2 = Captions(products, attribute_dropout=1.0).draw(np.array([0]), np.random.default_rng(0))
    assert template_B2.tolist() == [[TEMPLATES.index(NAME), 4]]


@given(catalogs(), st.integers(0, 9))
@settings(deadline=None, max_examples=100)
def test_a_shortened_caption_is_true_of_the_products_that_have_what_it_still_says(products: Products, seed: int):
    captions = Captions(products, attribute_dropout=0.5)
    rows = np.flatnonzero(captions.usable)
    assert list(rows) == list(np.flatnonzero(Captions(products).usable))
    template_B2 = captions.draw(rows, np.random.default_rng(seed))
    for row, pair in zip(rows, template_B2, strict=True):
        for template in pair:
            fields = (*TEMPLATES, *SHORTENED)[template].fields
            target = captions.key_NT[:, template] == captions.key_NT[row, template]
            claimed = [_clean(products, field, row) for field in fields]
            assert all(claimed)
            assert list(target) == [
                [_clean(products, field, other) for field in fields] == claimed for other in range(len(products))
            ]
            said = captions.text(int(row), int(template))
            assert said == " ".join(getattr(products, field)[row] for field in fields)


def test_what_is_left_of_a_caption_is_a_caption():
    assert [template.text for template in SHORTENED] == [
        "{gender}",
        "{base_colour}",
        "{gender} {base_colour}",
        "{usage}",
    ]


def _clean(products: Products, field: str, row: int) -> str:
    return str(getattr(products, field)[row]).strip().casefold()
