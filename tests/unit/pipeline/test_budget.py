"""What serving may cost: sums by hand, and a real tower on a real clock."""

import pytest

from enclip.errors import ConfigError
from enclip.pipeline.budget import Budget, Cost, Price
from enclip.recipes import ReleaseRecipe
from tests.unit.models.small_models import small_clip

TWO = [Price(dim=128, text_ms=3.0), Price(dim=96, text_ms=5.0)]


def budget(**recipe: object) -> Budget:
    return Budget(ReleaseRecipe.model_validate(recipe), num_products=10_000)


def test_memory_is_every_embedding_and_what_is_indexed_of_them() -> None:
    # Half precision of 128 + 96, and single of three quarters of 128.
    assert budget().cost(TWO).memory_mb == round(10_000 * (2 * 224 + 4 * 96) / 1e6, 2)
    assert budget(gallery="name").cost(TWO).memory_mb == round(10_000 * (4 * 224 + 4 * 96) / 1e6, 2)


def test_members_take_their_time_one_after_the_other_unless_a_student_answers() -> None:
    assert budget(student_epochs=0).cost(TWO).text_ms == 8.0
    assert budget().cost(TWO).text_ms == 5.0
    assert budget().cost(TWO[:1]) == Cost(text_ms=3.0, memory_mb=7.68)


@pytest.mark.parametrize(
    "recipe, one, two",
    [
        ({}, True, True),
        ({"max_memory_mb": 8}, True, False),
        ({"max_memory_mb": 9}, True, True),
        ({"max_text_ms": 4, "student_epochs": 0}, True, False),
        ({"max_text_ms": 8, "student_epochs": 0}, True, True),
        ({"max_text_ms": 5}, True, True),
        ({"max_text_ms": 2}, False, False),
    ],
)
def test_what_is_within_it(recipe: dict[str, object], one: bool, two: bool) -> None:
    assert budget(**recipe).allows(TWO[:1]) is one
    assert budget(**recipe).allows(TWO) is two


def test_a_student_is_needed_where_all_towers_take_too_long() -> None:
    assert budget(max_text_ms=5).needs_student(TWO)
    assert not budget(max_text_ms=8).needs_student(TWO)
    assert not budget().needs_student(TWO)


def test_a_base_beyond_the_budget_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"takes 5 ms .* and 5.76 MB for 10000 products.*max_text_ms 4 or"):
        budget(max_text_ms=4).check(TWO[1])
    budget(max_text_ms=5).check(TWO[1])


def test_a_price_is_of_the_tower_that_it_names() -> None:
    model = small_clip()
    price = Price.of(model)
    assert price.dim == model.architecture.dim
    assert 0 < price.text_ms < 10_000
