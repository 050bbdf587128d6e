import numpy as np
import pytest
import torch

from enclip.models.loss import target
from enclip.models.mixing import Mixture, is_mixed, mix, mixed

PARTNERS = torch.tensor([2, 0, 1])  # of three products


def test_a_caption_is_as_true_of_a_picture_as_its_products_have_a_share_in_it():
    """Products 0 and 1 are of one type; the captions are their type, and product 2's."""
    true = target(torch.tensor([[5], [5], [7]]), torch.tensor([0, 0, 0]), torch.tensor([5, 5, 7]))
    found = mixed(true, Mixture(PARTNERS, torch.full((3,), 0.75)))
    by_hand = [
        [0.75, 0.75, 0.25],  # a quarter of product 2
        [1.0, 1.0, 0.0],  # made of two products of the same type
        [0.25, 0.25, 0.75],
    ]
    torch.testing.assert_close(found, torch.tensor(by_hand))


def test_what_was_not_mixed_has_its_own_targets():
    true = torch.eye(3)
    assert mixed(true, None) is true
    assert torch.equal(mixed(true, Mixture(PARTNERS, torch.ones(3))), true)


def test_pictures_are_made_of_their_partners_as_the_mixture_says():
    """Each picture is all of one value, so that its mean tells the shares."""
    values = torch.tensor([0.0, 1.0, 10.0, 100.0])
    images = values.view(4, 1, 1, 1).expand(4, 3, 20, 20).contiguous(memory_format=torch.channels_last)
    ways = {"mixup": 0, "cutmix": 0}
    for seed in range(40):
        found, mixture = mix(images, 1.0, np.random.default_rng(seed))
        assert sorted(mixture.partner_B.tolist()) == [0, 1, 2, 3]
        assert len(mixture.share_B.unique()) == 1 and 0 <= float(mixture.share_B[0]) <= 1
        expected = mixture.share_B * values + (1 - mixture.share_B) * values[mixture.partner_B]
        torch.testing.assert_close(found.mean(dim=(1, 2, 3)), expected, rtol=1e-4, atol=1e-4)
        original = torch.isin(found, values)
        ways["cutmix" if original.all() else "mixup"] += 1
        if original.all():
            box = (found != images).any(dim=0)[0]
            rows, columns = box.any(dim=1).nonzero(), box.any(dim=0).nonzero()
            assert int(box.sum()) == len(rows) * len(columns), "one box, with no hole in it"
        assert torch.equal(images, values.view(4, 1, 1, 1).expand(4, 3, 20, 20)), "what it is given stays"
    assert min(ways.values()) >= 10


def test_as_many_batches_are_mixed_as_asked():
    images, random = torch.rand(4, 3, 8, 8), np.random.default_rng(0)
    found = [mix(images, 0.3, random) for _ in range(500)]
    plain = [image is images for image, _ in found]
    assert 1 - np.mean(plain) == pytest.approx(0.3, abs=0.06)
    for (_, mixture), is_plain in zip(found, plain, strict=True):
        assert is_plain <= bool((mixture.share_B == 1).all() and (mixture.partner_B == torch.arange(4)).all())
    assert all(mix(images, 0.0, random)[0] is images for _ in range(20))


def test_the_last_epochs_are_not_mixed():
    assert [epoch for epoch in range(1, 21) if not is_mixed(epoch, 20)] == [18, 19, 20]
    assert [is_mixed(epoch, 2) for epoch in (1, 2)] == [True, False]
