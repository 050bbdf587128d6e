import math

import numpy as np
import torch
from numpy.typing import NDArray

from enclip.models.architecture import Preprocessing
from enclip.models.pixels import Augmentation, augment, compress, normalise, prepare, resize, to_unit

PLAIN = Preprocessing(side=20, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pixels_become_channels_first_in_zero_to_one(pixels: NDArray[np.uint8]):
    images_BCHW = to_unit(torch.from_numpy(pixels))
    np.testing.assert_allclose(images_BCHW.numpy(), pixels.transpose(0, 3, 1, 2) / 255, atol=1e-7)


def test_each_channel_gets_its_mean_and_deviation(pixels: NDArray[np.uint8]):
    preprocessing = Preprocessing(side=20, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images_BCHW = prepare(torch.from_numpy(pixels), preprocessing).numpy()
    expected = (pixels / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(images_BCHW.transpose(0, 2, 3, 1), expected, atol=1e-5)


def test_the_whole_canvas_stays_in_view():
    canvas = torch.full((1, 60, 60, 3), 255, dtype=torch.uint8)
    canvas[:, 0, :] = canvas[:, -1, :] = canvas[:, :, 0] = canvas[:, :, -1] = 0
    for side in (20, 60, 96):
        image = prepare(canvas, PLAIN.model_copy(update={"side": side}))[0, 0]
        assert image.shape == (side, side)
        middle = float(image[side // 2, side // 2])
        edges = (image[0, side // 2], image[-1, side // 2], image[side // 2, 0], image[side // 2, -1])
        assert all(float(edge) < middle - 0.1 for edge in edges)


UPRIGHT = PLAIN.model_copy(update={"side": 40, "frame": (40, 28)})


def test_a_frame_leaves_out_the_white_beside_upright_pictures() -> None:
    canvas = torch.full((2, 80, 80, 3), 255, dtype=torch.uint8)
    canvas[:, :, 12:68] = torch.randint(0, 256, (2, 80, 56, 3), generator=_generator(), dtype=torch.uint8)
    square = prepare(canvas, UPRIGHT.model_copy(update={"frame": None}))
    assert torch.equal(prepare(canvas, UPRIGHT), square[:, :, :, 6:34])


def test_a_broad_picture_is_made_smaller_until_all_of_it_lies_in_the_frame() -> None:
    upright = torch.full((1, 40, 40, 3), 255, dtype=torch.uint8)
    upright[:, :, 8:32] = 90
    broad = upright.transpose(1, 2).clone()
    broad[:, 20, 0] = broad[:, 20, -1] = 0  # its ends
    images = prepare(torch.cat([upright, broad]), UPRIGHT)
    assert images.shape == (2, 3, 40, 28)
    assert torch.equal(images[:1], prepare(upright, UPRIGHT)), "others are as they were"
    assert float(images[1, :, 20, 0].max()) < 0.9 and float(images[1, :, 20, -1].max()) < 0.9
    assert float(images[1, :, :6].min()) == 1 and float(images[1, :, -6:].min()) == 1


def test_a_frame_may_be_flat_too() -> None:
    flat = PLAIN.model_copy(update={"side": 40, "frame": (20, 40)})
    tall = torch.full((1, 40, 40, 3), 255, dtype=torch.uint8)
    tall[:, :, 15:25] = 0
    image = prepare(tall, flat)[0, 0]
    assert image.shape == (20, 40) and float(image[0].min()) < 0.1 and float(image[-1].min()) < 0.1


def test_pictures_of_any_shape_are_varied_alike() -> None:
    images_BCHW = torch.rand(32, 3, 44, 30, generator=_generator())
    varied = augment(images_BCHW, Augmentation(low_quality=1.0), _generator(1))
    assert varied.shape == images_BCHW.shape and not torch.equal(varied, images_BCHW)
    assert float(varied.min()) >= 0 and float(varied.max()) <= 1


def test_reducing_averages_instead_of_skipping():
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1
    reduced = resize(stripes, 16)
    assert float((reduced[..., 2:-2] - 0.5).abs().max()) < 0.05


def test_bicubic_does_not_leave_the_range():
    edge = torch.zeros(1, 3, 16, 16)
    edge[..., 8:] = 1
    enlarged = resize(edge, 50, "bicubic")
    assert float(enlarged.min()) >= 0
    assert float(enlarged.max()) <= 1


def test_augmentation_follows_its_generator(pixels: NDArray[np.uint8]):
    images_BCHW = to_unit(torch.from_numpy(pixels))
    first, again, other = (augment(images_BCHW, Augmentation(), _generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images_BCHW.shape
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1


def test_augmentation_hardly_changes_colour_and_keeps_the_product_in_view():
    canvas = torch.ones(64, 3, 40, 40)
    red = torch.tensor([0.75, 0.15, 0.15]).view(1, 3, 1, 1)
    canvas[:, :, 5:35, 5:35] = red
    varied = augment(canvas, Augmentation(low_quality=0.0), _generator())
    centre = varied[:, :, 15:25, 15:25].mean(dim=(2, 3))
    assert float((centre - red.view(1, 3)).abs().max()) < 0.13
    product = ((varied[:, 0] - varied[:, 1]) > 0.3).float().sum(dim=(1, 2))
    assert float(product.min()) > 0.55 * 30 * 30  # zoomed out at most by a fourth, and never cut away


def test_what_comes_from_outside_the_canvas_is_white():
    black = torch.zeros(32, 3, 40, 40)
    still = Augmentation(low_quality=0.0, brightness=0.0, contrast=0.0, zoom=0.3, shift=0.2)
    varied = augment(black, still, _generator())
    corners = varied[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert float(corners.max()) > 0.99
    assert float(((varied > 0.05) & (varied < 0.95)).float().mean()) < 0.1


def test_flipping_alone_mirrors():
    images_BCHW = torch.rand(16, 3, 24, 24, generator=_generator(3))
    only_flip = Augmentation(low_quality=0, zoom=0, shift=0, rotation=0, brightness=0, contrast=0)
    varied = augment(images_BCHW, only_flip, _generator())
    same = [torch.allclose(a, b, atol=1e-4) for a, b in zip(varied, images_BCHW, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-4) for a, b in zip(varied, images_BCHW, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


def test_the_share_of_poor_pictures_is_the_one_asked_for():
    images_BCHW = torch.rand(400, 3, 80, 80, generator=_generator(3))
    still = Augmentation(low_quality=0.25, flip=0, zoom=0, shift=0, rotation=0, brightness=0, contrast=0)
    varied = augment(images_BCHW, still, _generator())
    changed = ((varied - images_BCHW).abs().amax(dim=(1, 2, 3)) > 0.01).float().mean()
    assert abs(float(changed) - 0.25) < 0.08


def test_compression_is_an_eight_by_eight_cosine_transform():
    generator = _generator()
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert float((compress(flat, 1.0) - flat).abs().max()) < 0.03  # a flat block has one coefficient
    position = (2 * torch.arange(16) + 1) * math.pi / 16
    fine, coarse = (0.5 + 0.06 * torch.cos(position * frequency).expand(1, 3, 16, 16) for frequency in (7, 1))
    assert float(compress(fine, 1.0).std()) < 1e-6  # the highest frequency goes first
    assert float(compress(coarse, 1.0).std()) > 0.5 * float(coarse.std())
    odd = torch.rand(2, 3, 21, 21, generator=generator)
    weak, strong = compress(odd, 0.0), compress(odd, 1.0)
    assert weak.shape == odd.shape
    assert float((weak - odd).square().mean()) < float((strong - odd).square().mean())


def test_normalise_resizes_only_where_it_must():
    images_BCHW = torch.rand(2, 3, 20, 20)
    assert torch.equal(normalise(images_BCHW, PLAIN), images_BCHW)
