"""`enclip audit` and `enclip search --spread` over a real release of drawn products, two of them with one picture."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from enclip.catalog.images import decode, fit_square
from enclip.cli import main
from enclip.config import Settings
from enclip.models.bases import load_base
from enclip.models.checkpoint import save_checkpoint
from enclip.models.clip import ClipEncoder
from enclip.models.soup import estimate_batch_norm
from enclip.pipeline.audit import audit_searcher, draw_suspects, findings
from enclip.pipeline.members import member_of
from enclip.pipeline.open_release import OpenRelease, open_release
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.promote import promote_by_hand
from enclip.records import Product, Products
from enclip.release import ClusterSettings, Manifest, write_manifest
from enclip.retrieval.audit import Audit, Suspect
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.spread import DUPLICATES

FORMULA = "=HYPERLINK(1)"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, drawn_catalog: Path) -> Path:
    """Release 2, the champion, stores its near-duplicates; release 1 is from before there were any."""
    scratch = tmp_path_factory.mktemp("release")
    platform = open_platform(Settings(ENCLIP_HOME=scratch / "home", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    with open(drawn_catalog / "styles.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = {row["id"]: decode((drawn_catalog / "images" / f"{row['id']}.jpg").read_bytes()) for row in rows}
    first, second = rows[0]["id"], rows[1]["id"]
    pictures[second] = pictures[first]
    products = Products.from_rows(
        [
            Product(
                row["id"],
                FORMULA if row["id"] == second else row["productDisplayName"],
                first if row["id"] == second else row["id"],
                gender=row["gender"],
                sub_category=row["subCategory"],
                article_type="@SUM" if row["id"] == second else row["articleType"],
                base_colour=row["baseColour"],
            )
            for row in rows
        ]
    )
    model = load_base("tiny", seed=0, device=torch.device("cpu"))
    pixels = np.stack([fit_square(pictures[product_id], model.side) for product_id in products.product_id])
    estimate_batch_norm(model, pixels, torch.device("cpu"))
    save_checkpoint(scratch / "checkpoint", model, pixel_side=model.side)
    epoch = platform.registry.log_epoch(
        platform.registry.open_run("training", kind="retrain", params={}),
        scratch / "checkpoint",
        instance=0,
        epoch=0,
        metrics={},
        snapshot="5" * 64,
        num_products=len(products),
    )
    embedding_ND = ClipEncoder(model).encode_images(pixels)
    searcher = Searcher.build(products, [embedding_ND], [1.0], cluster_count=6, rescored=50)
    for run_id in ("before", "after"):
        folder = scratch / run_id
        searcher.save(folder)
        if run_id == "after":
            findings(searcher)[0].save(folder / DUPLICATES)
        manifest = Manifest(
            kind="retrain",
            run_id=run_id,
            base="tiny",
            snapshot="5" * 64,
            trained_on="5" * 64,
            num_products=len(products),
            members=(member_of(epoch, model.side),),
            clusters=ClusterSettings(count=searcher.clusters.count, pull=0.0),
            rescored=50,
            chosen_because="the only one",
            created_at="2026-01-01T00:00:00Z",
        )
        run = platform.registry.open_run(run_id, kind="retrain", params={})
        platform.registry.log_release(run, folder, write_manifest(folder, manifest))
    promote_by_hand(platform, 2)
    return scratch / "home"


@pytest.fixture
def platform(home: Path) -> Platform:
    return open_platform(Settings(ENCLIP_HOME=home, MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))


@pytest.fixture
def release(platform: Platform) -> OpenRelease:
    return open_release(platform, 2)


@pytest.fixture
def enclip(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path) -> Command:
    def run(*arguments: str, columns: int = 200) -> tuple[int, str, str]:
        monkeypatch.setenv("ENCLIP_HOME", str(home))
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["enclip", *arguments])
        status = 0
        try:
            main()
        except SystemExit as exit:
            status = int(exit.code or 0)
        return status, *capsys.readouterr()

    return run


def test_json_has_both_lists(enclip: Command, release: OpenRelease) -> None:
    status, out, err = enclip("audit", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["release"] == 2
    same = [group for group in found["duplicates"] if all(product["same_picture"] for product in group["products"])]
    assert {product["product_id"] for product in same[0]["products"]} == {
        str(product_id) for product_id in release.products.product_id[:2]
    }
    assert "article_type" in same[0]["differs"] and same[0]["products"][0]["similarity"] == 1.0
    assert {"given", "proposed", "confidence", "cluster", "purity", "evidence"} <= found["suspects"][0].keys()


def test_a_table_fits_a_narrow_terminal(enclip: Command) -> None:
    status, out, _ = enclip("audit", columns=100)
    assert status == 0
    assert "labels to look at" in out and "Near-duplicates" in out
    assert max(map(len, out.splitlines())) <= 100


def test_the_file_has_every_finding_and_no_formula(enclip: Command, tmp_path: Path) -> None:
    path = tmp_path / "audit.csv"
    status, out, _ = enclip("audit", "champion", "--csv", str(path), "--json")
    found = json.loads(out)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert status == 0
    assert sum(row["finding"] == "label" for row in rows) == len(found["suspects"])
    assert sum(row["finding"] == "duplicate" for row in rows) == sum(len(g["products"]) for g in found["duplicates"])
    assert any(row["name"] == f"'{FORMULA}" for row in rows)
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]


def test_a_file_that_cannot_be_written_is_one_error(enclip: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = enclip("audit", "--csv", str(tmp_path / "file" / "audit.csv"))
    assert status == 1 and err.startswith("error: ") and "Traceback" not in err


def test_a_release_that_is_not_there_is_named(enclip: Command) -> None:
    status, out, err = enclip("audit", "99")
    assert status == 1 and "no release 99" in err and not out


def test_withdrawn_products_are_not_reported(release: OpenRelease) -> None:
    pair = frozenset(map(str, release.products.product_id[:2]))
    found = audit_searcher(release.searcher, without=pair)
    assert not pair & {suspect.product_id for suspect in found.suspects}
    assert not [group for group in found.duplicates if {product.product_id for product in group.products} <= pair]


def test_a_spread_page_shows_one_picture_once(enclip: Command, release: OpenRelease, drawn_catalog: Path) -> None:
    pair = set(map(str, release.products.product_id[:2]))
    path = drawn_catalog / "images" / f"{release.products.product_id[0]}.jpg"
    plain, spread = (release.search(image=path.read_bytes(), k=10, spread=on) for on in (False, True))
    assert set(plain.product_ids[:2]) == pair
    assert len(set(spread.product_ids) & pair) == 1 and spread.hits[0].folded >= 1
    assert spread.hits[0].product_id == plain.hits[0].product_id and len(spread.hits) == 10
    every = release.search(image=path.read_bytes(), k=len(release.products), spread=True)
    assert set(every.product_ids) == set(release.products.product_id), "once others are exhausted, they are back"
    status, out, _ = enclip("search", "--image", str(path), "--spread", "--json")
    assert status == 0
    assert [(hit["product_id"], hit["folded"]) for hit in json.loads(out)["results"]] == [
        (hit.product_id, hit.folded) for hit in spread.hits
    ]
    assert "folded" in enclip("search", "--image", str(path), "--spread")[1]
    assert "folded" not in enclip("search", "--image", str(path))[1]


def test_a_release_stores_the_suspects_that_an_audit_lists(release: OpenRelease) -> None:
    suspects = findings(release.searcher)[1]
    assert suspects and suspects == audit_searcher(release.searcher).suspects


def test_a_release_from_before_near_duplicates_were_stored_folds_none(enclip: Command, platform: Platform) -> None:
    before = open_release(platform, 1)
    assert before.near_duplicates is None
    assert before.search(text="shirt", k=10, spread=True) == before.search(text="shirt", k=10)
    status, out, err = enclip("search", "shirt", "--spread", "--release", "1", "--json")
    assert status == 0 and "stores no near-duplicates" in err
    assert all(hit["folded"] == 0 for hit in json.loads(out)["results"])


def test_suspects_are_drawn_small_enough_to_show(release: OpenRelease, tmp_path: Path) -> None:
    products = release.products
    suspects = tuple(
        Suspect(str(product_id), "", "article_type", "$5 \\frac", "Watches", 0.95, 0.8, 0.1, 0, 9, 0.8, ())
        for product_id in products.product_id[:30]
    )
    chance = np.random.default_rng(0)

    def thumbnail(row: int) -> np.ndarray | None:
        return None if row == 3 else chance.integers(0, 256, (80, 60, 3), np.uint8)

    path = draw_suspects(Audit(suspects, ()), products, thumbnail, tmp_path / "suspects.png")
    assert path is not None and path.stat().st_size < 300_000
    with Image.open(path) as picture:
        assert picture.width > 500, "noise compresses worst of all"
    assert draw_suspects(Audit((), ()), products, thumbnail, tmp_path / "none.png") is None
