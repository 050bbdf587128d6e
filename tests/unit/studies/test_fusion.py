from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from enclip.models.checkpoint import load_checkpoint, save_checkpoint
from enclip.pipeline.platform import Platform
from enclip.recipes import TrainRecipe
from enclip.studies.definition import Setting
from enclip.studies.fusion import averageable, greedy_soup
from enclip.studies.lab import Epoch, Lab, Training
from enclip.studies.material import Material
from tests.unit.models.small_models import CPU, SIDE, small_clip

from .conftest import Ran


def parameters(epoch: Epoch) -> dict[str, torch.Tensor]:
    """Without BatchNorm's statistics, which a soup estimates anew."""
    return dict(load_checkpoint(epoch.folder, device=CPU).module.named_parameters())


@pytest.fixture(scope="module")
def pretrained(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    base = tmp_path_factory.mktemp("pretrained")
    save_checkpoint(base, replace(small_clip(), from_scratch=False), pixel_side=SIDE)
    return setting.model_copy(update={"base": f"local-dir:{base}"})


def test_the_ends_of_an_interpolation_are_base_and_tuned_epoch(platform: Platform, setting: Setting) -> None:
    lab = Lab(platform)
    base, _, tuned = lab.train(setting.instance(0, 0))
    ends, middle = (parameters(base), parameters(tuned)), lab.soup([base, tuned], [0.5, 0.5])
    for weights, expected in zip(([1.0, 0.0], [0.0, 1.0]), ends, strict=True):
        torch.testing.assert_close(parameters(lab.soup([base, tuned], weights)), expected, rtol=0, atol=0)
    for name, value in parameters(middle).items():
        torch.testing.assert_close(value, (ends[0][name] + ends[1][name]) / 2)
    assert middle.folder == tuned.folder.with_name("soup-of-00x0.5-02x0.5")


def test_a_soup_is_made_once_and_judged_as_an_epoch_is(platform: Platform, setting: Setting) -> None:
    lab = Lab(platform)
    base, first, last = lab.train(setting.instance(0, 0))
    other = lab.train(setting.instance(0, 1))[-1]
    soup = lab.soup([other, first, last])
    assert soup.folder.name == f"soup-of-{other.folder.parent.name[:8]}.02-01-02"
    written = (soup.folder / "weights.safetensors").stat().st_mtime_ns
    assert lab.soup([other, first, last]) == soup
    assert (soup.folder / "weights.safetensors").stat().st_mtime_ns == written
    select = lab.fold(0).select
    model = load_checkpoint(soup.folder, device=CPU)
    assert soup.quality == pytest.approx(select.quality(select.scores(model, lab.pixels(model))))
    (soup.folder / "figures.json").unlink()  # cut off before its figures were written
    assert lab.soup([other, first, last]) == soup
    assert base.quality != soup.quality


def test_a_greedy_soup_adds_what_does_not_harm_from_the_best_down() -> None:
    epochs = [_epoch(number, quality) for number, quality in enumerate([0.3, 0.5, 0.4, 0.45], 1)]
    # Of 2 (0.5): with 4 it falls; with 3 it stays, which is enough; with 3 and 1 it rises.
    found = {(2, 4): 0.49, (2, 3): 0.5, (1, 2, 3): 0.52}
    tried = []

    def average(parts: Sequence[Epoch]) -> Epoch:
        tried.append(tuple(epoch.epoch for epoch in parts))
        return _epoch(99, found[tried[-1]])

    soup, taken = greedy_soup(epochs, average)
    assert tried == [(2, 4), (2, 3), (1, 2, 3)]
    assert soup.quality == 0.52 and [epoch.epoch for epoch in taken] == [1, 2, 3]
    assert greedy_soup(epochs[:1], average) == (epochs[0], [epochs[0]]), "an epoch alone is left as it is"


def test_a_greedy_soup_is_never_below_its_best_epoch_on_select(platform: Platform, setting: Setting) -> None:
    lab = Lab(platform)
    epochs = [epoch for number in range(2) for epoch in lab.train(setting.instance(0, number))[1:]]
    best = max(epochs, key=lambda epoch: epoch.quality)
    soup, taken = greedy_soup(epochs, lab.soup)
    assert best in taken and soup.quality >= best.quality
    for name, value in parameters(soup).items():
        torch.testing.assert_close(value, sum(parameters(epoch)[name] for epoch in taken) / len(taken))


def test_epochs_are_averageable_where_they_started_alike(tmp_path: Path) -> None:
    epochs = []
    for number, seed in enumerate([0, 1, 0]):
        save_checkpoint(tmp_path / str(number), small_clip(seed), pixel_side=SIDE)
        epochs.append(replace(_epoch(number, 0.1), folder=tmp_path / str(number)))
    assert averageable(epochs) == [[epochs[0], epochs[2]], [epochs[1]]]


def test_wise_ft_is_for_pretrained_bases_and_chooses_on_select(
    ran: Callable[[str], Ran], run: Callable[..., Ran], platform: Platform, pretrained: Setting, tmp_path: Path
) -> None:
    assert not [system for system in ran("fusion").document["systems"] if "WiSE" in system]
    done = run("fusion", tmp_path, setting=pretrained)
    material = Material(Lab(platform), pretrained, 0)
    tuned = material.best_epoch
    base = material.lab.train(tuned.training)[0]
    line = {0.0: base, 1.0: tuned}
    line |= {alpha: material.lab.soup([base, tuned], [1 - alpha, alpha]) for alpha in (0.25, 0.5, 0.75)}
    fact, per_query = done.document["facts"]["0"]["WiSE-FT"], done.per_query.set_index("query_id").sort_index()
    assert fact["its mAP@10 on select"] == max(epoch.quality for epoch in line.values()) == line[fact["α"]].quality
    by_id = np.array([query.query_id for query in material.world.gate.queries]).argsort()
    shown = {f"WiSE-FT, α = {alpha}": line[alpha] for alpha in (0.25, 0.5, 0.75)}
    for system, epoch in {**shown, "WiSE-FT, α chosen on select": line[fact["α"]]}.items():
        np.testing.assert_allclose(per_query[system], material.ap(material.scores(epoch))[by_id], atol=1e-6)


def _epoch(number: int, quality: float) -> Epoch:
    training = Training(recipe=TrainRecipe())
    return Epoch(training, number, Path(f"epoch-{number:02d}"), quality, {}, 0.0)
