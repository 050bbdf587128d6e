"""A release for people: Markdown, a table per category, the gate report, plots, an audit of the catalog."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.catalog.images import decode, image_key
from enclip.errors import EnclipError
from enclip.evaluation.markdown import markdown_table
from enclip.evaluation.plots import plot_categories, plot_clusters, plot_epochs
from enclip.pipeline.audit import audit_searcher, draw_suspects, write_audit
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import EvaluationStep, GateStep, Plan, RunFolder, TrainStep
from enclip.pipeline.tables import write_csv
from enclip.records import QueryKind
from enclip.release import Manifest, Member
from enclip.retrieval.searcher import Searcher

WHOLE = "description.md"
MOST_CHARS = 5_000
CATEGORY = "category "  # begins the names of their gates


def describe_release(platform: Platform, plan: Plan, evaluation: EvaluationStep, gate: GateStep, folder: Path) -> str:
    """Write gate report, tables and plots into the folder; the description in Markdown, as MLflow takes it."""
    manifest = platform.registry.release_manifest(gate.release)
    (folder / "gate.json").write_text(gate.model_dump_json(indent=2))
    (folder / "evaluation.json").write_text(json.dumps(evaluation.summary(), indent=2))
    _write_queries(folder / "per_query.csv", evaluation)
    _write_categories(folder / "categories.csv", evaluation)
    _plots(platform, plan, evaluation, folder)
    searcher = open_release(platform, evaluation.release, encoders=False).searcher
    _pictures(platform, searcher, folder)
    description = _markdown(plan, evaluation, gate, manifest)
    (folder / WHOLE).write_text(description)
    return shortened(description)


def shortened(description: str) -> str:
    """A description of at most 5,000 characters: whole sections are left out, those first that a person misses least.

    MLflow stores no more on a server's database; SQLite takes any length, so that only a server shows it.
    """
    head, *sections = re.split(r"(?m)^(?=### )", description)
    rest = f"\nMore is in the report, `report/{WHOLE}`.\n"
    for title in ("### By category", "### Candidates", "### Members", "### mAP@10"):
        if len(head) + sum(map(len, sections)) <= MOST_CHARS:
            break
        sections = [section for section in sections if not section.startswith(title)]
        head = head.removesuffix(rest) + rest
    text = head + "".join(sections)
    return text if len(text) <= MOST_CHARS else text[: MOST_CHARS - 1] + "…"


def _markdown(plan: Plan, evaluation: EvaluationStep, gate: GateStep, manifest: Manifest) -> str:
    against = f"release {gate.champion}" if gate.champion else "no champion yet"
    parts = [
        f"**{gate.summary}**\n",
        f"{manifest.num_products} products, snapshot `{manifest.snapshot[:12]}`, base `{manifest.base}`, "
        f"run `{plan.run_id}`; measured against {against}.\n",
        f"{manifest.chosen_because}\n",
        _choices(manifest),
        "### Members\n",
        markdown_table(
            ("enclip-epoch version", "what", "weight", "views of a picture"),
            [(member.version, _what(member), member.weight, member.views) for member in manifest.members],
        ),
        "\n### Candidates, by plain cosines of one view on select\n",
        markdown_table(
            ("candidate", "members", "mAP@10", "ms for words", "MB", "within budget"),
            [
                (
                    candidate.name,
                    len(candidate.versions),
                    candidate.map_at_10,
                    _cell(candidate.text_ms),
                    _cell(candidate.memory_mb),
                    "yes" if candidate.within_budget else "no",
                )
                for candidate in manifest.candidates
            ],
        ),
        *(_systems(evaluation, title, systems) for title, systems in evaluation.by_gallery().items()),
        f"\n### By category, {evaluation.protocol()}\n",
        markdown_table(
            ("category", "mAP@10", "champion", "queries"),
            [
                (
                    name,
                    value,
                    _cell(evaluation.mean("champion", category=name)) if "champion" in evaluation.systems else "",
                    sum(query.category == name and query.kind is evaluation.headline for query in evaluation.queries),
                )
                for name, value in evaluation.by_category.items()
            ],
        ),
        "\n### Gates\n",
        gates_table(gate),
    ]
    return "\n".join(parts)


def gates_table(gate: GateStep) -> str:
    """Every gate with what it saw, what it asked for, and why it passed or not, in Markdown.

    Categories that have too few queries to be judged share one row: a catalog has dozens of them.
    """
    small = [row for row in gate.results if row.gate.startswith(CATEGORY) and row.verdict == "insufficient"]
    rows: list[tuple[str | float, ...]] = [
        (row.gate, row.verdict, _cell(row.value), _cell(row.bound), row.reason)
        for row in gate.results
        if len(small) < 2 or row not in small
    ]
    if len(small) > 1:
        named = ", ".join(row.gate.removeprefix(CATEGORY) for row in small)
        rows.append(
            (f"{len(small)} categories", "insufficient", "", "", f"Too few gate queries to judge each: {named}.")
        )
    return markdown_table(("gate", "verdict", "value", "bound", "reason"), rows)


def _choices(manifest: Manifest) -> str:
    """Part after part of the release, why it is as it is."""
    index, gallery = manifest.index, manifest.gallery
    why = {
        "Clusters": manifest.clusters.chosen_because or f"{manifest.clusters.count}.",
        "Likely queries": manifest.bank.chosen_because or "none.",
        "Attributes": manifest.attributes.chosen_because or "none.",
        "Attributes by name": manifest.attributes.name_chosen_because,
        "Index": f"{index.kind}. {index.chosen_because}",
        "Words": manifest.student.chosen_because or "each member encodes them.",
        "Gallery": f"{gallery.protocol}. {gallery.chosen_because}",
    }
    return "\n".join(f"- **{part}**: {reason}".rstrip() for part, reason in why.items() if reason) + "\n"


def _systems(evaluation: EvaluationStep, title: str, systems: Mapping[str, str]) -> str:
    rows = [
        (label, *(_cell(evaluation.mean(system, kind=kind)) for kind in QueryKind)) for label, system in systems.items()
    ]
    header = ("system", *(f"{kind.value} ({_count(evaluation, kind)})" for kind in QueryKind))
    return f"\n### mAP@10 on gate, {title}\n\n{markdown_table(header, rows)}"


def _what(member: Member) -> str:
    if member.ingredients:
        return "soup of versions " + ", ".join(str(part.version) for part in member.ingredients)
    return f"instance {member.instance}, epoch {member.epoch}"


def _plots(platform: Platform, plan: Plan, evaluation: EvaluationStep, folder: Path) -> None:
    trained = RunFolder(platform.blobs, plan.run_id).find("train", TrainStep)
    if trained is not None:
        series: dict[str, list[tuple[int, float]]] = {}
        for epoch in trained.epochs:
            series.setdefault(f"instance {epoch.instance}", []).append((epoch.epoch, epoch.map_at_10))
        plot_epochs(folder / "map_at_10_by_epoch.png", series, title="mAP@10 on select by epoch")
    if evaluation.by_category:
        counts = {
            name: sum(query.category == name and query.kind is evaluation.headline for query in evaluation.queries)
            for name in evaluation.by_category
        }
        champion = (
            {name: evaluation.mean("champion", category=name) or 0.0 for name in evaluation.by_category}
            if "champion" in evaluation.systems
            else None
        )
        plot_categories(folder / "map_at_10_by_category.png", evaluation.by_category, champion, num_queries=counts)


def _pictures(platform: Platform, searcher: Searcher, folder: Path) -> None:
    """The clusters as a map, and what looks wrong in the catalog as a list and as pictures."""

    def thumbnail(row: int) -> NDArray[np.uint8] | None:
        try:
            return decode(platform.blobs.get(image_key(searcher.products.image_sha256[row])))
        except EnclipError:
            return None

    plot_clusters(
        folder / "clusters.png",
        searcher.projection.gallery(searcher.embedding_ND),
        searcher.clusters.assignment_N,
        thumbnail,
    )
    found = audit_searcher(searcher, without=platform.catalog.withdrawn_ids())
    write_audit(found, folder / "audit.csv")
    draw_suspects(found, searcher.products, thumbnail, folder / "suspects.png")


def _write_queries(path: Path, evaluation: EvaluationStep) -> None:
    write_csv(
        path,
        ("query_id", "kind", "category", "num_relevant", *evaluation.systems),
        [
            (
                *(query.query_id, query.kind.value, query.category, query.num_relevant),
                *(evaluation.systems[system][row] for system in evaluation.systems),
            )
            for row, query in enumerate(evaluation.queries)
        ],
    )


def _write_categories(path: Path, evaluation: EvaluationStep) -> None:
    write_csv(
        path,
        ("category", "num_queries", "num_relevant", *evaluation.systems),
        [
            (
                *(name, values["num_queries"], values["num_relevant"]),
                *(evaluation.mean(system, category=name) for system in evaluation.systems),
            )
            for name, values in evaluation.summary()["categories"].items()
        ],
    )


def _count(evaluation: EvaluationStep, kind: QueryKind) -> int:
    return sum(query.kind is kind for query in evaluation.queries)


def _cell(value: float | None) -> float | str:
    return "" if value is None else value
