"""Every study runs end to end on a drawn catalog, once from nothing and then from what is cached."""

from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from enclip.cli.study import study as study_command
from enclip.errors import ConfigError
from enclip.pipeline.platform import Platform
from enclip.recipes import ADDED_LATER, TrainRecipe
from enclip.records import Split
from enclip.studies import recipe
from enclip.studies.definition import Setting
from enclip.studies.lab import Lab, Training, best_of
from enclip.studies.material import Material
from enclip.studies.report import ABOUT
from enclip.studies.run import STUDIES, run_study

from .conftest import NOWHERE, Ran


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_writes_what_it_measured(ran: Callable[[str], Ran], setting: Setting, name: str) -> None:
    done = ran(name)
    document, per_query = done.document, done.per_query
    systems = [column for column in per_query.columns if column not in ABOUT]
    assert list(document["systems"]) == systems and document["compared_with"] == systems[0]
    assert document["folds"] == [0] and document["setting"]["epochs"] == setting.epochs
    assert per_query[systems].notna().all(axis=None) and per_query[systems].stack().between(0, 1).all()
    for system in systems:
        for kind, part in per_query.groupby("kind"):
            assert document["systems"][system][kind] == pytest.approx(part[system].mean(), abs=1e-6)
            if system != systems[0]:
                found = document["gains"][system][kind]
                assert found["mean"] == pytest.approx((part[system] - part[systems[0]]).mean(), abs=1e-6)
    for key, (ours, theirs) in STUDIES[name].headlines.items():
        found = document[key]
        specific = per_query[per_query["kind"] == "specific"]
        assert set(found) == {"mean", "low", "high", "seeds"} and found["seeds"] == 1
        assert found["low"] <= found["mean"] <= found["high"]
        assert found["mean"] == pytest.approx((specific[ours] - specific[theirs]).mean(), abs=1e-6)
    text = (done.folder / f"{name}.md").read_text()
    assert all(f"| {system} |" in text for system in systems) and document["question"] in text
    with Image.open(done.folder / f"{name}.png") as picture:
        assert picture.width > 300


@pytest.mark.parametrize("name", ["size", "low-quality", "little-data", "bases"])
def test_a_second_run_trains_nothing_and_finds_the_same(
    ran: Callable[[str], Ran], run: Callable[..., Ran], tmp_path: Path, name: str
) -> None:
    first, again = ran(name), run(name, tmp_path)
    assert again.trained == []
    pd.testing.assert_frame_equal(again.per_query, first.per_query)


def test_folds_are_added_one_at_a_time_and_another_setting_starts_anew(
    ran: Callable[[str], Ran], run: Callable[..., Ran], setting: Setting, tmp_path: Path
) -> None:
    first = ran("size").per_query
    run("size", tmp_path)
    assert "Folds 1 have not been run yet" in (tmp_path / "size.md").read_text()
    both = run("size", tmp_path, folds=(1,))
    assert both.document["folds"] == [0, 1] and len(both.trained) == 2 * (setting.epochs + 1)
    # Greedy selection may stop at other sizes in fold 1, so that it has other systems.
    kept = both.per_query.query("fold == 0").reset_index(drop=True)
    pd.testing.assert_frame_equal(kept[first.columns], first)
    assert next(iter(both.document["gains"].values()))["specific"]["seeds"] == 2
    assert "have not been run yet" not in (tmp_path / "size.md").read_text()
    other = run("size", tmp_path, setting=setting.model_copy(update={"offered": 1}))
    assert other.document["folds"] == [0] and other.trained == []


def test_a_training_that_was_cut_off_goes_on(platform: Platform, setting: Setting) -> None:
    wanted = setting.instance(0, 7)  # no study's

    def cut(line: str) -> None:
        if "epoch 1" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Lab(platform, tell=cut).train(wanted)
    (first,) = platform.scratch.glob("studies/*/*/state.pt")
    written = first.with_name("epoch-01") / "weights.safetensors"
    before = written.stat().st_mtime_ns
    epochs = Lab(platform, tell=lambda line: None).train(wanted)
    assert [epoch.epoch for epoch in epochs] == [0, 1, 2]
    assert written.stat().st_mtime_ns == before, "what was trained stays"
    assert not first.exists() and first.with_name("epochs.json").is_file()
    told: list[str] = []
    assert Lab(platform, tell=told.append).train(wanted) == epochs and told == []


