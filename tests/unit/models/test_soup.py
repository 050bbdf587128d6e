from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from enclip.errors import WeightsError
from enclip.models.checkpoint import load_checkpoint, save_checkpoint, state_of
from enclip.models.clip import ClipModel
from enclip.models.device import autocast
from enclip.models.pixels import prepare
from enclip.models.soup import average_checkpoints
from enclip.models.training import TrainingData

from .small_models import CPU, small_clip


def test_parameters_are_the_weighted_mean(tmp_path: Path, shapes: TrainingData):
    folders = _sisters(tmp_path, 3)
    states = [state_of(load_checkpoint(folder, device=CPU).module) for folder in folders]
    soup = average_checkpoints(folders, pixels=shapes.pixels, device=CPU, weights=[2, 1, 1])
    for name, value in soup.module.named_parameters():
        expected = 0.5 * states[0][name] + 0.25 * states[1][name] + 0.25 * states[2][name]
        torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-6)


def test_batch_norm_statistics_are_those_of_the_mean_network(tmp_path: Path, shapes: TrainingData):
    folders = _sisters(tmp_path, 2)
    soup = average_checkpoints(folders, pixels=shapes.pixels, device=CPU)
    first = next(layer for layer in soup.module.modules() if isinstance(layer, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad(), autocast(CPU):
        soup.module.encode_image(prepare(torch.from_numpy(shapes.pixels), soup.architecture.preprocessing))
    hook.remove()
    seen[0] = seen[0].float()
    torch.testing.assert_close(first.running_mean, seen[0].mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(first.running_var, seen[0].var(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert first.momentum == 0.1
    assert not soup.module.training


def test_the_order_of_pictures_changes_its_statistics_little(tmp_path: Path):
    """In the order of their ids whole batches may be of one kind; what differs between batches is variance too."""
    chance = np.random.default_rng(0)
    level_N = np.repeat([20, 120, 220], 256)
    noise = chance.integers(-20, 20, (len(level_N), 16, 16, 3))
    pixels = (level_N[:, None, None, None] + noise).clip(0, 255).astype(np.uint8)
    (folder,) = _sisters(tmp_path, 1)
    found = [
        next(layer for layer in soup.module.modules() if isinstance(layer, nn.BatchNorm2d))
        for soup in (
            average_checkpoints([folder], pixels=pixels[order], device=CPU)
            for order in (np.arange(len(pixels)), chance.permutation(len(pixels)))
        )
    ]
    torch.testing.assert_close(found[0].running_var, found[1].running_var, rtol=0.1, atol=1e-4)


def test_a_soup_of_one_keeps_its_weights(tmp_path: Path, shapes: TrainingData):
    (folder,) = _sisters(tmp_path, 1)
    soup = average_checkpoints([folder], pixels=shapes.pixels, device=CPU)
    original = load_checkpoint(folder, device=CPU)
    for name, value in original.module.named_parameters():
        torch.testing.assert_close(soup.module.get_parameter(name), value)
    assert soup.init_id == original.init_id


def test_different_initialisations_are_one_clear_error(tmp_path: Path, shapes: TrainingData):
    for seed in (0, 1):
        save_checkpoint(tmp_path / str(seed), small_clip(seed), pixel_side=16)
    with pytest.raises(WeightsError, match="cannot be averaged"):
        average_checkpoints([tmp_path / "0", tmp_path / "1"], pixels=shapes.pixels, device=CPU)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_weights_must_match_and_be_positive(tmp_path: Path, shapes: TrainingData, weights: list[float]):
    with pytest.raises(WeightsError):
        average_checkpoints(_sisters(tmp_path, 2), pixels=shapes.pixels, device=CPU, weights=weights)


def _sisters(folder: Path, size: int) -> list[Path]:
    """Checkpoints of one initialisation that have drifted apart."""
    base = small_clip()
    folders = []
    for number in range(size):
        sister = _shaken(base, seed=number)
        save_checkpoint(folder / f"epoch-{number}", sister, pixel_side=16)
        folders.append(folder / f"epoch-{number}")
    return folders


def _shaken(base: ClipModel, *, seed: int) -> ClipModel:
    twin = small_clip()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in twin.module.parameters():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    return replace(twin, init_id=base.init_id)
