"""Spoilt pictures: worse from level to level, and the same every time."""

import numpy as np
import pytest
from numpy.typing import NDArray

from enclip.studies.degrade import Degradation
from enclip.studies.low_quality import LEVELS, WAYS, named


def pictures(count: int = 3, side: int = 48) -> NDArray[np.uint8]:
    """Soft coloured waves, as far from noise as photographs are."""
    y, x = np.mgrid[:side, :side] / side
    waves = [
        np.stack([np.sin((3 + number) * x + phase) * np.cos((5 + number) * y) for phase in (0, 2, 4)], axis=-1)
        for number in range(count)
    ]
    edges = np.where((x > 0.3) & (x < 0.6), 60, 0)[..., None]
    return np.clip(np.stack(waves) * 90 + 128 - edges, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("way", list(WAYS))
def test_each_level_is_further_from_the_picture_than_the_one_before(way: str) -> None:
    good = pictures()
    errors = []
    for level in WAYS[way]:
        spoilt = Degradation(way, level)(good)
        assert spoilt.shape == good.shape and spoilt.dtype == np.uint8
        errors.append(float(np.abs(spoilt.astype(int) - good).mean()))
    assert errors == sorted(errors) and errors[0] > 0


@pytest.mark.parametrize("way", list(WAYS))
def test_a_picture_is_spoilt_alike_in_any_company(way: str) -> None:
    good, spoil = pictures(), Degradation(way, WAYS[way][-1])
    np.testing.assert_array_equal(spoil(good)[1:], spoil(good[1:]))
    np.testing.assert_array_equal(spoil(good), spoil(good))


@pytest.mark.parametrize("way", list(WAYS))
def test_the_canvas_beside_a_picture_stays_white(way: str) -> None:
    good = pictures(side=40)
    upright = np.pad(good[:, :, 6:34], ((0, 0), (0, 0), (6, 6), (0, 0)), constant_values=255)
    spoilt = Degradation(way, WAYS[way][-1])(upright)
    assert (spoilt[:, :, :6] == 255).all() and (spoilt[:, :, -6:] == 255).all()
    assert not np.array_equal(spoilt[:, :, 6:34], upright[:, :, 6:34])


def test_few_pixels_keep_what_is_broad_and_lose_what_is_fine() -> None:
    flat = np.full((1, 40, 40, 3), 90, np.uint8)
    np.testing.assert_array_equal(Degradation("resolution", 8)(flat), flat)
    stripes = flat.copy()
    stripes[:, :, ::2] = 250
    assert Degradation("resolution", 8)(stripes).std() < 5


def test_a_blur_follows_the_side() -> None:
    """The same picture at twice the side is blurred as far, seen from the same distance."""
    small = pictures(1, side=40)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    halved = Degradation("blur", 4)(large)[:, ::2, ::2].astype(int)
    assert np.abs(halved - Degradation("blur", 4)(small)).mean() < 3


def test_every_way_has_a_panel_of_all_its_levels() -> None:
    assert list(LEVELS) == list(WAYS)
    for way, lines in LEVELS.items():
        for system, points in lines.items():
            assert [label for label, _ in points] == ["as they are", *(Degradation(way, x).label for x in WAYS[way])]
            assert [column for _, column in points] == [named(system, label) for label, _ in points]
    assert Degradation("blur", 2).label == "blur 2 px" and Degradation("noise", 0.05).key == "noise-0.05"
