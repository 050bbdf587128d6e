"""What the demo does to a home before it starts anything, and what it shows at the end."""

import io
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from enclip.catalog.drawn import draw_catalog
from enclip.config import Settings
from enclip.errors import ConfigError
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.platform import open_platform
from enclip.pipeline.runs import EvaluationStep, GateRow, GateStep, QueryRow
from enclip.records import QueryKind
from enclip.standalone import demo, outcome
from enclip.standalone.processes import Processes, Service, answers, free_port


def ingested(settings: Settings, folder: Path, *, num_products: int = 24) -> None:
    draw_catalog(folder, num_products=num_products, seed=5)
    assert ingest_source(open_platform(settings), str(folder)).accepted == num_products


def quiet(*, width: int = 200) -> Console:
    return Console(file=io.StringIO(), width=width)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_drawn_demo_does_not_mix_with_a_catalog_of_yours(tmp_path: Path) -> None:
    settings = Settings(ENCLIP_HOME=tmp_path / "home")
    ingested(settings, tmp_path / "mine")
    with pytest.raises(ConfigError, match="holds 24 products of yours"):
        demo.drawn_batches(settings)
    assert not (tmp_path / "home" / "demo").exists()


def test_the_drawn_demo_runs_again_on_its_own_home(tmp_path: Path) -> None:
    settings = Settings(ENCLIP_HOME=tmp_path / "home")
    ingested(settings, tmp_path / "home" / "demo" / "first")
    first, later = demo.drawn_batches(settings)
    assert len((Path(first) / "styles.csv").read_text().splitlines()) == demo.DRAWN_FIRST + 1
    assert len(list((Path(later) / "images").iterdir())) == demo.DRAWN_LATER
    ids = [{path.stem for path in (Path(folder) / "images").iterdir()} for folder in (first, later)]
    assert not ids[0] & ids[1]


def test_your_catalog_sets_a_drawn_home_aside_and_starts_anew(tmp_path: Path) -> None:
    settings = Settings(ENCLIP_HOME=tmp_path / "home")
    (tmp_path / "home-drawn-1").mkdir()
    ingested(settings, tmp_path / "home" / "demo" / "first")
    draw_catalog(tmp_path / "mine", num_products=1, seed=0)
    console = quiet()

    assert demo.own_batch(settings, str(tmp_path / "mine"), console) == [str(tmp_path / "mine")]

    assert str(tmp_path / "home-drawn-2") in shown(console)
    assert (tmp_path / "home-drawn-2" / "catalog.db").exists()
    assert open_platform(settings).catalog.counts().live == 0


def test_your_catalog_goes_on_in_a_home_of_yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(ENCLIP_HOME=tmp_path / "home")
    ingested(settings, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert demo.own_batch(settings, "mine", quiet()) == [str(tmp_path / "mine")]
    assert open_platform(settings).catalog.counts().live == 24
    assert demo.own_batch(settings, "s3://shop/feed", quiet()) == ["s3://shop/feed"]


def test_drawn_products_in_a_database_elsewhere_are_left_to_the_user(tmp_path: Path) -> None:
    settings = Settings(ENCLIP_HOME=tmp_path / "home", ENCLIP_DATABASE_URL=f"sqlite:///{tmp_path}/other.db")
    ingested(settings, tmp_path / "home" / "demo" / "first")
    with pytest.raises(ConfigError, match="only embedded state can be set aside"):
        demo.own_batch(settings, str(tmp_path), quiet())


def test_a_catalog_that_does_not_exist_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no catalog at .*nowhere"):
        demo.run_demo(Settings(ENCLIP_HOME=tmp_path / "home"), catalog=str(tmp_path / "nowhere"))
    assert not (tmp_path / "home" / "logs").exists()


def evaluation() -> EvaluationStep:
    rows = [
        ("q1", QueryKind.SPECIFIC, "Men Red Shirts", "Topwear", 9),
        ("q2", QueryKind.SPECIFIC, "Men Blue Shirts", "Topwear", 7),
        ("q3", QueryKind.SPECIFIC, "Women Red Bags", "Bags", 5),
        ("q4", QueryKind.TYPE, "Shirts", "Topwear", 30),
    ]
    return EvaluationStep(
        release=4,
        champion=3,
        best_of_year=None,
        headline=QueryKind.SPECIFIC,
        queries=tuple(
            QueryRow(query_id=a, kind=b, text=c, category=d, master_category="x", num_relevant=e)
            for a, b, c, d, e in rows
        ),
        systems={"challenger": (0.5, 1.0, 0.75, 0.25), "champion": (0.5, 0.5, 0.5, 0.5)},
        new_categories=(),
        overfit_gap=None,
        search_ratio=None,
        memory_ratio=1.0,
    )


def test_figures_stand_beside_their_counts() -> None:
    console = quiet()
    outcome.show_figures(console, evaluation())
    lines = shown(console).splitlines()
    (heading,) = [line for line in lines if "system" in line]
    assert [cell.strip() for cell in heading.split("┃")[1:4]] == ["system", "specific ★ (3)", "type (1)"]
    (champion,) = [line for line in lines if "champion" in line]
    assert [cell.strip() for cell in champion.split("│")[2:4]] == ["0.500", "0.500"]
    (bags,) = [line for line in lines if "Bags" in line]
    assert [cell.strip() for cell in bags.split("│")[2:5]] == ["0.750", "1", "5"]


def test_figures_of_many_systems_fit_a_terminal() -> None:
    without = [f"without {part}" for part in ("clusters", "bank", "attributes", "student", "names", "words of names")]
    console = quiet(width=80)
    systems = dict.fromkeys(["challenger", *without, "best member", "base"], (0.5,) * 4)
    outcome.show_figures(console, evaluation().model_copy(update={"systems": systems}))
    lines = shown(console).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split("│")[1].strip() for line in lines if "without" in line] == without


