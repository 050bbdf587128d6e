"""What people type and what catalogs hold: an answer or one clear error, never a traceback and never silence."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from enclip.cli import main, render
from enclip.config import Settings
from enclip.models.bases import load_base
from enclip.models.checkpoint import save_checkpoint
from enclip.models.clip import ClipEncoder
from enclip.pipeline.members import member_of
from enclip.pipeline.platform import open_platform
from enclip.pipeline.promote import promote_by_hand
from enclip.records import Product, Products
from enclip.release import ClusterSettings, Manifest, write_manifest
from enclip.retrieval.searcher import Searcher

ODD_NAME = "[/b]Shirt[red] :star: \x1b[31m\u202e 👕"
SHOWN = r"[/b]Shirt[red] :star: \x1b[31m\u202e 👕"


class Answer(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def enclip(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """`enclip(*arguments, home=…)`: the command's entry point, in this process."""

    def run(*arguments: str, home: Path = tmp_path / "home") -> Answer:
        monkeypatch.setenv("ENCLIP_HOME", str(home))
        for console in (render.out, render.err):  # they read their width when the first test imported them
            monkeypatch.setattr(console, "_width", 200)
        monkeypatch.setattr(sys, "argv", ["enclip", *arguments])
        status = 0
        try:
            main()
        except SystemExit as exit:
            status = int(exit.code or 0)
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose champion is a release of three products, one with an odd name."""
    scratch = tmp_path_factory.mktemp("release")
    platform = open_platform(Settings(ENCLIP_HOME=scratch / "home", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    model = load_base("tiny", seed=0, device=torch.device("cpu"))
    save_checkpoint(scratch / "checkpoint", model, pixel_side=model.side)
    epoch = platform.registry.log_epoch(
        platform.registry.open_run("training", kind="retrain", params={}),
        scratch / "checkpoint",
        instance=0,
        epoch=0,
        metrics={},
        snapshot="5" * 64,
        num_products=3,
    )
    products = Products.from_rows(
        [
            Product(str(number), name, "", sub_category="Topwear", price=price)
            for number, (name, price) in enumerate(((ODD_NAME, None), ("Tee", 12.5), ("Cap", 30.0)))
        ]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, model.side, model.side, 3), np.uint8)
    embedding_ND = ClipEncoder(model).encode_images(pixels)
    Searcher.build(products, [embedding_ND], [1.0], cluster_count=1, rescored=3).save(scratch / "release")
    member = member_of(epoch, model.side)
    manifest = Manifest(
        kind="retrain",
        run_id="first",
        base="tiny",
        snapshot="5" * 64,
        trained_on="5" * 64,
        num_products=3,
        members=(member,),
        clusters=ClusterSettings(count=1, pull=0.0),
        rescored=3,
        chosen_because="the only one",
        created_at="2026-01-01T00:00:00Z",
    )
    run = platform.registry.open_run("first", kind="retrain", params={})
    platform.registry.log_release(run, scratch / "release", write_manifest(scratch / "release", manifest))
    promote_by_hand(platform, 1)
    return scratch / "home"


def picture(side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), "navy").save(out, "JPEG")
    return out.getvalue()


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def check_error(answer: Answer, *says: str) -> None:
    assert answer.status == 1
    assert answer.err.startswith("error: ") and "Traceback" not in answer.err
    assert [words for words in says if words not in answer.err] == []
    assert not answer.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x", "--release", "99"], ["no release 99", "champion (1)"]),
        (["x", "--release", "nobody"], ["'nobody'", "champion (1)"]),
        (["x", "--release", ""], ["''", "champion (1)"]),
        (["x", "-k", "0"], ["k is 0", "between 1 and"]),
        (["x", "-k", "-1"], ["k is -1", "between 1 and"]),
        (["x", "-k", "100000"], ["k is 100000", "between 1 and"]),
        ([], ["needs words, a picture or a product"]),
        (["  \t "], ["needs words, a picture or a product"]),
        (["x" * 100_000], ["100000 characters", "at most 1000"]),
        (["x", "--price-min", "5", "--price-max", "4"], ["--price-min 5 and --price-max 4", "try: "]),
        (["x", "--price-max", "-1"], ["No price passes --price-max -1."]),
        (["x", "--price-min", "nan"], ["No price passes --price-min nan."]),
        (["x", "--text-weight", "nan"], ["Weights are numbers"]),
        (["x", "--text-weight", "0"], ["nothing to search for"]),
    ],
)
def test_a_search_that_cannot_be_answered_says_why(
    enclip: Command, home: Path, arguments: list[str], says: list[str]
) -> None:
    check_error(enclip("search", *arguments, home=home), *says)


@pytest.mark.parametrize(("command", "argument"), [("search", "-k"), ("draw", "--products")])
def test_a_number_that_is_none_shows_the_usage(enclip: Command, command: str, argument: str) -> None:
    answer = enclip(command, "x", argument, "many")
    assert answer.status == 2 and "Usage" in answer.err and argument in answer.err


@pytest.mark.parametrize(
    "text", ["👕🟦", "قميص أزرق", "\u202eshirt", "[/b][red]", ":star:", "\x1b[31mred", "n\udcffo", "=1+1"]
)
def test_any_words_are_searched_and_shown_as_they_are(enclip: Command, home: Path, text: str) -> None:
    answer = enclip("search", text, "-k", "3", home=home)
    assert answer.status == 0, answer.err
    assert SHOWN in answer.out
    assert "\x1b" not in answer.out and "\u202e" not in answer.out
    found = json.loads(enclip("search", text, "--json", home=home).out)
    assert {result["name"] for result in found["results"]} == {ODD_NAME, "Tee", "Cap"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "The picture is empty"),
        (b"<html>", "none of JPEG, PNG"),
        (picture(200)[:600], "cannot be decoded"),
        (bomb(), "too large: 25 MP"),
        (bytes(20_000_001), "more than 20 MB"),
        (None, "No such file"),
    ],
    ids=["empty", "html", "cut", "bomb", "huge", "missing"],
)
def test_what_is_no_picture_is_named_with_its_file(
    enclip: Command, tmp_path: Path, content: bytes | None, says: str
) -> None:
    # Before a release is opened: this home has none.
    path = tmp_path / "query.jpg"
    if content is not None:
        path.write_bytes(content)
    check_error(enclip("search", "--image", str(path)), str(path), says, "try: ")


def test_pipes_devices_and_folders_are_no_pictures(enclip: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero"), tmp_path):
        check_error(enclip("search", "--image", str(path)), f"{path} is no file")


@pytest.mark.parametrize(
    ("bounds", "names"),
    [
        (["--price-min", "12.5"], {"Tee", "Cap"}),
        (["--price-max", "12.5"], {"Tee"}),
        (["--price-min", "13", "--price-max", "29"], set()),
    ],
)
def test_a_search_by_price(enclip: Command, home: Path, bounds: list[str], names: set[str]) -> None:
    found = json.loads(enclip("search", "x", *bounds, "--json", home=home).out)["results"]
    assert {result["name"] for result in found} == names
    assert {result["price"] for result in found} <= {12.5, 30.0}
    assert ("12.50" in enclip("search", "x", *bounds, home=home).out) == ("Tee" in names)


def test_a_search_that_finds_nothing_says_so(enclip: Command, home: Path) -> None:
    answer = enclip("search", "x", "--category", "Nonsense", home=home)
    assert answer.status == 0 and "No product" in answer.err
    assert json.loads(enclip("search", "x", "--category", "Nonsense", "--json", home=home).out)["results"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rollback"], "No release with another ensemble"),
        (["rollback", "--to", "99"], "no release 99"),
        (["rollback", "--to", "x"], "'x'"),
        (["promote", "99"], "no release 99"),
        (["evaluate", "--release", "99"], "no release 99"),
        (["evaluate", "--catalog", "/nowhere"], "/nowhere"),
        (["evaluate", "--catalog", "x", "--map", "name"], "--map 'name' is not understood"),
        (["gate", "--run", "nobody"], "nobody"),
        (["gate", "--run", "../../x"], "'../../x'"),
    ],
)
def test_releases_and_runs_that_are_not_there_are_named(
    enclip: Command, home: Path, arguments: list[str], says: str
) -> None:
    check_error(enclip(*arguments, home=home), says, "try: ")


def write_shop(folder: Path, table: str, *ids: str) -> str:
    (folder / "images").mkdir(parents=True)
    (folder / "styles.csv").write_text(table)
    for number, product_id in enumerate(ids, 8):
        (folder / "images" / f"{product_id}.jpg").write_bytes(picture(number))
    return str(folder)


def test_rows_set_aside_are_listed_as_they_are_counted(enclip: Command, tmp_path: Path) -> None:
    rows = ["[/b],Brackets", "\x1b[31m,Colours", "good,Shirt", *(f"{number},Without a picture" for number in range(30))]
    shop = write_shop(tmp_path / "shop", "\n".join(["id,productDisplayName", *rows]), "good")
    answer = enclip("ingest", shop)
    assert answer.status == 0, answer.err
    assert "Set aside (20 of 32)" in answer.out
    assert "[/b]" in answer.out and "\x1b" not in answer.out
    report = json.loads(enclip("ingest", shop, "--json").out)
    assert (report["accepted"], report["unchanged"], report["rejected"], report["gone"]) == (0, 1, 32, 0)
    assert len(report["rejections"]) == 32
    assert report["rejections"][0].keys() == {"row", "product_id", "reason"}


def test_an_ingest_of_nothing_says_so(enclip: Command, tmp_path: Path) -> None:
    answer = enclip("ingest", write_shop(tmp_path / "empty", "id,productDisplayName\n"))
    assert answer.status == 0 and "has no product." in answer.err
    shop = write_shop(tmp_path / "shop", "id,productDisplayName\n1,Shirt\n", "1")
    answer = enclip("ingest", shop, "--category", "Nonsense", "--json")
    assert "no product of category Nonsense" in answer.err
    assert json.loads(answer.out)["accepted"] == 0


def test_one_product_of_one_category_is_taken_in(enclip: Command, tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", "id,productDisplayName,articleType\n1,Shirt,Shirts\n", "1")
    assert json.loads(enclip("ingest", shop, "--json").out)["accepted"] == 1
    assert json.loads(enclip("status", "--json").out)["catalog"]["live"] == 1


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "is empty"),
        ("sku,title\n1,Shirt\n", "no column id"),
        ("id,articleType\r1,Shirts\r", "no line ends"),
    ],
)
def test_a_catalog_that_is_none_is_one_error(enclip: Command, tmp_path: Path, table: str, says: str) -> None:
    shop = write_shop(tmp_path / "shop", table)
    check_error(enclip("ingest", shop), f"{shop}/styles.csv", says, "try: ")


def test_a_folder_that_cannot_be_written_is_one_error(enclip: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_error(enclip("draw", str(tmp_path / "file"), "--products", "1"), str(tmp_path / "file"), "try: ")


def test_names_that_a_terminal_s_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", "id,productDisplayName\n👕,Shirt\n")
    done = subprocess.run(
        [sys.executable, "-m", "enclip", "ingest", shop],
        env={**os.environ, "ENCLIP_HOME": str(tmp_path / "home"), "PYTHONIOENCODING": "latin-1", "COLUMNS": "200"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert rb"\U0001f455" in done.stdout
