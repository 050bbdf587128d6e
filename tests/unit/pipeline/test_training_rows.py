"""Which products a fine-tuning sees, and in batches of which size."""

import numpy as np
import pytest

from enclip.errors import TrainingError
from enclip.pipeline.train import sized, training_rows
from enclip.recipes import TrainRecipe
from enclip.records import Product, Products, Split


def catalog(counts: dict[tuple[str, Split], int]) -> Products:
    rows = [
        Product(product_id=f"{category}-{split}-{i:03d}", name="", image_sha256="", sub_category=category, split=split)
        for (category, split), count in counts.items()
        for i in range(count)
    ]
    return Products.from_rows(rows)


PRODUCTS = catalog(
    {
        ("Shoes", Split.TRAIN): 20,
        ("Shoes", Split.GATE): 5,
        ("Bags", Split.TRAIN): 100,
        ("Bags", Split.SELECT): 5,
        ("Bags", Split.ASIDE): 5,
    }
)


def test_only_the_train_split_is_trained_on() -> None:
    rows = training_rows(PRODUCTS, TrainRecipe())

    assert set(PRODUCTS.split[rows]) == {Split.TRAIN}
    assert len(rows) == 120


def test_a_focus_brings_a_replay_sample_of_the_rest() -> None:
    rows = training_rows(PRODUCTS, TrainRecipe(focus=("Shoes",), replay=0.5))

    categories = PRODUCTS.category[rows]
    assert np.count_nonzero(categories == "Shoes") == 20
    assert np.count_nonzero(categories == "Bags") == 10
    assert set(PRODUCTS.split[rows]) == {Split.TRAIN}


def test_the_replay_sample_is_the_same_for_the_same_seed() -> None:
    recipe = TrainRecipe(focus=("Shoes",), replay=0.5, seed=3)

    assert np.array_equal(training_rows(PRODUCTS, recipe), training_rows(PRODUCTS, recipe))


def test_nothing_to_train_on_is_one_clear_error() -> None:
    with pytest.raises(TrainingError, match="0 products to train on"):
        training_rows(PRODUCTS, TrainRecipe(focus=("Hats",)))


@pytest.mark.parametrize(("num_products", "expected"), [(240, 16), (6_824, 68), (100_000, 128)])
def test_small_catalogs_get_small_batches(num_products: int, expected: int) -> None:
    assert sized(TrainRecipe(), num_products).batch_size == expected


def test_a_batch_size_that_was_asked_for_is_kept() -> None:
    assert sized(TrainRecipe(batch_size=48), 240).batch_size == 48
