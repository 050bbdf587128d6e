"""Every study runs end to end on a drawn catalog, once from nothing and then from what is cached."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from enclip.cli.study import study as study_command
from enclip.config import Settings
from enclip.errors import CatalogError, ConfigError
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.platform import Platform, open_platform
from enclip.recipes import ADDED_LATER, TrainRecipe
from enclip.records import Split
from enclip.studies import clusters, heads, recipe
from enclip.studies.ablation import CROSS, EFFECTS
from enclip.studies.definition import Setting
from enclip.studies.lab import Lab, Training, best_of
from enclip.studies.material import Material
from enclip.studies.report import ABOUT
from enclip.studies.run import STUDIES, run_study
from enclip.studies.size import newest_first

from .conftest import NOWHERE, Ran


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_writes_what_it_measured(ran: Callable[[str], Ran], setting: Setting, name: str) -> None:
    done = ran(name)
    document, per_query = done.document, done.per_query
    systems = [column for column in per_query.columns if column not in ABOUT]
    assert list(document["systems"]) == systems and document["compared_with"] == systems[0]
    assert document.get("compared_apart", {}) == STUDIES[name].apart
    assert document["folds"] == [0] and document["setting"]["epochs"] == setting.epochs
    assert per_query[systems].notna().all(axis=None) and per_query[systems].stack().between(0, 1).all()
    for system in systems:
        for kind, part in per_query.groupby("kind"):
            assert document["systems"][system][kind] == pytest.approx(part[system].mean(), abs=1e-6)
            peers = [
                peer
                for mark, peer in STUDIES[name].apart.items()
                if (system.startswith(mark) or system.endswith(mark)) and peer in systems
            ]
            peer = (*peers, systems[0])[0]
            if system != peer:
                found = document["gains"][system][kind]
                assert found["mean"] == pytest.approx((part[system] - part[peer]).mean(), abs=1e-6)
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


@pytest.mark.parametrize("name", ["size", "fusion", "members", "low-quality", "little-data", "bases"])
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
    assert "Not run yet: fold 1" in (tmp_path / "size.md").read_text()
    both = run("size", tmp_path, folds=(1,))
    assert both.document["folds"] == [0, 1] and len(both.trained) == 2 * (setting.epochs + 1)
    # Greedy selection may stop at other sizes in fold 1, so that it has other systems.
    kept = both.per_query.query("fold == 0").reset_index(drop=True)
    pd.testing.assert_frame_equal(kept[first.columns], first)
    assert next(iter(both.document["gains"].values()))["specific"]["seeds"] == 2
    assert "Not run yet" not in (tmp_path / "size.md").read_text()
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


def test_a_catalog_that_asks_nothing_is_refused_before_it_is_trained(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for row in range(40):
        colour = tuple(np.random.default_rng(row).integers(0, 255, 3).tolist())
        Image.new("RGB", (8, 8), colour).save(tmp_path / "images" / f"{row}.png")
    lines = ["id,productDisplayName", *(f"{row},Thing number {row}" for row in range(40))]
    (tmp_path / "styles.csv").write_text("\n".join(lines))
    named_only = open_platform(Settings(ENCLIP_HOME=tmp_path / "home"))
    ingest_source(named_only, str(tmp_path))
    told: list[str] = []
    with pytest.raises(CatalogError, match=r"Fold 0 has no query to ask of its \d+ products in select"):
        run_study(named_only, "ensemble", setting, folds=(0,), folder=tmp_path / "none", tell=told.append, jobs=2)
    assert told == [] and not list(named_only.scratch.glob("studies/*/*"))


def test_a_training_that_another_process_is_at_is_waited_for(platform: Platform, setting: Setting) -> None:
    wanted = setting.instance(0, 8)  # no study's
    told: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda tell: Lab(platform, tell=tell).train(wanted), [told.append] * 2)
    assert one == other and len(told) == 3, "trained once"


def test_instances_may_end_early(platform: Platform, setting: Setting) -> None:
    """With patience; the last epochs of each are then of other numbers."""
    (first, *_), second = Material(Lab(platform), setting, 0).instances
    assert newest_first([[first], second]) == [first, second[-1]]


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
    told = "\n".join(done.trained)
    assert [share for share in (50, 25, 10, 5) if f", {share}% of train" not in told] == [], "lines tell them apart"
    material = Material(Lab(platform), setting, 0)
    best = best_of(material.lab.train(setting.instance(0, 0)))
    by_id = np.array([query.query_id for query in material.world.gate.queries]).argsort()
    found = done.per_query.set_index("query_id").sort_index()["best epoch, 100% of train"]
    np.testing.assert_allclose(found, material.ap(material.scores(best))[by_id], atol=1e-6)


def test_a_release_of_little_data_knows_no_more_than_its_members(
    platform: Platform, ran: Callable[[str], Ran], setting: Setting
) -> None:
    ran("little-data")
    lab = Lab(platform)
    training = setting.little(0, 0.25)
    whole, little = lab.fold(0), lab.world(training)
    assert lab.world(setting.little(0, 1.0)) is whole and lab.world(training) is little
    is_train = np.asarray(little.products.split == Split.TRAIN)
    assert is_train.sum() == max(2, round(0.25 * (whole.products.split == Split.TRAIN).sum()))
    assert set(np.concatenate(little.bank.rows)) == set(np.flatnonzero(is_train))
    judged = np.asarray([split in (Split.SELECT, Split.GATE) for split in whole.products.split])
    np.testing.assert_array_equal(little.products.split[judged], whole.products.split[judged])
    assert len(lab.embed(best_of(lab.train(training))).bank_JD) == len(little.bank.texts) < len(whole.bank.texts)


def test_ensembles_have_every_size_that_there_are_epochs_for(
    ran: Callable[[str], Ran], run: Callable[..., Ran], setting: Setting, tmp_path: Path
) -> None:
    """Two instances of two epochs: four epochs to take, of which one instance has two."""
    systems = list(ran("size").document["systems"])
    uniform = [name for name in systems if "greedy" not in name]
    assert uniform == [
        "1 best epoch",
        "2 last epochs of one instance",
        "2 last epochs over 2 instances",
        "3 last epochs over 2 instances",
        "4 last epochs over 2 instances",
    ]
    alone = run("size", tmp_path, setting=setting.model_copy(update={"epochs": 3, "instances": 1, "offered": 3}))
    assert [name for name in alone.document["systems"] if "greedy" not in name] == [
        "1 best epoch",
        "2 last epochs of one instance",
        "3 last epochs of one instance",
    ]


def test_costs_are_of_what_was_trained_and_stand_beside_the_quality(
    ran: Callable[[str], Ran], platform: Platform, setting: Setting
) -> None:
    done, lab = ran("cost"), Lab(platform)
    facts, per_query = done.document["facts"]["0"], done.per_query
    assert list(facts) == list(done.document["systems"])
    for system, row in facts.items():
        for kind, part in per_query.groupby("kind"):
            assert row[f"mAP@10, {kind}"] == pytest.approx(part[system].mean(), abs=1e-6)
        assert row["search, ms"] > 0 and row["encoding of words, ms"] > 0
        assert row["cores"] == len(os.sched_getaffinity(0))
    plain, release = facts["plain run, best epoch"], facts["release"]
    assert plain["search, times the plain run's"] == plain["encoding, times the plain run's"] == 1
    assert release["search, ms"] / plain["search, ms"] == pytest.approx(release["search, times the plain run's"])
    instances = [lab.train(setting.instance(0, number))[1:] for number in range(setting.instances)]
    minutes = sum(epoch.seconds for epochs in instances for epoch in epochs) / 60
    assert release["training, min"] == pytest.approx(minutes) and release["epochs trained"] == 4
    alone = sum(epoch.seconds for epoch in lab.train(setting.baseline(0))[1:]) / 60
    assert plain["training, min"] == pytest.approx(alone) and plain["epochs trained"] == 4


def test_the_ablation_crosses_its_parts_by_gallery(
    ran: Callable[[str], Ran], platform: Platform, setting: Setting
) -> None:
    done, material = ran("ablation"), Material(Lab(platform), setting, 0)
    systems = done.document["systems"]
    crossed = [system for table in CROSS.values() for row in table.values() for system in row.values()]
    assert len(set(crossed)) == len(crossed) == 12 and set(crossed) <= set(systems)
    with_names = [system.startswith("names: ") for system in crossed]
    assert with_names == [False] * 6 + [True] * 6, "galleries are never mixed in one table"
    assert done.document["compared_apart"] == {"names: ": "names: BM25 alone"}
    text = (done.folder / "ablation.md").read_text()
    for table in CROSS.values():
        (row,) = {name for name, systems in table.items() if not systems}
        assert f"| {row} |  |  |  |  |" in text and "is one model, the base" in text
        cells = [systems[system]["specific"] for system in table["fine-tuned, ensemble"].values()]
        assert f"| fine-tuned, ensemble | {cells[0]:.3f} | {cells[1]:.3f} |" in text
    for part, pairs in EFFECTS.items():
        found = {system for pair in pairs for system in pair}
        assert len(set(pairs)) == len(pairs) > 1 and found <= set(crossed)
        assert any("not fine-tuned" in system for system in found) == part.startswith("fine-tuning")
        protocols = {system.startswith("names: ") for system in found}
        assert len(protocols) == 1 + part.startswith("product text"), "each protocol by itself"
        mean = np.mean([systems[ours]["type"] - systems[theirs]["type"] for ours, theirs in pairs])
        assert done.document["effects"][part]["type"]["mean"] == pytest.approx(mean, abs=1e-6)
    whole, without = (f"ensemble + views + bank + attributes{end}" for end in (" + clusters", ""))
    assert not done.per_query[whole].equals(done.per_query[without]), "clusters are on, whatever select chose"
    # One model's cells by another way: scores computed here, AP by hand of the products' order.
    image_ND = material.embedded(material.best_epoch).image_ND.astype(np.float32)
    name_ND = material.embedded(material.best_epoch).name_ND.astype(np.float32)
    query_QD, _ = material.world.of(Split.GATE, material.embedded(material.best_epoch))
    rows = material.allowed(Split.GATE)
    score_QN = query_QD @ (0.3 * image_ND + 0.7 * name_ND)[rows].T
    by_id = np.array([query.query_id for query in material.world.gate.queries]).argsort()
    found = done.per_query.set_index("query_id").sort_index()["names: fine-tuned"]
    assert found.mean() == pytest.approx(material.ap(score_QN)[by_id].mean(), abs=0.02)


def test_clusters_are_tried_over_cosines_alone_as_well(
    ran: Callable[[str], Ran], platform: Platform, setting: Setting
) -> None:
    done, material = ran("clusters"), Material(Lab(platform), setting, 0)
    found = [name for name in done.document["systems"] if name.startswith(clusters.COSINES)]
    sizes = list(dict.fromkeys(name.split()[1] for name in found if "pull" in name))
    assert "50" in sizes and len(sizes) >= 4, "400 products: 50 clusters of eight beside the grid"
    turned = [f"feedback {feedback:g}" for feedback in clusters.FEEDBACKS]
    pulled = [f"pull {pull:g}, broad queries" for pull in clusters.PULLS]
    tried = [f"cosines, {size} clusters, {way}" for size in sizes for way in (*turned, *pulled)]
    assert found == [clusters.COSINES_ALONE, *tried, clusters.COSINES_CHOSEN]
    by_id = np.array([query.query_id for query in material.world.gate.queries]).argsort()
    rows = done.per_query.set_index("query_id").sort_index()
    ensemble = material.ap(material.weighted(*material.ensemble))[by_id]
    np.testing.assert_allclose(rows[clusters.COSINES_ALONE].mean(), ensemble.mean(), atol=0.02)
    why = done.document["facts"]["0"][clusters.COSINES_CHOSEN]["clusters"]
    by_itself = len(setting.release.feedbacks)  # select has the release's own feedbacks to choose from, none among them
    assert f"the best of {len(sizes) * (by_itself + len(pulled))}." in why
    chosen = why.split(":")[0].replace("narrowing 1", "broad queries")
    same = clusters.COSINES_ALONE if chosen.endswith("feedback 0") else f"cosines, {chosen}"
    np.testing.assert_array_equal(rows[clusters.COSINES_CHOSEN], rows[same])
    assert " |  |  |" in next(line for line in _lines(done) if line.startswith(f"| {clusters.COSINES_ALONE} |"))


def test_the_release_is_held_against_its_best_member_as_a_release_too(ran: Callable[[str], Ran]) -> None:
    """Like for like: bank, attributes and clusters on both sides, so that what is left is the ensemble's."""
    done = ran("ensemble")
    specific = done.per_query[done.per_query["kind"] == "specific"]
    of_ensemble = (specific["release"] - specific["release's best member, as a release"]).mean()
    assert done.document["gain_over_best_member_as_release"]["mean"] == pytest.approx(of_ensemble, abs=1e-6)
    assert of_ensemble != pytest.approx(done.document["gain_over_best_member"]["mean"], abs=1e-3)


