"""What a run has come to, for people: figures, gates, the alias, and pictures that were found."""

import io
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from enclip.pipeline.runs import EvaluationStep, GateStep
from enclip.standalone.processes import direct, get_json, post_json

VERDICTS = {"pass": "green", "fail": "red", "ask": "yellow", "insufficient": "dim"}
NUM_EXAMPLES = 5
NUM_FOUND = 8
TILE = (120, 160)
GAP = 12
TITLE_HEIGHT = 34


def show_figures(console: Console, evaluation: EvaluationStep) -> None:
    """mAP@10 of every system by kind of query, and the challenger's by category, with counts of queries."""
    summary = evaluation.summary()
    for gallery, systems in evaluation.by_gallery().items():
        table = Table(title=f"Release {evaluation.release}: mAP@10, gate split, {gallery}", title_justify="left")
        table.add_column("system")
        for kind, figures in summary["by_kind"].items():
            star = " ★" if kind == summary["headline"] else ""
            table.add_column(f"{kind}{star} ({figures['num_queries']})", justify="right")
        for label, system in systems.items():
            table.add_row(label, *(_figure(figures[system]) for figures in summary["by_kind"].values()))
        console.print(table)
    table = Table(title=f"By category, {summary['headline']} queries ★", title_justify="left")
    for column in ("category", "mAP@10", "queries", "relevant"):
        table.add_column(column, justify="left" if column == "category" else "right")
    for name, row in summary["categories"].items():
        table.add_row(escape(name), _figure(row["map_at_10"]), str(row["num_queries"]), str(row["num_relevant"]))
    console.print(table)


def show_gates(console: Console, gate: GateStep) -> None:
    """Each gate's verdict, what it saw and what it asked for, with the reason; and the decision."""
    table = Table(title=f"Gates of release {gate.release}: {gate.outcome}", title_justify="left")
    for column in ("gate", "verdict", "value", "bound", "reason"):
        is_figure = column in ("value", "bound")
        # In a narrow terminal the reason is what wraps: a figure in two parts misleads.
        table.add_column(column, justify="right" if is_figure else "left", no_wrap=is_figure)
    for row in gate.results:
        verdict = f"[{VERDICTS[row.verdict]}]{row.verdict}[/]"
        table.add_row(escape(row.gate), verdict, _of_gate(row.value), _of_gate(row.bound), escape(row.reason))
    console.print(table)
    console.print(gate.summary, markup=False)


def show_alias(console: Console, status: dict[str, Any]) -> None:
    """What `champion`, `challenger` and `previous` point to, and the champion's members."""
    champion = status["champion"]
    table = Table(title="The alias now", title_justify="left")
    for column in ("alias", "release", "mAP@10", "members"):
        table.add_column(column)
    members = ", ".join(
        f"v{member['version']} (instance {member['instance']}, epoch {member['epoch']}, weight {member['weight']:.2f})"
        for member in champion["members"]
    )
    table.add_row("champion", str(champion["release"]), _figure(champion["metrics"].get("map_at_10")), members)
    for name in ("challenger", "previous"):
        table.add_row(name, str(status[name] or "–"), "", "")
    console.print(table)


def example_queries(evaluation: EvaluationStep, *, most: int = NUM_EXAMPLES) -> list[str]:
    """Queries that the release was measured with, from as many categories as there are, the largest first."""
    headline = [query for query in evaluation.queries if query.kind is evaluation.headline]
    headline.sort(key=lambda query: (-query.num_relevant, query.text))
    seen: dict[str, str] = {}
    for query in headline:
        seen.setdefault(query.category, query.text)
    return list(dict.fromkeys([*seen.values(), *(query.text for query in headline)]))[:most]


def found(search_url: str, text: str, *, api_keys: SecretStr, k: int = NUM_FOUND) -> dict[str, Any]:
    """The search service's answer to a holder of its keys. Raises OSError where it does not answer."""
    first = api_keys.get_secret_value().split(",")[0].strip()
    headers = {"X-API-Key": first} if first else {}
    answer: dict[str, Any] = post_json(f"{search_url}/v1/search", {"text": text, "k": k}, headers=headers)
    return answer


def ready_release(search_url: str) -> int | None:
    """The release that the search service answers from; None before the first."""
    try:
        release = get_json(f"{search_url}/health/ready")["release"]
    except (OSError, ValueError, KeyError):
        return None
    return None if release is None else int(release)


def show_answer(console: Console, text: str, answer: dict[str, Any]) -> None:
    """One search as a table."""
    title = f"“{escape(text)}”: release {answer['release']}, {answer['took_ms']:.0f} ms"
    table = Table(title=title, title_justify="left")
    for column in ("", "product", "name", "category", "colour", "score"):
        table.add_column(column)
    for place, hit in enumerate(answer["results"], 1):
        score = _figure(hit["score"])
        words = [escape(hit[name]) for name in ("product_id", "name", "category", "colour")]
        table.add_row(str(place), *words, score)
    console.print(table)


def draw_results(file: Path, search_url: str, answers: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """A picture with a row for each query and the products found, best first."""
    width = GAP + NUM_FOUND * (TILE[0] + GAP)
    row_height = TITLE_HEIGHT + TILE[1] + GAP
    canvas = Image.new("RGB", (width, GAP + row_height * len(answers)), "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=20)
    for row, (text, answer) in enumerate(answers):
        top = GAP + row * row_height
        pen.text((GAP, top), text, fill="#1a1a1a", font=font)
        for place, hit in enumerate(answer["results"]):
            left = GAP + place * (TILE[0] + GAP)
            canvas.paste(_tile(search_url + hit["image"]), (left, top + TITLE_HEIGHT))
            pen.rectangle(
                (left - 1, top + TITLE_HEIGHT - 1, left + TILE[0], top + TITLE_HEIGHT + TILE[1]), outline="#d9d9d9"
            )
    canvas.save(file)


def _tile(url: str) -> Image.Image:
    with direct.open(urllib.parse.quote(url, safe=":/%?=&"), timeout=10) as response:
        picture = Image.open(io.BytesIO(response.read())).convert("RGB")
    scale = min(TILE[0] / picture.width, TILE[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    tile = Image.new("RGB", TILE, "white")
    tile.paste(picture.resize(size, Image.Resampling.LANCZOS), ((TILE[0] - size[0]) // 2, (TILE[1] - size[1]) // 2))
    return tile


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _of_gate(value: int | float | None) -> str:
    """A count of queries as it is; nothing where a gate compares no figures."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
