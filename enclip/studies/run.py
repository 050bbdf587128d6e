"""Run a named study: fold after fold, into MLflow and a report."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from enclip.catalog.store import without_prices
from enclip.errors import ConfigError
from enclip.pipeline.platform import Platform
from enclip.studies import (
    ablation,
    bases,
    clusters,
    cost,
    ensemble,
    fusion,
    heads,
    little_data,
    low_quality,
    members,
    recipe,
    size,
)
from enclip.studies.definition import Setting
from enclip.studies.findings import Findings, rows_of
from enclip.studies.lab import Lab, Tell, Training
from enclip.studies.material import Material
from enclip.studies.report import Cross, Effects, Levels, Report
from enclip.studies.side_by_side import train_side_by_side


@dataclass(frozen=True)
class Study:
    """A question, what answers it in one fold, the gains that bars are set on, and what is shown beside; the fields
    from `headlines` on are those of `Report.write`.

    `trainings` are those of a fold that can be done side by side, before the question is asked.
    """

    question: str
    run: Callable[[Material], Findings]
    trainings: Callable[[Setting, int], list[Training]] = Setting.instances_of
    headlines: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    levels: Levels = field(default_factory=dict)
    by_category: str = ""
    tried: Sequence[str] = ()
    cross: Cross = field(default_factory=dict)
    effects: Effects = field(default_factory=dict)
    apart: Mapping[str, str] = field(default_factory=dict)
    about: str = ""


STUDIES: dict[str, Study] = {
    "ensemble": Study(
        "Does the release beat one model that was trained as long?",
        ensemble.run,
        Setting.all_of,
        {
            "gain_over_best_epoch": (ensemble.RELEASE, ensemble.BASELINE),
            "gain_over_best_member": (ensemble.RELEASE, ensemble.BEST_MEMBER),
            "gain_over_best_member_as_release": (ensemble.RELEASE, ensemble.MEMBER_AS_RELEASE),
            "gain_of_one_text_tower": (ensemble.ONE_TOWER, ensemble.BASELINE),
        },
        by_category=ensemble.RELEASE,
        tried=ensemble.TRIED,
    ),
    "clusters": Study(
        "Are the clusters good, and what do they do to the ranking?",
        clusters.run,
        apart={clusters.COSINES: clusters.COSINES_ALONE},
        about=clusters.ABOUT,
    ),
    "size": Study("How large an ensemble, and of which members?", size.run),
    "ablation": Study(
        "What do fine-tuning, ensembling, the bank, attributes, clusters and names each add?",
        ablation.run,
        Setting.instances_of,
        {
            "gain_of_names_over_bm25": (ablation.HYBRID, ablation.BM25),
            "gain_of_names_over_vectors": (ablation.HYBRID, ablation.VECTORS),
        },
        cross=ablation.CROSS,
        effects=ablation.EFFECTS,
        apart={"names: ": ablation.BM25},
        about=ablation.ABOUT,
    ),
    "fusion": Study("How are members fused: scores, ranks, or weights?", fusion.run),
    "low-quality": Study(
        "How does search hold when pictures are poor?",
        low_quality.run,
        Setting.all_of,
        {
            "gain_at_12_px": low_quality.release_over_baseline("12 px"),
            "gain_at_jpeg_10": low_quality.release_over_baseline("JPEG 10"),
        },
        low_quality.LEVELS,
    ),
    "little-data": Study(
        "How much data does it take?",
        little_data.run,
        little_data.trainings,
        {
            "gain_at_10_percent": (
                little_data.named(little_data.BEST, 0.1),
                little_data.named(little_data.BEST, 1.0),
            ),
            "ensemble_gain_at_10_percent": (
                little_data.named(little_data.ENSEMBLE, 0.1),
                little_data.named(little_data.BEST, 0.1),
            ),
            "gain_at_10_percent_as_a_release": (
                little_data.named(little_data.RELEASE, 0.1),
                little_data.named(little_data.BEST, 0.1),
            ),
        },
        little_data.LEVELS,
    ),
    "members": Study(
        "What makes members disagree usefully, for the same number of epochs?",
        members.run,
        members.trainings,
        {
            "gain_of_distinct_runs": (
                members.named(members.GREEDY, members.DISTINCT),
                members.named(members.BEST, members.PLAIN),
            ),
            "gain_of_branches": (
                members.named(members.GREEDY, members.BRANCHES),
                members.named(members.BEST, members.PLAIN),
            ),
            "gain_of_a_release": (
                members.named(members.RELEASE, members.PLAIN),
                members.named(members.BEST, members.PLAIN),
            ),
            "gain_of_distinct_runs_as_a_release": (
                members.named(members.RELEASE, members.DISTINCT),
                members.named(members.RELEASE, members.PLAIN),
            ),
            "gain_of_branches_as_a_release": (
                members.named(members.RELEASE, members.BRANCHES),
                members.named(members.RELEASE, members.PLAIN),
            ),
        },
        apart={members.RELEASE: members.named(members.RELEASE, members.PLAIN)},
    ),
    "heads": Study(
        "How are attribute heads best fitted?",
        heads.run,
        Setting.instances_of,
        {
            "gain_of_heads": (heads.RELEASE, heads.WITHOUT),
            "gain_over_heads_of_each_member": (heads.RELEASE, heads.SUMMED),
        },
        about=heads.ABOUT,
    ),
    "bases": Study(
        "Which base weights to start from?",
        bases.run,
        apart={bases.RELEASE: bases.named(bases.RELEASE, bases.FROM_NOTHING)},
    ),
    "recipe": Study(
        "Which training recipe makes the most of the data?",
        recipe.run,
        recipe.trainings,
        {
            "gain_over_default": (
                recipe.named(recipe.BEST, recipe.CHOSEN),
                recipe.named(recipe.BEST, recipe.DEFAULT),
            ),
            "gain_over_default_as_a_release": (
                recipe.named(recipe.RELEASE, recipe.CHOSEN),
                recipe.named(recipe.RELEASE, recipe.DEFAULT),
            ),
        },
        apart={recipe.RELEASE: recipe.named(recipe.RELEASE, recipe.DEFAULT)},
    ),
    "cost": Study("What does quality cost: training, index, search?", cost.run, Setting.all_of, about=cost.ABOUT),
}


def run_study(
    platform: Platform, name: str, setting: Setting, *, folds: Sequence[int], folder: Path, tell: Tell, jobs: int = 1
) -> list[Path]:
    """Run some folds of a study and write its report; the paths.

    Trainings and embeddings are cached, and a report that has some of the folds already keeps them: a study
    that was cut off, or is run a fold at a time, goes on.

    Args:
        jobs: trainings at once, each with its part of the cores.

    Raises:
        ConfigError: there is no such study.
    """
    if name not in STUDIES:
        raise ConfigError(f"There is no study {name!r}.", remedy=f"Choose one of: {', '.join(STUDIES)}.")
    study, lab = STUDIES[name], Lab(platform, tell=tell)
    folder.mkdir(parents=True, exist_ok=True)
    for fold in folds:
        lab.fold(fold)  # refuses, before hours of training, a catalog that asks nothing
    learned_from = without_prices(lab.snapshot)
    report = Report(folder, name, title=study.question, setting=setting, snapshot=learned_from, aspect=lab.aspect)
    mlflow_run_id = platform.registry.open_run(
        f"study-{name}-{learned_from[:8]}-{setting.digest()}",
        kind="study",
        params={"snapshot": lab.snapshot, **setting.model_dump(mode="json", exclude={"release"})},
        tags={"question": study.question},
    )
    if jobs > 1:
        trainings = [training for fold in folds for training in study.trainings(setting, fold)]
        train_side_by_side(platform.settings, trainings, jobs=jobs, tell=tell)
    paths: list[Path] = []
    for fold in folds:
        tell(f"{name}, fold {fold}")
        material = Material(lab, setting, fold)
        findings = study.run(material)
        with report.turn():
            report.add(fold, rows_of(material, findings), findings.facts)
            paths = report.write(
                headlines=study.headlines,
                levels=study.levels,
                by_category=study.by_category,
                tried=study.tried,
                cross=study.cross,
                effects=study.effects,
                apart=study.apart,
                about=study.about,
            )
        figures = {f"fold {fold}/{system}": float(values.mean()) for system, values in findings.systems.items()}
        platform.registry.log_figures(mlflow_run_id, params={}, metrics=figures)
    with tempfile.TemporaryDirectory(prefix="enclip-") as copies:
        for path in paths:
            shutil.copy(path, copies)
        platform.registry.log_folder(mlflow_run_id, Path(copies), path="report")
    platform.registry.close_run(mlflow_run_id)
    return paths
