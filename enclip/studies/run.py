"""Run a named study: fold after fold, into MLflow and a report."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from enclip.errors import ConfigError
from enclip.pipeline.platform import Platform
from enclip.studies import ablation, clusters, cost, ensemble, fusion, size
from enclip.studies.definition import Setting
from enclip.studies.findings import Findings, rows_of
from enclip.studies.lab import Lab, Tell
from enclip.studies.material import Material
from enclip.studies.report import Report


@dataclass(frozen=True)
class Study:
    """A question, what answers it in one fold, and the gains that bars are set on."""

    question: str
    run: Callable[[Material], Findings]
    headlines: Mapping[str, tuple[str, str]] = field(default_factory=dict)


STUDIES: dict[str, Study] = {
    "ensemble": Study(
        "Does the release beat one model that was trained as long?",
        ensemble.run,
        {
            "gain_over_best_epoch": (ensemble.RELEASE, ensemble.BASELINE),
            "gain_over_best_member": (ensemble.RELEASE, ensemble.BEST_MEMBER),
        },
    ),
    "clusters": Study("Are the clusters good, and what do they do to the ranking?", clusters.run),
    "size": Study("How large an ensemble, and of which members?", size.run),
    "ablation": Study("What do fine-tuning, ensembling, the bank, clusters and names each add?", ablation.run),
    "fusion": Study("How are members fused: scores, ranks, or weights?", fusion.run),
    "cost": Study("What does quality cost: training, index, search?", cost.run),
}


def run_study(
    platform: Platform, name: str, setting: Setting, *, folds: Sequence[int], folder: Path, tell: Tell
) -> list[Path]:
    """Run some folds of a study and write its report; the paths.

    Trainings and embeddings are cached, and a report that has some of the folds already keeps them: a study
    that was cut off, or is run a fold at a time, goes on.

    Raises:
        ConfigError: there is no such study.
    """
    if name not in STUDIES:
        raise ConfigError(f"There is no study {name!r}.", remedy=f"Choose one of: {', '.join(STUDIES)}.")
    study, lab = STUDIES[name], Lab(platform, tell=tell)
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(folder, name, title=study.question, setting=setting, snapshot=lab.snapshot)
    mlflow_run_id = platform.registry.open_run(
        f"study-{name}",
        kind="study",
        params={"snapshot": lab.snapshot, **setting.model_dump(mode="json", exclude={"release"})},
        tags={"question": study.question},
    )
    paths: list[Path] = []
    for fold in folds:
        tell(f"{name}, fold {fold}")
        material = Material(lab, setting, fold)
        findings = study.run(material)
        report.add(fold, rows_of(material, findings), findings.facts)
        paths = report.write(headlines=study.headlines)
        figures = {f"fold {fold}/{system}": float(values.mean()) for system, values in findings.systems.items()}
        platform.registry.log_figures(mlflow_run_id, params={}, metrics=figures)
    with tempfile.TemporaryDirectory(prefix="enclip-") as copies:
        for path in paths:
            shutil.copy(path, copies)
        platform.registry.log_folder(mlflow_run_id, Path(copies), path="report")
    platform.registry.close_run(mlflow_run_id)
    return paths
