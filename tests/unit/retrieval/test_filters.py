"""Filters against a comparison row by row."""

import numpy as np
import pytest

from enclip.records import Filters, Product, Products
from enclip.retrieval.filters import FilterIndex, both


def slow_mask(products, filters):
    def matches(values, *columns):
        wanted = {value.strip().casefold() for value in values} - {""}
        return not values or any(column.strip().casefold() in wanted for column in columns)

    return np.array(
        [
            matches(filters.category, product.sub_category, product.article_type, product.master_category)
            and matches(filters.gender, product.gender)
            and matches(filters.colour, product.base_colour)
            and (filters.price_min is None or (product.price is not None and product.price >= filters.price_min))
            and (filters.price_max is None or (product.price is not None and product.price <= filters.price_max))
            for product in products
        ]
    )


@pytest.mark.parametrize(
    "filters",
    [
        Filters(category=("Topwear",)),
        Filters(category=("scarves",)),
        Filters(category=("APPAREL", "Watches")),
        Filters(gender=(" men ",)),
        Filters(colour=("red", "Black")),
        Filters(category=("Apparel",), gender=("Women",), colour=("Red",)),
        Filters(category=("Submarines",)),
        Filters(colour=("",)),
        Filters(price_min=10.5),
        Filters(price_max=10.5),
        Filters(price_min=0),
        Filters(price_min=10.5, price_max=10.5, gender=("Men",)),
        Filters(price_min=1000),
    ],
    ids=str,
)
def test_masks_are_those_of_a_comparison_row_by_row(shop, filters):
    np.testing.assert_array_equal(FilterIndex(shop.products).mask(filters), slow_mask(shop.products, filters))


def test_counts_of_values_are_those_within_the_prices(shop):
    counted = FilterIndex(shop.products).counts(Filters(gender=("Men",), price_min=20), None)
    expected = [p.gender for p in shop.products if p.price is not None and p.price >= 20]
    assert counted["gender"] == {gender: expected.count(gender) for gender in set(expected)}
    assert sum(counted["colour"].values()) == expected.count("Men")


def test_a_count_is_what_choosing_the_value_leaves():
    """ "Accessories" is a subCategory of two and the masterCategory of bags."""
    rows = [("Accessories", "Apparel"), ("Accessories", "Accessories"), *[("Bags", "Accessories")] * 3, ("Shoes", "")]
    index = FilterIndex(
        Products.from_rows(
            [
                Product(f"p{row}", "", f"{row:064x}", sub_category=sub, master_category=master, gender="MW"[row % 2])
                for row, (sub, master) in enumerate(rows)
            ]
        )
    )
    assert index.counts(None, None)["category"] == {"Accessories": 5, "Bags": 3, "Shoes": 1}
    for gender in "MW":
        counted = index.counts(Filters(gender=(gender,)), None)["category"]
        for value, count in counted.items():
            assert count == np.count_nonzero(index.mask(Filters(category=(value,), gender=(gender,))))


def test_nothing_to_filter_is_no_mask(shop):
    index = FilterIndex(shop.products)
    assert index.mask(None) is None
    assert index.mask(Filters()) is None


def test_withdrawn_products_are_masked_and_unknown_ids_ignored(shop):
    index = FilterIndex(shop.products)
    mask = index.without(frozenset({"p00003", "p00007", "not here"}))
    assert np.flatnonzero(~mask).tolist() == [3, 7]
    assert index.without(frozenset({"not here"})) is None
    assert index.without(frozenset()) is None


def test_the_mask_follows_the_withdrawn_set(shop):
    index = FilterIndex(shop.products)
    assert np.flatnonzero(~index.without(frozenset({"p00003"}))).tolist() == [3]
    assert np.flatnonzero(~index.without(frozenset({"p00004"}))).tolist() == [4]
    again = frozenset({"p00004"})
    assert index.without(again) is index.without(frozenset({"p00004"})), "an equal set is not computed again"


def test_both_masks_have_to_pass():
    first, second = np.array([True, True, False]), np.array([True, False, False])
    assert both(None, None) is None
    np.testing.assert_array_equal(both(first, None), first)
    np.testing.assert_array_equal(both(None, second), second)
    np.testing.assert_array_equal(both(first, second), [True, False, False])
