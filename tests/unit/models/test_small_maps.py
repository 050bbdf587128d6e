import copy

import pytest
import torch
from torch import Tensor, nn

from enclip.models import small_maps
from enclip.models.bases import load_base
from enclip.models.small_maps import mend

from .small_models import CPU


def pair(channels: int = 512, stride: int = 1, *, bias: bool = False) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A convolution as torch has it, and the same one mended."""
    plain = nn.Conv2d(16, channels, 3, stride, 1, bias=bias)
    quick = copy.deepcopy(plain)
    mend(nn.Sequential(quick))
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
    assert not isinstance(few, small_maps._SmallMapConv2d)
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


@pytest.mark.parametrize("channels", [256, 512])
@pytest.mark.parametrize(("kernel", "shape"), [(3, (5, 1)), (3, (1, 1)), (7, (2, 2)), (7, (1, 5))])
def test_gradients_over_thin_maps_are_right_in_mixed_precision(kernel: int, shape: tuple[int, int], channels: int):
    """On CPUs with bfloat16 alone can this fail: oneDNN's own are wrong by a few percent to 1e38."""
    torch.manual_seed(0)
    plain = nn.Conv2d(256, channels, kernel, 2, kernel // 2, bias=False).to(memory_format=torch.channels_last)
    mended = copy.deepcopy(plain)
    mend(nn.Sequential(mended))
    for _ in range(4):
        image_BCHW = torch.randn(16, 256, *shape).to(memory_format=torch.channels_last)
        exact = copy.deepcopy(plain).double()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = mended(image_BCHW)
        above = torch.randn_like(out)
        mended.weight.grad = None
        out.backward(above)
        exact(image_BCHW.double()).backward(above.double())
        assert mended.weight.grad is not None and exact.weight.grad is not None
        error = (mended.weight.grad.double() - exact.weight.grad).abs().max() / exact.weight.grad.abs().max()
        assert error < 0.03


def test_the_last_convolutions_of_tiny_are_such():
    trunk = load_base("tiny", seed=0, device=CPU).module.visual.trunk
    quick = [name for name, part in trunk.named_modules() if isinstance(part, small_maps._SmallMapConv2d)]
    assert quick == ["layer4.0.conv1", "layer4.0.conv2"]
