import torch
from torch import nn

from enclip.models.ema import moving_average


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))


def _set(net: nn.Module, value: float, *, seen: int) -> None:
    with torch.no_grad():
        net[0].weight.fill_(value)
        net[1].running_mean.fill_(10 * value)
        net[1].num_batches_tracked.fill_(seen)


def test_two_steps_by_hand():
    """The weights and BatchNorm's statistics are averaged alike, what counts is taken over."""
    net = _net()
    average = moving_average(net, 0.1)
    for step, value in enumerate((1.0, 2.0, 4.0), start=1):
        _set(net, value, seen=step)
        average.update_parameters(net)
    second = 0.1 * 1 + 0.9 * 2
    third = 0.1 * second + 0.9 * 4
    torch.testing.assert_close(average.module[0].weight.item(), third)
    torch.testing.assert_close(average.module[1].running_mean.item(), 10 * third)
    assert int(average.module[1].num_batches_tracked) == 3
    assert net[0].weight.item() == 4, "what is trained stays"


def test_the_first_steps_count_less():
    net = _net()
    average = moving_average(net, 0.998)
    for value in (1.0, 2.0, 4.0):
        _set(net, value, seen=1)
        average.update_parameters(net)
    second = 2 / 11 * 1 + 9 / 11 * 2
    third = 3 / 12 * second + 9 / 12 * 4
    torch.testing.assert_close(average.module[0].weight.item(), third)


def test_a_mask_of_infinities_stays_one():
    net = _net()
    net.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    average = moving_average(net, 0.9)
    for _ in range(3):
        average.update_parameters(net)
    assert torch.equal(average.module.mask, net.mask)


def test_before_any_step_it_is_what_it_was_made_of():
    net = _net()
    _set(net, 3.0, seen=1)
    assert moving_average(net, 0.9).module[0].weight.item() == 3
