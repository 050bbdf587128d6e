import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from enclip.models.clip import ClipEncoder, ClipModel, embed_pixels
from enclip.models.pixels import framed, normalise, to_unit
from enclip.models.views import VIEWS, View, views_of
from enclip.recipes import MOST_VIEWS

from .small_models import CPU


def dot(row: int, column: int, side: int = 32) -> torch.Tensor:
    image_BCHW = torch.ones(1, 3, side, side)
    image_BCHW[:, :, row, column] = 0
    return image_BCHW


def place(image_BCHW: torch.Tensor) -> tuple[float, float]:
    """Where the darkness is, as a mean row and column."""
    dark_HW = 1 - image_BCHW[0, 0]
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    return float((rows * dark_HW).sum() / dark_HW.sum()), float((columns * dark_HW).sum() / dark_HW.sum())


def test_the_first_view_is_the_picture_itself_and_no_two_are_the_same():
    assert len(VIEWS) == len(set(VIEWS)) == MOST_VIEWS
    picture = torch.rand(2, 3, 32, 24)
    assert torch.equal(VIEWS[0].of(picture), picture)
    assert all(view.of(picture).shape == picture.shape for view in VIEWS)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (View(mirrored=True), (8, 31 - 4)),
        (View(zoom=1.25), (15.5 - 7.5 * 1.25, 15.5 - 11.5 * 1.25)),
        (View(zoom=0.8, mirrored=True), (15.5 - 7.5 * 0.8, 15.5 + 11.5 * 0.8)),
    ],
)
def test_a_view_mirrors_and_zooms_about_the_middle(view: View, expected: tuple[float, float]):
    assert place(view.of(dot(8, 4))) == pytest.approx(expected, abs=0.5)


def test_what_a_smaller_product_leaves_is_white():
    black = torch.zeros(1, 3, 32, 32)
    seen = View(zoom=0.5).of(black)
    assert seen[0, 0, 0].min() == seen[0, 0, :, 0].min() == 1
    assert seen[0, 0, 16, 16] == 0


def test_an_embedding_is_the_mean_of_its_views(clip: ClipModel, pixels: NDArray[np.uint8]):
    preprocessing = clip.architecture.preprocessing
    images_BCHW = framed(to_unit(torch.from_numpy(pixels)), preprocessing)
    clip.module.eval()
    with torch.no_grad():
        seen = [
            clip.module.encode_image(normalise(view.of(images_BCHW), preprocessing), normalize=True)
            for view in VIEWS[:3]
        ]
    mean_BD = torch.nn.functional.normalize(sum(seen), dim=-1).numpy()
    found = embed_pixels(clip, pixels, CPU, views=3, batch=2)
    np.testing.assert_allclose(found, mean_BD, atol=2**-7)
    np.testing.assert_array_equal(ClipEncoder(clip, batch=2).encode_images(pixels, views=3), found)
    assert np.abs(found - embed_pixels(clip, pixels, CPU)).max() > 1e-3, "they say more than one view"


def test_a_mirrored_picture_has_the_same_embedding_once_both_are_looked_at(clip: ClipModel, pixels: NDArray[np.uint8]):
    mirrored = np.ascontiguousarray(pixels[:, :, ::-1])
    once, twice = (
        np.einsum(
            "nd,nd->n", embed_pixels(clip, pixels, CPU, views=views), embed_pixels(clip, mirrored, CPU, views=views)
        )
        for views in (1, 2)
    )
    np.testing.assert_allclose(twice, 1, atol=1e-3)
    assert once.min() < 1 - 1e-3


def test_all_views_are_taken_of_what_was_trained_from_nothing_and_one_of_pretrained_weights():
    assert (views_of(0, from_scratch=True), views_of(0, from_scratch=False)) == (MOST_VIEWS, 1)
    assert (views_of(1, from_scratch=True), views_of(4, from_scratch=False)) == (1, 4)
