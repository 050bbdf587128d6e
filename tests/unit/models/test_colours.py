"""What a histogram says of drawn pictures."""

import numpy as np
import pytest
from numpy.typing import NDArray

from enclip.models.colours import BLOCK, NUM_COLOURS, colours_of

RED, BLUE, NAVY, WHITE, BLACK = (220, 20, 30), (40, 90, 220), (15, 20, 90), (255, 255, 255), (0, 0, 0)


def picture(colour: tuple[int, int, int], *, ground: tuple[int, int, int] = WHITE, side: int = 64) -> NDArray[np.uint8]:
    """A square of a colour on a ground."""
    made = np.full((side, side, 3), ground, np.uint8)
    made[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = colour
    return made


def cosine(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    first, second = colours_of(np.stack([one, other])).astype(np.float32)
    return float(first @ second)


def test_a_picture_s_colours_are_shares_of_unit_norm() -> None:
    found = colours_of(np.random.default_rng(0).integers(0, 256, (BLOCK + 3, 40, 40, 3), dtype=np.uint8))
    assert found.shape == (BLOCK + 3, NUM_COLOURS) and found.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float32), axis=1), 1, atol=2e-3)


def test_what_is_alike_in_colour_is_near() -> None:
    assert cosine(picture(BLUE), picture(NAVY)) > 0.5 > 0.2 > cosine(picture(BLUE), picture(RED))
    assert cosine(picture(RED), picture((200, 30, 40))) > 0.97


def test_white_ground_is_left_out_and_any_other_is_not() -> None:
    assert cosine(picture(RED), np.full((64, 64, 3), RED, np.uint8)) > 0.99
    assert cosine(picture(RED), picture(RED, ground=BLACK)) < 0.9


def test_a_picture_that_is_white_all_over_is_white() -> None:
    white, black = colours_of(np.stack([np.full((32, 32, 3), value, np.uint8) for value in (255, 0)])).astype(float)
    assert np.isfinite(white).all() and white @ black < 0.01
    assert white.max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("side", [16, 48, 80, 224])
def test_the_side_of_a_canvas_hardly_matters(side: int) -> None:
    found, expected = (colours_of(picture(NAVY, side=one)[None])[0].astype(np.float32) for one in (side, 64))
    assert found @ expected > 0.98
