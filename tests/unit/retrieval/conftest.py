"""A small catalog whose members see it alike: looks with a centre each, and noise of every member's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from enclip.records import Floats, Product, Products

DIMS = (24, 16, 32)
WEIGHTS = (0.5, 0.3, 0.2)
LOOKS = (
    ("Men", "Apparel", "Topwear", "Shirts", "Navy Blue"),
    ("Women", "Apparel", "Topwear", "Tops", "Red"),
    ("Men", "Footwear", "Shoes", "Casual Shoes", "Black"),
    ("Women", "Accessories", "Bags", "Handbags", "Brown"),
    ("Unisex", "Accessories", "Watches", "Watches", "Silver"),
    ("Women", "Apparel", "", "Scarves", "Red"),
)


def unit(vector: np.ndarray) -> Floats:
    """Rows at unit norm, float32."""
    return (vector / np.linalg.norm(vector, axis=-1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Shop:
    """Products with the embeddings of three members, and queries near the centre of each look."""

    products: Products
    blocks: list[Floats]
    queries: list[Floats]
    weights: Sequence[float] = WEIGHTS
    dims: Sequence[int] = DIMS


def make_shop(num_products: int = 400, *, seed: int = 0, noise: float = 0.6) -> Shop:
    """A shop of so many products."""
    chance = np.random.default_rng(seed)
    rows = [
        Product(
            product_id=f"p{number:05d}",
            name=f"Acme {gender} {colour} {kind} {number}",
            image_sha256=f"{number:064x}",
            gender=gender,
            master_category=master,
            sub_category=sub,
            article_type=kind,
            base_colour=colour,
            price=None if number % 7 == 0 else number % 50 + 0.5,
        )
        for number in range(num_products)
        for gender, master, sub, kind, colour in [LOOKS[number % len(LOOKS)]]
    ]
    look_N = np.arange(num_products) % len(LOOKS)
    centres = [chance.normal(size=(len(LOOKS), dim)) for dim in DIMS]
    blocks = [unit(centre[look_N] + noise * chance.normal(size=(num_products, centre.shape[1]))) for centre in centres]
    queries = [unit(centre + 0.4 * chance.normal(size=centre.shape)) for centre in centres]
    return Shop(Products.from_rows(rows), blocks, queries)


@pytest.fixture(scope="session")
def shop() -> Shop:
    return make_shop()