def test_there_is_one_error_for_an_unknown_study(platform: Platform, setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no study 'ensembles'\. Choose one of: ensemble, clusters"):
        run_study(platform, "ensembles", setting, folds=(0,), folder=tmp_path / "none", tell=print)
    assert not (tmp_path / "none").exists()


def test_help_names_every_study() -> None:
    (about,) = get_type_hints(study_command, include_extras=True)["name"].__metadata__
    assert all(name in about.help for name in STUDIES)


def test_pictures_as_they_are_are_the_release_as_it_is(ran: Callable[[str], Ran]) -> None:
    poor, release = ran("low-quality"), ran("clusters").per_query["as chosen on select"]
    np.testing.assert_array_equal(poor.per_query["release, as they are"], release)
    facts = poor.document["facts"]["0"]
    assert len(facts) == 17 and set(facts["as they are"].values()) == {1.0}
    assert not np.array_equal(poor.per_query["release, 8 px"], release)


def test_changed_pictures_are_embedded_once_per_change(platform: Platform, setting: Setting) -> None:
    lab = Lab(platform)
    epoch, calls = best_of(lab.train(setting.instance(0, 0))), []

    def same(pixels: np.ndarray) -> np.ndarray:
        calls.append(len(pixels))
        return pixels

    found = lab.embed_changed(epoch, Split.GATE, same, name="same")
    np.testing.assert_allclose(found, lab.fold(0).of(Split.GATE, lab.embed(epoch))[1], atol=2e-3)
    np.testing.assert_array_equal(lab.embed_changed(epoch, Split.GATE, same, name="same"), found)
    assert calls == [len(found)]


def test_shares_of_the_train_split_grow_and_the_whole_is_instance_0(
    ran: Callable[[str], Ran], platform: Platform, setting: Setting
) -> None:
    done = ran("little-data")
    facts = done.document["facts"]["0"]
    assert list(facts) == [f"{share}% of train" for share in (100, 50, 25, 10, 5)]
    products = [row["products"] for row in facts.values()]
    whole = int(np.sum(Lab(platform).fold(0).products.split == Split.TRAIN))
    assert products == [max(2, round(share * whole)) for share in (1.0, 0.5, 0.25, 0.1, 0.05)]
    material = Material(Lab(platform), setting, 0)
    best = best_of(material.lab.train(setting.instance(0, 0)))
    by_id = np.array([query.query_id for query in material.world.gate.queries]).argsort()
    found = done.per_query.set_index("query_id").sort_index()["best epoch, 100% of train"]
    np.testing.assert_allclose(found, material.ap(material.scores(best))[by_id], atol=1e-6)


def test_a_base_that_cannot_be_had_is_listed_with_the_reason(ran: Callable[[str], Ran], setting: Setting) -> None:
    document = ran("bases").document
    facts = document["facts"]["0"]
    assert list(document["systems"]) == [
        f"the setting's own base, {system}" for system in ("best epoch", "not fine-tuned", "as a release")
    ]
    assert facts["the setting's own base"]["weights"] == setting.base
    assert facts["nobody's"]["weights"] == NOWHERE
    reasons = [facts[name]["left out, because"] for name in ("nobody's", "unknown")]
    assert "/nowhere/at/all" in reasons[0] and "no base weights 'NoNet:x'" in reasons[1]
    assert not any("\n" in reason for reason in reasons)
    text = (ran("bases").folder / "bases.md").read_text()
    assert all(reason in text for reason in reasons)


def test_trainings_from_before_a_technique_are_found(platform: Platform) -> None:
    """The names of folders were taken before TrainRecipe had these fields."""
    setting, told = Setting(), list[str]()
    lab = Lab(platform, tell=told.append)
    wanted = {
        "a07e61af9b0b65572b21": setting.instance(0, 0),
        "bb123d9e15e5a3dfa8d1": setting.instance(2, 1),
        "b3018192daec8614d98b": setting.little(1, 0.25),
        "a53922a3f0bd181a5449": Training(recipe=TrainRecipe(low_quality=0.6, loss="sigmoid")),
    }
    root = platform.scratch / "studies" / lab.snapshot[:16]
    for name, training in wanted.items():
        (root / name).mkdir(parents=True)
        (root / name / "epochs.json").write_text("[]")
        assert lab.train(training) == []
    assert told == []


def test_each_variant_of_the_recipe_is_trained_and_the_chosen_one_is_selects(ran: Callable[[str], Ran]) -> None:
    done = ran("recipe")
    facts, per_query = done.document["facts"]["0"], done.per_query
    *tried, chosen = facts
    assert tried == list(recipe.variants(from_scratch=True)) and chosen == recipe.CHOSEN
    best = max(tried, key=lambda variant: facts[variant]["its mAP@10 on select"])
    assert facts[chosen] == {**facts[best], "is": best}
    for system in (recipe.BEST, recipe.RELEASE):
        np.testing.assert_array_equal(per_query[recipe.named(system, chosen)], per_query[recipe.named(system, best)])
        others = per_query[[recipe.named(system, variant) for variant in tried]]
        assert len(others.T.drop_duplicates()) > len(tried) / 2, "each was trained in its own way"


def test_a_variant_changes_what_it_names_and_nothing_else(setting: Setting) -> None:
    plain = setting.instance(1, 0)
    tried = recipe.variants(from_scratch=True) | recipe.variants(from_scratch=False)
    assert setting.varied(1, tried[recipe.DEFAULT]) == plain
    for changes in tried.values():
        varied = setting.varied(1, changes)
        before, after = plain.recipe.model_dump(), varied.recipe.model_dump()
        assert {name for name in before if before[name] != after[name]} == set(changes)
        assert (varied.fold, varied.share) == (plain.fold, plain.share)
    used = {name for changes in tried.values() for name in changes}
    assert used >= set(ADDED_LATER), "a technique that no study asks about"


def test_layers_are_told_apart_for_pretrained_bases_alone() -> None:
    from_nothing, pretrained = recipe.variants(from_scratch=True), recipe.variants(from_scratch=False)
    assert not any("layer_decay" in changes for changes in from_nothing.values())
    assert not any("learning_rate" in changes for changes in pretrained.values())
    assert [*pretrained][-1] == "layer decay 0.75" and [*from_nothing][-1] == "learning rate 2e-3"


def test_a_variant_that_a_catalog_cannot_be_trained_with_is_listed_with_the_reason(
    platform: Platform, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = {recipe.DEFAULT: {}, "wild": {"learning_rate": 1e30}}
    monkeypatch.setattr(recipe, "VARIANTS", wild)
    monkeypatch.setattr(recipe, "FROM_NOTHING", {})
    found = recipe.run(Material(Lab(platform), setting, 0))
    assert "became nan" in str(found.facts["wild"]["left out, because"])
    assert not any("wild" in system for system in found.systems) and found.facts[recipe.CHOSEN]["is"] == recipe.DEFAULT
