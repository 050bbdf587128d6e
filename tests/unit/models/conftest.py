"""Fixtures over `small_models`."""

import numpy as np
import pytest
from numpy.typing import NDArray

from enclip.models.clip import ClipModel
from enclip.models.training import TrainingData

from .small_models import draw_shapes, small_clip


@pytest.fixture
def clip() -> ClipModel:
    return small_clip()


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, size=(7, 20, 20, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def shapes() -> TrainingData:
    return draw_shapes(96)
