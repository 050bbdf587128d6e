"""Convolutions over maps of a few pixels, on CPUs: as one matrix product each, and in float32 where bfloat16 errs.

A network that looks at 80 px ends in maps of 3×3. With 512 channels oneDNN's float32 convolution takes longer over such
maps than gathering each pixel's neighbours and multiplying; with 256 it is the quicker one. The image tower of `tiny`
trains 1.3 times as fast at 64 px and 1.2 times at 80 px on one thread, and hardly faster (1.05) on two threads at 80 px
(`bench/small_maps.py`).

Over maps one pixel wide, which networks end in that look at slender pictures, oneDNN's bfloat16 gradient of a dense
convolution's weights is wrong, by anything up to 1e38 (torch 2.15, AVX-512): each such step is lost, or the training.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_PIXELS = 9  # of the map that comes out
FEWEST_CHANNELS = 512  # of that map


def mend(module: nn.Module) -> None:
    """Let a network's dense convolutions take small maps so, where they meet them; in place."""
    for part in module.modules():
        if type(part) is nn.Conv2d and part.groups == 1 and max(part.kernel_size) > 1:
            part.__class__ = _SmallMapConv2d if _suits(part) else _ThinMapConv2d


def _suits(part: nn.Conv2d) -> bool:
    return (
        part.out_channels >= FEWEST_CHANNELS
        and (part.kernel_size, part.padding, part.dilation) == ((3, 3), (1, 1), (1, 1))
        and part.padding_mode == "zeros"
        and part.stride in ((1, 1), (2, 2))
    )


class _ThinMapConv2d(nn.Conv2d):
    """The same function and parameters, in float32 over maps that are no wider than half of the kernel."""

    def forward(self, input: Tensor) -> Tensor:
        thin = min(input.shape[-2:]) <= max(self.kernel_size) // 2
        if not (thin and input.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


class _SmallMapConv2d(_ThinMapConv2d):
    """The same; over small maps in float32 one matrix product."""

    def forward(self, input: Tensor) -> Tensor:
        step = self.stride[0]
        height, width = (-(-side // step) for side in input.shape[-2:])
        plain = input.dtype != torch.float32 or input.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        if plain or height * width > MOST_PIXELS:
            return super().forward(input)
        padded_BHWC = functional.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        neighbours = [
            padded_BHWC[:, down : down + step * height : step, across : across + step * width : step]
            for down in range(3)
            for across in range(3)
        ]
        patches = torch.cat(neighbours, dim=-1).flatten(0, 2)
        kernel = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        found = patches @ kernel if self.bias is None else torch.addmm(self.bias, patches, kernel)
        return found.view(len(input), height, width, -1).permute(0, 3, 1, 2)
