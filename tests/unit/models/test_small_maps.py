import copy

import pytest
import torch
from torch import Tensor, nn

from enclip.models import small_maps
from enclip.models.bases import load_base
from enclip.models.small_maps import quicken

from .small_models import CPU


def pair(channels: int = 512, stride: int = 1, *, bias: bool = False) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A convolution as torch has it, and the same one quickened."""
    plain = nn.Conv2d(16, channels, 3, stride, 1, bias=bias)
    quick = copy.deepcopy(plain)
    quicken(nn.Sequential(quick))
    return plain, quick


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 2), (5, 4), (3, 3), (12, 9)])
def test_output_and_gradients_are_those_of_the_convolution(shape: tuple[int, int], stride: int, bias: bool):
    plain, quick = pair(stride=stride, bias=bias)
    assert type(quick) is not nn.Conv2d
    found: list[list[Tensor]] = []
    image_BCHW = torch.rand(3, 16, *shape)
    for conv in (plain, quick):
        taken = image_BCHW.clone().requires_grad_()
        out = conv(taken)
        out.square().mean().backward()
        found.append([out.detach(), taken.grad, *(parameter.grad for parameter in conv.parameters())])
    for expected, other in zip(*found, strict=True):
        torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-6)


def test_only_small_maps_of_many_channels_are_multiplied(monkeypatch: pytest.MonkeyPatch):
    few, _ = pair(channels=256)
    assert type(few) is nn.Conv2d
    _, quick = pair()
    convolved: list[tuple[int, ...]] = []
    plain = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: convolved.append(tuple(x.shape[-2:])) or plain(self, x))
    quick(torch.rand(1, 16, 3, 3))
    assert convolved == []
    quick(torch.rand(1, 16, 4, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quick(torch.rand(1, 16, 3, 3))
    assert convolved == [(4, 3), (3, 3)], "in bfloat16 the convolution is the quicker one"


def test_the_last_convolutions_of_tiny_are_such():
    trunk = load_base("tiny", seed=0, device=CPU).module.visual.trunk
    quick = [name for name, part in trunk.named_modules() if isinstance(part, small_maps._SmallMapConv2d)]
    assert quick == ["layer4.0.conv1", "layer4.0.conv2"]