def _lines(done: Ran) -> list[str]:
    return (done.folder / f"{done.name}.md").read_text().splitlines()


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
    root = platform.scratch / "studies" / f"{lab.snapshot[:16]}-0.75"  # of upright pictures
    for name, training in wanted.items():
        (root / name).mkdir(parents=True)
        (root / name / "epochs.json").write_text("[]")
        assert lab.train(training) == []
    assert told == []


def test_heads_are_fitted_in_each_way_and_the_last_is_the_releases(
    ran: Callable[[str], Ran], platform: Platform, setting: Setting
) -> None:
    done, material = ran("heads"), Material(Lab(platform), setting, 0)
    expected = material.searched(material.release.searcher, material.ensemble[0])
    np.testing.assert_allclose(done.per_query[heads.RELEASE], expected, atol=1e-6)
    ways = [heads.SUMMED, heads.SUMMED_CHOSEN, heads.JOINT, heads.JOINT_CHOSEN, heads.PAIRED_TOO, heads.COLOURED]
    ways.append(heads.RELEASE)
    facts = done.document["facts"]["0"]
    assert list(facts) == ways and list(done.document["systems"]) == [heads.WITHOUT, *ways]
    made = material.release.searcher.heads
    rows = np.flatnonzero(material.allowed(Split.GATE))
    image_ND = material.release.searcher.shown(rows)
    start, values = made.starts[made.fields.index("base_colour")], made.values[made.fields.index("base_colour")]
    logit_NV = (image_ND @ made.joint.weight_DV + made.joint.intercept_V)[:, start : start + len(values)]
    own = [values.index(colour) for colour in material.world.products.base_colour[rows]]
    right_N = np.exp(logit_NV[np.arange(len(rows)), own]) / np.exp(logit_NV).sum(axis=1)
    assert facts[heads.RELEASE]["log-loss, base_colour"] == pytest.approx(-np.log(right_N).mean(), abs=1e-4)


