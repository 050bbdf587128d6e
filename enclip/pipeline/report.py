"""The report of a run on *gate*: epochs, ensembles, clusters on and off, throughput, time by step."""

import json
import platform as machine
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from enclip.blobs import write_whole
from enclip.catalog.snapshot import load_snapshot, pixel_map
from enclip.cores import available_cores
from enclip.evaluation.intervals import paired_bootstrap
from enclip.evaluation.markdown import markdown_table
from enclip.evaluation.metrics import evaluate
from enclip.pipeline.measure import measure_release
from enclip.pipeline.members import load_member
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import EvaluationStep, Plan, RunFolder, Timing, TrainStep
from enclip.pipeline.tune import clustered, described
from enclip.pipeline.validate import DEPTH, Validator
from enclip.records import EpochVersion, Floats, QueryKind, Split

# Of a release that searches names.
PARTS = ("pictures alone", "vectors alone", "words of names alone", "BM25 over names alone")


def write_report(
    platform: Platform,
    run_id: str,
    *,
    folder: Path,
    name: str,
    on_progress: Callable[[float, float], None] | None = None,
) -> list[Path]:
    """Write `NAME.md` and `NAME.json`; the paths written.

    Epochs are measured on *gate* here, for the reader; no choice was made there. Where the release searches
    names, epochs do too, at its share of them.
    """
    runs = RunFolder(platform.blobs, run_id)
    plan, trained = runs.read("plan", Plan), runs.read("train", TrainStep)
    evaluation = runs.read("evaluation", EvaluationStep)
    products = load_snapshot(platform.blobs, plan.snapshot)
    gate = Validator(products, split=Split.GATE)
    gallery = platform.registry.release_manifest(evaluation.release).gallery
    pixels = pixel_map(
        products, platform.blobs, side=trained.pixel_side, scratch=platform.scratch, digest=plan.snapshot
    )
    score_by_version: dict[int, Floats] = {}
    for done, epoch in enumerate(trained.epochs, 1):
        model = load_member(platform.registry, epoch.source)
        scores = gate.scores(model, pixels)
        if gallery.protocol != "image":
            scores = (1 - gallery.name_share) * scores + gallery.name_share * gate.name_scores(model, scores)
        score_by_version[epoch.version] = scores
        if on_progress:
            on_progress(done, len(trained.epochs))
    finetuned = [epoch for epoch in trained.epochs if epoch.epoch > 0]
    best = max(finetuned, key=lambda epoch: epoch.map_at_10)
    last = _last_epochs(finetuned, 5)
    systems = {
        "best epoch (chosen on select)": score_by_version[best.version],
        f"uniform ensemble of the last {len(last)} epochs": np.mean(
            [score_by_version[epoch.version] for epoch in last], axis=0
        ),
    }
    measured = {label: _by_kind(gate, scores) for label, scores in systems.items()}
    # An epoch has no BM25: it searches names where the release is a hybrid.
    protocols: dict[str, str] = dict.fromkeys(measured, "name" if gallery.protocol == "hybrid" else gallery.protocol)
    own = {"chosen release": "challenger", "the same by members' text towers": "without student"}
    own |= {f"the same {system}": system for system in ("without clusters", "without bank", "without attributes")}
    wanted = {**own, **{part: part for part in PARTS}}
    for label, system in wanted.items():
        if system not in evaluation.systems:
            continue
        measured[label] = {kind: _queries_of(evaluation, system, kind) for kind in (QueryKind.SPECIFIC, QueryKind.TYPE)}
        protocols[label] = evaluation.protocol(system)
    measured |= _clustered(platform, evaluation.release, plan, gate)
    figures = {
        "run_id": run_id,
        "release": evaluation.release,
        "base": plan.recipe.train.base,
        "recipe": plan.recipe.model_dump(mode="json"),
        "num_products": plan.num_products,
        "num_gate_products": len(gate.gallery),
        "gallery": gallery.model_dump(mode="json"),
        "protocols": {label: protocols.get(label, gallery.protocol) for label in measured},
        "machine": f"{machine.machine()}, {available_cores()} CPU cores, device {trained.device}",
        "epochs": [_epoch_figures(gate, epoch, score_by_version[epoch.version]) for epoch in trained.epochs],
        "systems": {
            label: {
                kind.value: {"map_at_10": float(np.mean(values)), "num_queries": len(values)}
                for kind, values in kinds.items()
                if len(values)
            }
            for label, kinds in measured.items()
        },
        # With the words of names on one side only the difference would not be the release's.
        "release_gain_over_best_epoch": {}
        if gallery.protocol != "image"
        else _gain(measured, "chosen release", "best epoch (chosen on select)"),
        "clusters_gain": {
            label: _gain(measured, label, "the same without clusters") for label in measured if " clusters, " in label
        },
        "by_category": measure_release(platform, evaluation.release)["categories"],
        "search_ratio": evaluation.search_ratio,
        "memory_ratio": evaluation.memory_ratio,
        "train_images_per_s": trained.images_per_s,
        "wall": _wall(runs.timings()),
        "seconds_by_step": {timing.step: timing.seconds for timing in runs.timings()},
        "peak_memory_mb_by_step": {timing.step: timing.peak_memory_mb for timing in runs.timings()},
        "git_commit": plan.origin.git_commit,
    }
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    write_whole(paths[0], (json.dumps(figures, indent=2) + "\n").encode())
    write_whole(paths[1], _markdown(figures, name).encode())
    return paths


