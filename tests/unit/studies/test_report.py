"""Findings of folds, written by hand → a report: what is kept, what starts anew, what a missing system does."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from enclip.studies.compare import gain, means
from enclip.studies.definition import Setting
from enclip.studies.report import Report

HEADLINE = {"gain": ("ours", "theirs")}


def rows(fold: int, systems: Mapping[str, Sequence[float]], *, kind: str = "specific") -> pd.DataFrame:
    count = len(next(iter(systems.values())))
    about = {"fold": fold, "query_id": [f"{kind}:{number}" for number in range(count)], "kind": kind}
    return pd.DataFrame({**about, "category": "NA", "num_relevant": 3, **systems})


def report(folder: Path, setting: Setting | None = None, *, snapshot: str = "s") -> Report:
    setting = setting or Setting(folds=(0, 1))
    return Report(folder, "study", title="Does it?", setting=setting, snapshot=snapshot)


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


def test_a_fold_that_is_run_again_replaces_what_it_said(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.add(0, rows(0, {"theirs": [0.1], "ours": [0.3], "gone": [0.9]}), {"old": {}})
    found.add(0, rows(0, {"theirs": [0.2], "ours": [0.5]}), {"new": {}})
    assert list(found.per_query["ours"]) == [0.5] and "gone" not in found.per_query
    assert list(found.facts["0"]) == ["new"]


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