def test_each_variant_of_the_recipe_is_trained_and_the_chosen_one_is_selects(ran: Callable[[str], Ran]) -> None:
    done = ran("recipe")
    facts, per_query = done.document["facts"]["0"], done.per_query
    *tried, chosen = facts
    assert tried == list(recipe.variants(TrainRecipe(), untrained=True)) and chosen == recipe.CHOSEN
    best = max(tried, key=lambda variant: facts[variant]["its mAP@10 on select"])
    assert facts[chosen] == {**facts[best], "is": best}
    for system in (recipe.BEST, recipe.RELEASE):
        np.testing.assert_array_equal(per_query[recipe.named(system, chosen)], per_query[recipe.named(system, best)])
        others = per_query[[recipe.named(system, variant) for variant in tried]]
        assert len(others.T.drop_duplicates()) > len(tried) / 2, "each was trained in its own way"


def test_a_variant_changes_what_it_names_and_nothing_else(setting: Setting) -> None:
    plain = setting.instance(1, 0)
    tried = recipe.variants(plain.recipe, untrained=True) | recipe.variants(plain.recipe, untrained=False)
    assert plain.varied(**tried[recipe.DEFAULT]) == plain
    for changes in tried.values():
        varied = plain.varied(**changes)
        before, after = plain.recipe.model_dump(), varied.recipe.model_dump()
        assert {name for name in before if before[name] != after[name]} == set(changes)
        assert (varied.fold, varied.share) == (plain.fold, plain.share)
    used = {name for changes in tried.values() for name in changes} | {"image_side"}  # `members` asks about that
    assert used >= set(ADDED_LATER), "a technique that no study asks about"