def _clustered(
    platform: Platform, release: int, plan: Plan, gate: Validator
) -> dict[str, dict[QueryKind, list[float]]]:
    """The release without its index, and with its clusters in each way that was tried on *select*."""
    opened = open_release(platform, release)
    blocks = opened.encode_texts(gate.texts)
    allowed = opened.products.split == Split.GATE
    row_N = np.flatnonzero(allowed)
    exact_QN = opened.searcher.exact_scores(blocks, row_N, texts=gate.texts)
    found = {"every product scored, without index and clusters": _by_kind(gate, exact_QN)}
    for searcher in clustered(opened.searcher, plan.recipe.release):
        rankings = searcher.search(blocks, k=DEPTH, texts=gate.texts, allowed=allowed)
        results = evaluate(gate.queries, rankings).results
        chosen = " (chosen on select)" if searcher.mix == opened.searcher.mix else ""
        found[f"{described(searcher)}{chosen}"] = {
            kind: [result.ap_at_10 for result in results if result.kind is kind]
            for kind in (QueryKind.SPECIFIC, QueryKind.TYPE)
        }
    return found


def _last_epochs(epochs: list[EpochVersion], count: int) -> list[EpochVersion]:
    return sorted(epochs, key=lambda epoch: (-epoch.epoch, epoch.instance))[:count]


def _by_kind(gate: Validator, score_QN: Floats) -> dict[QueryKind, list[float]]:
    results = gate.evaluate(score_QN).results
    return {
        kind: [result.ap_at_10 for result in results if result.kind is kind]
        for kind in (QueryKind.SPECIFIC, QueryKind.TYPE)
    }


def _queries_of(evaluation: EvaluationStep, system: str, kind: QueryKind) -> list[float]:
    return [
        value for query, value in zip(evaluation.queries, evaluation.systems[system], strict=True) if query.kind is kind
    ]


def _epoch_figures(gate: Validator, epoch: EpochVersion, score_QN: Floats) -> dict[str, Any]:
    return {
        "version": epoch.version,
        "instance": epoch.instance,
        "epoch": epoch.epoch,
        "select": epoch.map_at_10,
        **{kind.value: float(np.mean(values)) for kind, values in _by_kind(gate, score_QN).items() if values},
    }


def _gain(measured: dict[str, dict[QueryKind, list[float]]], ours: str, theirs: str) -> dict[str, Any]:
    gains = {}
    for kind in (QueryKind.SPECIFIC, QueryKind.TYPE):
        if measured[ours][kind]:
            interval = paired_bootstrap(np.array(measured[ours][kind]), np.array(measured[theirs][kind]), alpha=0.025)
            gains[kind.value] = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return gains