def test_a_refusal_is_shown_with_its_reasons() -> None:
    console = quiet()
    row = GateRow(gate="champion", verdict="fail", value=-0.1, bound=-0.01, reason="It lost [much].")
    gate = GateStep(release=4, champion=3, outcome="refuse", results=(row,), summary="Release 4 was refused [sic].")
    outcome.show_gates(console, gate)
    assert "It lost [much]." in shown(console)
    assert "Release 4 was refused [sic]." in shown(console)


def test_gates_show_value_and_bound_and_fit_a_terminal() -> None:
    console = quiet(width=80)
    asked = {"value": 0.412, "bound": 0.05, "reason": "Evidence that its best member alone is better: p = 0.412."}
    count = {"value": 2, "bound": 20, "reason": "Category Hats is new and has 2 gate queries: a person decides."}
    rows = (
        GateRow(gate="best member", verdict="pass", **asked),
        GateRow(gate="new category Hats and Headwear", verdict="ask", **count),
        GateRow(gate="approval", verdict="ask", reason="A person's approval was asked for."),
    )
    gate = GateStep(release=4, champion=3, outcome="ask", results=rows, summary="A person decides.")
    outcome.show_gates(console, GateStep.model_validate_json(gate.model_dump_json()))
    lines = shown(console).splitlines()
    assert max(map(len, lines)) <= 80
    cells = [[cell.strip() for cell in line.split("│")[1:5]] for line in lines if line.startswith("│")]
    assert ["best member", "pass", "0.412", "0.050"] in cells
    assert ["approval", "ask", "", ""] in cells
    assert any(row[1:] == ["ask", "2", "20"] for row in cells), "a count of queries is no fraction"


def test_examples_come_from_as_many_categories_as_there_are() -> None:
    assert outcome.example_queries(evaluation(), most=2) == ["Men Red Shirts", "Women Red Bags"]
    assert outcome.example_queries(evaluation()) == ["Men Red Shirts", "Women Red Bags", "Men Blue Shirts"]


def test_the_picture_shows_what_was_found_row_by_row(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (60, 80), colour).save(tmp_path / f"{name}.png")
    port = free_port()
    server = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path))
    found = [("red things", {"results": [{"image": "/a.png"}, {"image": "/b.png"}]}), ("none", {"results": []})]
    with Processes() as processes:
        processes.start(Service("Pictures", server, tmp_path / "server.log"))
        processes.wait_until(lambda: answers(f"http://127.0.0.1:{port}/a.png"), what="pictures", timeout_s=20)
        outcome.draw_results(tmp_path / "found.png", f"http://127.0.0.1:{port}", found)

    picture = Image.open(tmp_path / "found.png")
    row = outcome.GAP + outcome.TITLE_HEIGHT + outcome.TILE[1] // 2
    left = outcome.GAP + outcome.TILE[0] // 2
    assert picture.getpixel((left, row)) == (255, 0, 0)
    assert picture.getpixel((left + outcome.TILE[0] + outcome.GAP, row)) == (0, 0, 255)
    assert picture.height == outcome.GAP + 2 * (outcome.TITLE_HEIGHT + outcome.TILE[1] + outcome.GAP)
