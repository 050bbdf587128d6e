from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from enclip.models.checkpoint import load_checkpoint, read_card, save_checkpoint
from enclip.models.schedule import learning_rate
from enclip.pipeline.platform import Platform
from enclip.recipes import TrainRecipe
from enclip.records import Split
from enclip.studies.definition import Setting
from enclip.studies.fusion import averageable
from enclip.studies.lab import Epoch, Lab, Training, Trunk, digest
from enclip.studies.material import Material
from enclip.studies.members import BRANCHED_SMALLER, RESIZED, branch, disagreement, snapshots, ways_of
from tests.unit.models.small_models import CPU, SIDE, TRANSFORMER, small_clip

from .conftest import Ran


def test_trainings_keep_the_names_that_they_were_cached_under() -> None:
    plain = Setting().instance(0, 0)
    assert digest(plain) == "a07e61af9b0b65572b21"
    assert digest(plain.varied(instances=3, device="cpu")) == digest(plain)
    from_trunk = plain.model_copy(update={"trunk": Trunk(training=plain, epoch=24)})
    assert digest(from_trunk) == "4f39cdbf449ab4f88791"
    others = [
        from_trunk.varied(seed=1),
        plain.varied(image_side=64),
        plain.model_copy(update={"trunk": Trunk(training=plain, epoch=23)}),
        plain.model_copy(update={"trunk": Trunk(training=plain.varied(seed=1), epoch=24)}),
    ]
    assert len({digest(training) for training in (plain, from_trunk, *others)}) == 6


def test_every_way_has_the_same_number_of_epochs(platform: Platform, setting: Setting) -> None:
    told: list[str] = []
    fold = 3  # in which no other test trains
    material = Material(Lab(platform, tell=told.append), setting.model_copy(update={"epochs": 4}), fold)
    ways, left_out = ways_of(material)
    assert {name: len(way.trained) for name, way in ways.items()} == dict.fromkeys(ways, 4)
    assert len(ways) == 8 and left_out == {}
    assert [len(way.parts) for way in ways.values()] == [2, 2, 2, 2, 3, 2, 2, 2]
    assert [len(way.members) for way in ways.values()] == [2, 2, 2, 2, 3, 2, 2, 2]
    assert sum(" epoch 0:" in line for line in told) == 10, "ways share what they have in common"
    assert sum("after 2 of seed 300" in line and " epoch 1:" in line for line in told) == 4


def test_branches_go_on_from_their_trunk_and_may_be_averaged(platform: Platform, setting: Setting) -> None:
    lab = Lab(platform)
    base, trunk, last = lab.train(setting.instance(0, 0))
    wanted = [branch(trunk, epochs=1, seed=seed) for seed in (1, 2)]
    branches = [lab.train(training) for training in wanted]
    rate = trunk.figures["learning_rate"]
    assert last.figures["learning_rate"] < wanted[0].recipe.learning_rate == rate < 3e-3
    for start, end in branches:
        assert _same(start, trunk) and not _same(end, trunk)
        assert 0 < end.figures["learning_rate"] < rate
        assert read_card(end.folder).init_id == read_card(base.folder).init_id
        assert read_card(end.folder).epochs_trained == 2
    ends = [end for _, end in branches]
    assert not _same(*ends), "branches with other seeds differ"
    soup = lab.soup(ends)
    assert lab.embed(soup).image_ND.shape == lab.embed(trunk).image_ND.shape
    again: list[str] = []
    assert Lab(platform, tell=again.append).train(wanted[0]) == branches[0] and again == []


def test_a_run_on_smaller_pictures_searches_with_the_others(platform: Platform, setting: Setting) -> None:
    lab = Lab(platform)
    whole = setting.instance(0, 0)
    wanted = whole.varied(epochs=1, image_side=24)
    start, end = lab.train(wanted)
    assert read_card(end.folder).architecture.preprocessing.side == 24 and _same(start, lab.train(whole)[0])
    one, other = lab.embed(end), lab.embed(lab.train(whole)[-1])
    assert one.image_ND.shape == other.image_ND.shape
    assert averageable([lab.train(whole)[-1], end]) == [[lab.train(whole)[-1]], [end]]


def test_a_base_that_takes_one_side_alone_is_listed_with_the_reason(
    run: Callable[..., Ran], setting: Setting, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "base", small_clip(architecture=TRANSFORMER), pixel_side=SIDE)
    done = run("members", tmp_path, setting=setting.model_copy(update={"base": f"local-dir:{tmp_path / 'base'}"}))
    facts = done.document["facts"]["0"]
    for way in (RESIZED, BRANCHED_SMALLER):
        assert "cannot take 24 px" in facts[way]["left out, because"]
        assert not [system for system in done.document["systems"] if way in system]
    assert len(facts) == 8


def test_members_disagree_by_what_their_first_ten_do_not_share(platform: Platform, setting: Setting) -> None:
    material = Material(Lab(platform), setting, 0)
    ours, theirs = material.instances
    assert disagreement(material, [[ours[0]], [ours[0]]]) == 0
    assert disagreement(material, [ours]) == 0, "one part has nothing to disagree with"
    pairs = list(product(ours, theirs))
    by_hand = [_not_shared(material.scores(one), material.scores(other)) for one, other in pairs]
    assert disagreement(material, [ours, theirs]) == pytest.approx(np.mean(by_hand)) and np.mean(by_hand) > 0
    assert int(np.sum(material.allowed(Split.GATE))) > 10


@pytest.mark.parametrize(("epochs", "expected"), [(48, [19, 33, 48]), (2, [1, 2]), (1, [1])])
def test_snapshots_are_taken_where_the_rate_is_lowest(epochs: int, expected: list[int]) -> None:
    recipe = TrainRecipe(epochs=epochs, schedule="cyclic", cycles=min(3, epochs))
    trained = [
        Epoch(Training(recipe=recipe), number, Path(f"epoch-{number:02d}"), 0.0, {}, 0.0)
        for number in range(epochs + 1)
    ]
    assert [epoch.epoch for epoch in snapshots(trained)] == expected
    last_step = [learning_rate(recipe, 1.0, step=100 * number - 1, steps=100 * epochs) for number in expected]
    assert max(last_step) < 0.05


def _same(one: Epoch, other: Epoch) -> bool:
    states = [load_checkpoint(epoch.folder, device=CPU).module.state_dict() for epoch in (one, other)]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def _not_shared(one: np.ndarray, other: np.ndarray) -> float:
    tens = [[set(row[:10]) for row in np.argsort(-np.round(scores, 6), kind="stable")] for scores in (one, other)]
    return float(np.mean([1 - len(ours & theirs) / 10 for ours, theirs in zip(*tens, strict=True)]))
