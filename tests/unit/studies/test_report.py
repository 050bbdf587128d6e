"""Findings of folds, written by hand → a report: what is kept, what starts anew, what a missing system does."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from enclip.pipeline.snapshot import code_sha256, git_commit
from enclip.recipes import ReleaseRecipe
from enclip.studies.compare import gain, means
from enclip.studies.definition import Setting
from enclip.studies.report import Report

HEADLINE = {"gain": ("ours", "theirs")}


def rows(fold: int, systems: Mapping[str, Sequence[float]], *, kind: str = "specific") -> pd.DataFrame:
    count = len(next(iter(systems.values())))
    about = {"fold": fold, "query_id": [f"{kind}:{number}" for number in range(count)], "kind": kind}
    return pd.DataFrame({**about, "category": "NA", "num_relevant": 3, **systems})


def report(folder: Path, setting: Setting | None = None, *, snapshot: str = "s", aspect: float = 1.0) -> Report:
    setting = setting or Setting(folds=(0, 1))
    return Report(folder, "study", title="Does it?", setting=setting, snapshot=snapshot, aspect=aspect)


def written(folder: Path) -> dict[str, object]:
    return json.loads((folder / "study.json").read_bytes())


def test_a_report_keeps_folds_of_the_same_definition_alone(tmp_path: Path) -> None:
    first = report(tmp_path)
    first.add(0, rows(0, {"theirs": [0.1, 0.2], "ours": [0.3, 0.4]}), {"row": {"why": "because"}})
    first.write(headlines=HEADLINE)
    again = report(tmp_path, Setting(folds=(1, 0, 2)))  # which folds are wanted is no part of what it is
    assert again.folds == [0] and again.facts == {"0": {"row": {"why": "because"}}}
    assert set(again.per_query["category"]) == {"NA"}
    again.add(1, rows(1, {"theirs": [0.5, 0.5], "ours": [0.6, 0.6]}), {})
    again.write(headlines=HEADLINE)
    assert written(tmp_path)["systems"]["ours"] == {"specific": pytest.approx((0.35 + 0.6) / 2)}
    assert written(tmp_path)["gain"]["mean"] == pytest.approx((0.2 + 0.1) / 2)
    assert written(tmp_path)["gain"]["seeds"] == 2
    assert report(tmp_path, Setting(epochs=3)).folds == []
    assert report(tmp_path, snapshot="another").folds == []
    assert report(tmp_path, aspect=0.75).folds == [], "models that looked at squares"
    document = written(tmp_path)
    del document["aspect"]
    (tmp_path / "study.json").write_text(json.dumps(document))
    assert report(tmp_path).folds == [0, 1], "as reports were before there were frames"


def test_a_fold_that_is_run_again_replaces_what_it_said(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"theirs": [0.1], "ours": [0.3], "gone": [0.9]}), {"old": {}})
    found.add(0, rows(0, {"theirs": [0.2], "ours": [0.5]}), {"new": {}})
    assert list(found.per_query["ours"]) == [0.5] and "gone" not in found.per_query
    assert list(found.facts["0"]) == ["new"]


def test_runs_side_by_side_keep_each_others_folds(tmp_path: Path) -> None:
    def run(found: Report, fold: int, ours: float) -> None:
        with found.turn():
            found.add(fold, rows(fold, {"theirs": [0.1], "ours": [ours]}), {})
            time.sleep(0.2)  # a report takes as long to draw
            found.write(headlines={})

    run(report(tmp_path), 0, 0.3)
    first, second = report(tmp_path), report(tmp_path)  # both began when fold 0 said 0.3
    run(first, 0, 0.4)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (first, second), (1, 2), (0.5, 0.6)))
    found = report(tmp_path)
    assert dict(found.per_query[["fold", "ours"]].itertuples(index=False)) == {0: 0.4, 1: 0.5, 2: 0.6}


def test_a_system_that_a_fold_lacks_is_compared_where_it_is(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"theirs": [0.1, 0.3], "ours": [0.3, 0.3]}), {})
    found.add(1, rows(1, {"theirs": [0.5, 0.7], "ours": [0.5, 0.8], "late": [0.9, 0.9]}), {})
    found.write(headlines=HEADLINE)
    document = written(tmp_path)
    assert document["systems"]["late"] == {"specific": pytest.approx(0.9)}
    assert document["gains"]["late"]["specific"]["mean"] == pytest.approx(0.3)
    assert document["gains"]["late"]["specific"]["seeds"] == 1 and document["gain"]["seeds"] == 2
    assert report(tmp_path).per_query["late"].dtype == np.float64
    text = (tmp_path / "study.md").read_text()
    assert "| late (fold 1 alone) | " in text and "| ours | " in text


def test_a_catalog_without_specific_queries_is_judged_by_its_types(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"theirs": [0.1, 0.2], "ours": [0.3, 0.4]}, kind="type"), {})
    found.write(headlines=HEADLINE)
    assert written(tmp_path)["gain"]["mean"] == pytest.approx(0.2)
    assert "ours − theirs, type queries" in (tmp_path / "study.md").read_text()


def test_levels_are_drawn_instead_of_gains(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"theirs": [0.1, 0.2], "ours": [0.3, 0.4]}), {})
    found.write(headlines={})
    gains = (tmp_path / "study.png").read_bytes()
    found.write(headlines={}, levels={"way": {"a system": [("1", "theirs"), ("2", "ours"), ("3", "left out")]}})
    assert (tmp_path / "study.png").read_bytes() != gains


def test_systems_that_stand_apart_are_compared_with_their_own(tmp_path: Path) -> None:
    found = report(tmp_path)
    systems = {"theirs": [0.1, 0.2], "ours": [0.3, 0.4], "plain, off": [0.5, 0.6], "plain, on": [0.5, 0.5]}
    found.add(0, rows(0, systems), {})
    found.write(headlines=HEADLINE, apart={"plain, ": "plain, off"})
    document = written(tmp_path)
    assert document["compared_apart"] == {"plain, ": "plain, off"}
    assert document["gains"]["ours"]["specific"]["mean"] == pytest.approx(0.2)
    assert document["gains"]["plain, on"]["specific"]["mean"] == pytest.approx(-0.05)
    assert "plain, off" not in document["gains"] and "theirs" not in document["gains"]
    first, second = (tmp_path / "study.md").read_text().split("| system |")[1:]
    assert "| ours |" in first and "| plain, " not in first
    assert "| plain, off | 0.550 |  |" in second and "| plain, on | 0.500 | -0.050 (" in second


def test_systems_stand_apart_by_how_they_end_where_their_own_is_there(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"a, best": [0.1, 0.2], "a, whole": [0.3, 0.4], "b, whole": [0.5, 0.5]}), {})
    found.write(headlines={}, apart={"whole": "a, whole"})
    gains = written(tmp_path)["gains"]
    assert set(gains) == {"b, whole"} and gains["b, whole"]["specific"]["mean"] == pytest.approx(0.15)
    found.write(headlines={}, apart={"whole": "left out, whole"})
    gains = written(tmp_path)["gains"]
    assert set(gains) == {"a, whole", "b, whole"} and gains["b, whole"]["specific"]["mean"] == pytest.approx(0.35)


def test_crossed_systems_are_shown_once_more_with_holes_where_there_is_none(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"theirs": [0.1, 0.2], "ours": [0.3, 0.4], "both": [0.5, 0.5]}), {})
    cross = {"Pictures": {"one": {"off": "theirs", "on": "ours"}, "none": {}, "two": {"on": "both"}}}
    found.write(headlines=HEADLINE, cross=cross, about="What it is about.")
    text = (tmp_path / "study.md").read_text()
    table = text.split("## Pictures\n\n")[1].splitlines()
    assert table[0] == "|  | specific, off | specific, on |"
    assert table[2:] == ["| one | 0.150 | 0.350 |", "| none |  |  |", "| two |  | 0.500 |"]
    assert "\nWhat it is about.\n" in text


def test_an_effect_is_the_mean_over_what_a_part_was_crossed_with(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"a": [0.1, 0.2], "a on": [0.2, 0.4], "b": [0.5, 0.5], "b on": [0.5, 0.9]}), {})
    found.write(headlines={}, effects={"part": [("a on", "a"), ("b on", "b")], "b": [("b", "a")]})
    effects = written(tmp_path)["effects"]
    assert effects["part"]["specific"]["mean"] == pytest.approx((0.15 + 0.2) / 2)
    assert effects["b"]["specific"]["mean"] == pytest.approx(0.35)
    assert "| part | specific |\n| --- | --- |\n| part | +0.175 (" in (tmp_path / "study.md").read_text()


def test_categories_below_the_paper_s_worst_show_what_was_tried(tmp_path: Path) -> None:
    found = report(tmp_path)
    low, high = {"theirs": [0.1, 0.3], "ours": [0.2, 0.4]}, {"theirs": [0.9], "ours": [0.8]}
    specific = rows(0, low).assign(category="Shoes", num_relevant=40)
    types = rows(0, {"theirs": [0.4], "ours": [0.6]}, kind="type").assign(category="Shoes", num_relevant=40)
    good = rows(0, high, kind="type").assign(category="Bags", num_relevant=40, query_id="type:9")
    found.add(0, pd.concat([specific, types, good]), {})
    found.write(headlines=HEADLINE, by_category="ours", tried=("theirs", "ours"))
    (shoes,) = written(tmp_path)["tried"]
    assert shoes == {
        "category": "Shoes",
        "theirs": pytest.approx(0.8 / 3),
        "ours": pytest.approx(0.4),
        "ours, specific alone": pytest.approx(0.3),
        "ours, type alone": pytest.approx(0.6),
    }
    text = (tmp_path / "study.md").read_text()
    assert "what was tried\n\n| category | theirs | ours | ours, specific alone | ours, type alone |\n" in text
    assert text.endswith("| Shoes | 0.267 | 0.400 | 0.300 | 0.600 |\n")


def test_a_report_says_which_code_made_it(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"theirs": [0.1, 0.2], "ours": [0.3, 0.4]}), {})
    found.write(headlines=HEADLINE)
    code = {"git_commit": git_commit(), "code_sha256": code_sha256()}
    document = written(tmp_path)
    assert document["drawn_by"] == code and document["code_of_folds"] == {"0": code}
    old = {"git_commit": "abc", "code_sha256": "def"}
    (tmp_path / "study.json").write_text(json.dumps({**document, "code_of_folds": {"0": old}}))
    again = report(tmp_path)
    again.add(1, rows(1, {"theirs": [0.1, 0.2], "ours": [0.3, 0.4]}), {})
    again.write(headlines=HEADLINE)
    assert written(tmp_path)["code_of_folds"] == {"0": old, "1": code}
    assert written(tmp_path)["drawn_by"] == code


def test_an_older_report_keeps_its_code_when_it_is_drawn_again(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"theirs": [0.1, 0.2], "ours": [0.3, 0.4]}), {})
    found.write(headlines=HEADLINE)
    old = {"git_commit": "abc"}
    before = {key: value for key, value in written(tmp_path).items() if key not in ("code_of_folds", "drawn_by")}
    (tmp_path / "study.json").write_text(json.dumps({**before, **old}))
    report(tmp_path).write(headlines=HEADLINE)
    assert written(tmp_path)["code_of_folds"] == {"0": old} and "git_commit" not in written(tmp_path)


def test_two_runs_of_a_fold_each_keep_both(tmp_path: Path) -> None:
    one, other = report(tmp_path), report(tmp_path)
    with one.turn():
        one.add(0, rows(0, {"theirs": [0.1], "ours": [0.3]}), {"row": {"fold": 0}})
        one.write(headlines=HEADLINE)
    with other.turn():
        other.add(1, rows(1, {"theirs": [0.5], "ours": [0.6]}), {"row": {"fold": 1}})
        other.write(headlines=HEADLINE)
    assert written(tmp_path)["folds"] == [0, 1] and set(written(tmp_path)["facts"]) == {"0", "1"}
    assert set(written(tmp_path)["code_of_folds"]) == {"0", "1"}


def test_what_was_found_by_one_view_is_no_fold_of_a_release_with_four(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"theirs": [0.1], "ours": [0.3]}), {})
    found.write(headlines=HEADLINE)
    document = written(tmp_path)
    del document["setting"]["release"]["views"]  # as reports were before there were views
    (tmp_path / "study.json").write_text(json.dumps(document))
    assert report(tmp_path).folds == []
    assert report(tmp_path, Setting(release=ReleaseRecipe(views=1))).folds == [0]


def test_a_category_of_digits_keeps_them(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"theirs": [0.1], "ours": [0.3]}).assign(category="007"), {})
    found.write(headlines=HEADLINE)
    assert list(report(tmp_path).per_query["category"]) == ["007"]


def test_a_report_names_the_command_that_made_it(tmp_path: Path) -> None:
    found = report(tmp_path, Setting(epochs=12, side=48, varied={"mix": 0.5}))
    found.add(0, rows(0, {"theirs": [0.1], "ours": [0.3]}), {})
    found.write(headlines=HEADLINE)
    assert "made by `enclip study study --epochs 12 --side 48 --vary mix=0.5`." in (tmp_path / "study.md").read_text()
    found.add(3, rows(3, {"theirs": [0.1], "ours": [0.3]}), {})
    found.write(headlines=HEADLINE)
    assert "--vary mix=0.5 --fold 0 --fold 3`." in (tmp_path / "study.md").read_text(), "3 is of no setting's own"


def test_an_interval_knows_that_folds_are_of_other_queries() -> None:
    """Three folds of equal means: what is left is the chance of 3 × 200 queries, each fold's by itself."""
    chance = np.random.default_rng(0)
    differences = chance.normal(0, 0.3, (3, 200))
    differences += 0.1 - differences.mean(axis=1, keepdims=True)
    table = pd.concat([rows(fold, {"theirs": np.zeros(200), "ours": found}) for fold, found in enumerate(differences)])
    found = gain(table, "ours", "theirs")
    expected = 2 * 1.96 * differences.std() / np.sqrt(differences.size)
    assert found.high - found.low == pytest.approx(expected, rel=0.06)


def test_a_gain_is_the_mean_over_folds_of_paired_differences() -> None:
    chance = np.random.default_rng(0)
    theirs = chance.random(60)
    ours = theirs + chance.normal(0.1, 0.05, 60)
    table = pd.concat(
        [
            rows(0, {"theirs": theirs[:40], "ours": ours[:40]}),
            rows(1, {"theirs": theirs[40:], "ours": ours[40:]}),
            rows(1, {"theirs": [0.0], "ours": [1.0]}, kind="type"),
        ]
    )
    found = gain(table, "ours", "theirs")
    by_hand = ((ours - theirs)[:40].mean() + (ours - theirs)[40:].mean()) / 2
    assert found.mean == pytest.approx(by_hand) and found.seeds == 2
    assert 0.05 < found.low < found.mean < found.high < 0.15
    assert means(table, ["ours"])["ours"]["type"] == 1.0
    same = gain(table, "ours", "ours")
    assert (same.mean, same.low, same.high) == (0, 0, 0)
