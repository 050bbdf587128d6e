"""A moving average of the weights: less noise than the last step's, for the price of a copy."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """A copy, `.module`, that follows the weights and BatchNorm's statistics by `update_parameters` after each step.

    The first update takes the weights over; the decay after the n-th one is `(1 + n) / (10 + n)` at most, so that
    a short training is not an average of its beginning. What is frozen is not copied: the average has the module's own.
    Of low-rank updates the halves are averaged, not their products.
    """

    def follow(averages: Any, values: Any, num_averaged: Tensor | int) -> None:
        """Tensors of one kind; those that count are taken over."""
        done = int(num_averaged)
        pairs = [pair for pair in zip(averages, values, strict=True) if pair[0].data_ptr() != pair[1].data_ptr()]
        if not pairs:
            return
        averages, values = map(list, zip(*pairs, strict=True))
        if averages[0].is_floating_point():
            own = min(decay, (1 + done) / (10 + done))
            torch._foreach_mul_(averages, own)  # not lerp: -inf minus itself, in an attention mask, is not a number
            torch._foreach_add_(averages, values, alpha=1 - own)
        else:
            torch._foreach_copy_(averages, values)

    average = AveragedModel(module, multi_avg_fn=follow, use_buffers=True)
    for copy, value in zip(average.module.parameters(), module.parameters(), strict=True):
        if not value.requires_grad:
            copy.data = value.data
    return average
