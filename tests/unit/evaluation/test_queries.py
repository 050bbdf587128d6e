"""The protocol's queries over a gallery written by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from enclip.evaluation import queries as protocol
from enclip.records import Product, Products, QueryKind


def texts(queries, kind):
    return {query.text: set(query.relevant) for query in protocol.of_kind(queries, kind)}


def test_specific_queries_need_three_products_and_forgive_case_and_space(gallery):
    found = texts(protocol.build_queries(gallery), QueryKind.SPECIFIC)
    assert found == {"Men Navy Blue Shirts": {"10", "11", "12"}, "Women Red Heels": {"15", "16", "17"}}


def test_values_that_read_alike_make_one_query():
    rows = [("Navy", "Blue Jeans"), ("Navy Blue", "Jeans"), ("navy", "blue jeans")]
    gallery = Products.from_rows(
        [
            Product(f"p{row}", "", f"{row:064x}", gender="Men", base_colour=colour, article_type=kind)
            for row, (colour, kind) in enumerate(rows)
        ]
    )
    assert texts(protocol.build_queries(gallery), QueryKind.SPECIFIC) == {"Men Navy Blue Jeans": {"p0", "p1", "p2"}}


def test_type_queries_need_five_products(gallery):
    assert texts(protocol.build_queries(gallery), QueryKind.TYPE) == {"Shirts": {"10", "11", "12", "13", "14"}}


def test_a_name_finds_the_products_of_that_name_and_of_the_same_picture(gallery):
    found = texts(protocol.build_queries(gallery), QueryKind.NAME)
    assert found["Acme Navy Shirt"] == {"10", "11", "12"}, "11 by name, 12 by picture"
    assert found["Other Shirt"] == {"10", "12"}
    assert found["Red Shirt"] == {"13"}
    assert "" not in found
    assert "Acme navy shirt" not in found, "one query a name, however it is written"


def test_ids_have_no_space_differ_and_name_the_kind(gallery):
    ids = [query.query_id for query in protocol.build_queries(gallery)]
    assert len(set(ids)) == len(ids)
    assert not any(character.isspace() for query_id in ids for character in query_id)
    assert "specific:Men_Navy_Blue_Shirts" in ids
    assert {"name:Red_Heels", "name:Red%5FHeels"} <= set(ids)


def test_a_query_belongs_to_the_category_of_most_of_its_products(gallery):
    categories = {query.text: query.category for query in protocol.build_queries(gallery)}
    assert categories["Men Navy Blue Shirts"] == "Topwear"
    assert categories["Red Heels"] == "Shoes"
    of = {"1": "B", "2": "A", "3": "", "4": ""}
    assert protocol.majority_category(of, ["1", "2", "3", "4"]) == "A", "ties by name; unknown ones do not count"
    assert protocol.majority_category(of, ["3"]) == "uncategorised"


def test_without_subcategories_the_article_type_is_the_category(without):
    categories = {query.category for query in protocol.build_queries(without("sub_category"))}
    assert categories == {"Shirts", "Heels"}


def test_a_catalog_uses_the_attributes_it_has(without):
    assert set(texts(protocol.build_queries(without("gender")), QueryKind.SPECIFIC)) == {
        "Navy Blue Shirts",
        "Red Heels",
    }
    assert set(texts(protocol.build_queries(without("base_colour")), QueryKind.SPECIFIC)) == {
        "Men Shirts",
        "Women Heels",
    }


def test_the_headline_is_specific_else_type_else_name(without, gallery):
    assert protocol.headline_kind(protocol.build_queries(gallery)) is QueryKind.SPECIFIC
    plain = protocol.build_queries(without("gender", "base_colour"))
    assert protocol.headline_kind(plain) is QueryKind.TYPE
    names = protocol.build_queries(without("gender", "base_colour", "article_type"))
    assert protocol.headline_kind(names) is QueryKind.NAME
    assert protocol.headline_kind([]) is QueryKind.SPECIFIC


def test_a_catalog_of_ids_alone_has_no_query(without):
    nothing = without(*set(Products.column_names()) - {"product_id"})
    assert protocol.build_queries(nothing) == ()


VALUES = st.sampled_from(["", "Men", "Red", "red ", "Shoe", "Casual Shoes", "a_b", "a b", "%"])


@given(st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), max_size=40), st.randoms())
def test_queries_are_sound_for_any_gallery_and_any_order_of_rows(rows, chance):
    products = [
        Product(f"p{number:03d}", name, "", gender=gender, base_colour=colour, article_type=kind)
        for number, (gender, colour, kind, name) in enumerate(rows)
    ]
    queries = protocol.build_queries(Products.from_rows(products))
    least = {QueryKind.SPECIFIC: 3, QueryKind.TYPE: 5, QueryKind.NAME: 1}
    assert all(len(query.relevant) >= least[query.kind] for query in queries)
    assert all(query.category and query.text for query in queries)
    assert len({query.query_id for query in queries}) == len(queries)
    chance.shuffle(products)
    assert protocol.build_queries(Products.from_rows(products)) == queries


def test_a_gallery_is_all_that_counts(gallery):
    """Products outside of it are neither relevant nor counted."""
    part = gallery.take(np.arange(2, len(gallery)))
    assert "Men Navy Blue Shirts" not in texts(protocol.build_queries(part), QueryKind.SPECIFIC)