def test_layers_are_told_apart_for_pretrained_bases_alone(platform: Platform, setting: Setting) -> None:
    from_nothing, pretrained = (recipe.variants(TrainRecipe(), untrained=untrained) for untrained in (True, False))
    assert not any("layer_decay" in changes for changes in from_nothing.values())
    assert not any("learning_rate" in changes for changes in pretrained.values())
    assert [*pretrained][-1] == "layer decay 0.75" and [*from_nothing][-1] == "learning rate 2e-3"
    trained = Lab(platform).train(setting.instance(0, 0))[-1]
    ours = setting.model_copy(update={"base": f"local-dir:{trained.folder}"})
    decays = {training.recipe.layer_decay for training in recipe.trainings(ours, 0)}
    assert decays == {1.0, 0.75}, "what we trained on another catalog is a pretrained base too"


def test_low_rank_updates_get_ten_times_the_rate_that_is_asked_for() -> None:
    def rates(default: TrainRecipe) -> dict[str, float]:
        tried = recipe.variants(default, untrained=False)
        return {name: changes["learning_rate"] for name, changes in tried.items() if "learning_rate" in changes}

    assert rates(TrainRecipe(learning_rate=1e-3)) == {"updates of rank 16": pytest.approx(1e-2)}
    assert rates(TrainRecipe()) == {}, "training itself multiplies what it chooses"


def test_a_variant_that_a_catalog_cannot_be_trained_with_is_listed_with_the_reason(
    platform: Platform, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = {recipe.DEFAULT: {}, "wild": {"learning_rate": 1e30}}
    monkeypatch.setattr(recipe, "VARIANTS", wild)
    monkeypatch.setattr(recipe, "FROM_NOTHING", {})
    found = recipe.run(Material(Lab(platform), setting, 0))
    assert "became nan" in str(found.facts["wild"]["left out, because"])
    assert not any("wild" in system for system in found.systems) and found.facts[recipe.CHOSEN]["is"] == recipe.DEFAULT