def _wall(timings: list[Timing]) -> dict[str, float]:
    """Seconds from the first step's start to the last one's end, and those in which no step was at work.

    In between lie what starts the steps (Airflow, or a shell) and the starts of their processes.
    """
    spans = sorted((datetime.fromisoformat(timing.started_at).timestamp(), timing.seconds) for timing in timings)
    start = end = spans[0][0]
    between = 0.0
    for began, seconds in spans:
        between += max(0.0, began - end)
        end = max(end, began + seconds)
    return {"seconds": round(end - start, 1), "between_steps": round(between, 1)}


def _markdown(figures: dict[str, Any], name: str) -> str:
    wall = figures["wall"]
    gain, clusters = figures["release_gain_over_best_epoch"], figures["clusters_gain"]
    searched = {
        "image": "image-only",
        "name": "with names",
        "hybrid": "with names and BM25 over them",
    }[figures["gallery"]["protocol"]]
    # Pictures and names never stand in one table.
    tables = {"": True} if searched == "image-only" else {", names in the gallery": False, ", image-only": True}
    sections = [
        f"# {name}\n",
        f"Release {figures['release']}: base `{figures['base']}`, {figures['num_products']} products, "
        f"{figures['num_gate_products']} of them in *gate* (the gallery of every figure here, {searched}). "
        f"{figures['machine']}. {figures['gallery']['chosen_because']}".rstrip()
        + "\n",
        "Made by `make demo CATALOG=path` and `enclip report`; tasks for several members overlap.\n",
        *(
            f"## Systems, mAP@10{title}\n\n{_systems_table(figures, images_only=images_only)}"
            for title, images_only in tables.items()
        ),
        "\nDifferences, paired bootstrap over queries, 95%:\n",
        markdown_table(
            ("difference", "queries", "mean", "low", "high"),
            [
                (label, kind, value["mean"], value["low"], value["high"])
                for label, gains in [
                    ("release − best epoch", gain),
                    *((f"{label} − off", values) for label, values in clusters.items()),
                ]
                for kind, value in gains.items()
            ],
        ),
        "\n## By epoch, mAP@10\n",
        markdown_table(
            ("version", "instance", "epoch", "select", "gate: specific", "gate: type"),
            [
                (
                    row["version"],
                    row["instance"],
                    row["epoch"],
                    row["select"],
                    row.get("specific", ""),
                    row.get("type", ""),
                )
                for row in figures["epochs"]
            ],
        ),
        "\n## By category, chosen release\n",
        markdown_table(
            ("category", "mAP@10", "queries", "relevant"),
            [
                (category, row["map_at_10"], row["num_queries"], row["num_relevant"])
                for category, row in figures["by_category"].items()
            ],
        ),
        "\n## Cost\n",
        f"Training: {figures['train_images_per_s']:.0f} images/s. Search: {figures['search_ratio']} × one member's "
        f"time, {figures['memory_ratio']} × its memory.\n",
        markdown_table(
            ("step", "seconds", "peak MB"),
            [
                (step, f"{seconds:.1f}", f"{figures['peak_memory_mb_by_step'][step]:.0f}")
                for step, seconds in figures["seconds_by_step"].items()
            ]
            + [("total", f"{sum(figures['seconds_by_step'].values()):.1f}", "")],
        ),
        f"\nFrom first to last: {wall['seconds']:.0f} s, of which {wall['between_steps']:.0f} s "
        f"({wall['between_steps'] / wall['seconds']:.1%}) between steps: Airflow, and the starts of processes.\n",
    ]
    return "\n".join(sections).rstrip() + "\n"


def _systems_table(figures: dict[str, Any], *, images_only: bool) -> str:
    """The systems that search pictures, or those that search names, which then say how."""
    rows = []
    for label, kinds in figures["systems"].items():
        searched = figures["protocols"][label]
        if (searched == "image") is images_only:
            found = [kinds.get(kind, {}) for kind in ("specific", "type")]
            cells = [cell for kind in found for cell in (kind.get("map_at_10", ""), kind.get("num_queries", 0))]
            rows.append((label if images_only else f"{label} ({searched})", *cells))
    return markdown_table(("system", "specific", "queries", "type", "queries"), rows)
