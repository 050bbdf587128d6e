"""A gallery written by hand, small enough to count on one's fingers."""

import numpy as np
import pytest

from enclip.records import Product, Products

ROWS = (
    # id, gender, master, sub, type, colour, name, picture
    ("10", "Men", "Apparel", "Topwear", "Shirts", "Navy Blue", "Acme Navy Shirt", "a"),
    ("11", "Men", "Apparel", "Topwear", "Shirts", "navy blue", "Acme  navy shirt", "b"),
    ("12", "men ", "Apparel", "Topwear", "Shirts", "Navy Blue", "Other Shirt", "a"),
    ("13", "Men", "Apparel", "Topwear", "Shirts", "Red", "Red Shirt", "c"),
    ("14", "Women", "Apparel", "Topwear", "Shirts", "", "Plain Shirt", "d"),
    ("15", "Women", "Footwear", "Shoes", "Heels", "Red", "Red Heels", "e"),
    ("16", "Women", "Footwear", "Shoes", "Heels", "Red", "", "f"),
    ("17", "Women", "Footwear", "Shoes", "Heels", "Red", "Red_Heels", "g"),
)


def gallery_of(rows) -> Products:
    return Products.from_rows(
        [
            Product(
                product_id=product_id,
                name=name,
                image_sha256=picture,
                gender=gender,
                master_category=master,
                sub_category=sub,
                article_type=kind,
                base_colour=colour,
            )
            for product_id, gender, master, sub, kind, colour, name, picture in rows
        ]
    )


@pytest.fixture(scope="session")
def gallery() -> Products:
    return gallery_of(ROWS)


@pytest.fixture(scope="session")
def without(gallery):
    """The gallery with some columns empty, as in a catalog that does not know them."""

    def blank(*columns: str) -> Products:
        values = {name: getattr(gallery, name) for name in Products.column_names()}
        for column in columns:
            values[column] = np.full(len(gallery), "", dtype=object)
        return Products(**values)

    return blank
