"""The KAGL protocol over a release of two members on drawn products: command line, oracles, refusals."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from enclip.catalog.snapshot import pixel_map, take_snapshot
from enclip.cli import main
from enclip.config import Settings
from enclip.evaluation import kagl
from enclip.models.bases import load_base
from enclip.models.checkpoint import save_checkpoint
from enclip.models.clip import ClipEncoder
from enclip.pipeline import kagl as step
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.members import member_of
from enclip.pipeline.open_release import OpenRelease, open_release
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.promote import promote_by_hand
from enclip.records import Split
from enclip.release import ClusterSettings, Manifest, write_manifest
from enclip.retrieval.ranking import rank
from enclip.retrieval.searcher import Searcher

WEIGHTS = (0.7, 0.3)
TASKS = {task.key for task in kagl.TASKS}


class World(NamedTuple):
    home: Path
    catalog: Path
    platform: Platform
    opened: OpenRelease


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, drawn_catalog: Path) -> World:
    """A home whose champion is an untrained ensemble over the drawn catalog."""
    scratch = tmp_path_factory.mktemp("kagl")
    settings = Settings(ENCLIP_HOME=scratch / "home", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL="")
    platform = open_platform(settings)
    ingest_source(platform, str(drawn_catalog))
    snapshot = take_snapshot(platform.catalog, platform.blobs).digest
    products = platform.catalog.products()
    run = platform.registry.open_run("first", kind="retrain", params={})
    members, blocks = [], []
    for seed, weight in enumerate(WEIGHTS):
        model = load_base("tiny", seed=seed, device=torch.device("cpu"))
        save_checkpoint(scratch / f"checkpoint-{seed}", model, pixel_side=model.side)
        epoch = platform.registry.log_epoch(
            run,
            scratch / f"checkpoint-{seed}",
            instance=seed,
            epoch=0,
            metrics={},
            snapshot=snapshot,
            num_products=len(products),
        )
        members.append(member_of(epoch, model.side).model_copy(update={"weight": weight}))
        pixels = pixel_map(products, platform.blobs, side=model.side, scratch=platform.scratch, digest=snapshot)
        blocks.append(ClipEncoder(model).encode_images(np.asarray(pixels)))
    searcher = Searcher.build(products, blocks, WEIGHTS, cluster_count=4)
    searcher.save(scratch / "release")
    manifest = Manifest(
        kind="retrain",
        run_id="first",
        base="tiny",
        snapshot=snapshot,
        trained_on=snapshot,
        num_products=len(products),
        members=tuple(members),
        clusters=ClusterSettings(count=4, pull=0.0),
        rescored=200,
        chosen_because="drawn for a test",
        created_at="2026-01-01T00:00:00Z",
    )
    platform.registry.log_release(run, scratch / "release", write_manifest(scratch / "release", manifest))
    promote_by_hand(platform, 1)
    return World(scratch / "home", drawn_catalog, platform, open_release(platform, 1))


class Answer(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def enclip(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> Answer:
        monkeypatch.setenv("ENCLIP_HOME", str(world.home))
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setattr(sys, "argv", ["enclip", "evaluate", "--protocol", "kagl", *arguments])
        status = 0
        try:
            main()
        except SystemExit as exit:
            status = int(exit.code or 0)
        return Answer(status, *capsys.readouterr())

    return run


def answer_of(done: Answer) -> dict[str, Any]:
    assert done.status == 0, done.err
    answer: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    return answer


def test_the_gate_split_is_the_gallery_unless_a_catalog_is_given(world: World, enclip) -> None:
    found = answer_of(enclip("--json"))
    gate = world.opened.products.split == Split.GATE
    assert (found["protocol"], found["release"], found["num_products"]) == ("kagl", 1, int(gate.sum()))
    assert found["tasks"].keys() == TASKS and found["with_names"].keys() == TASKS - {"text_to_image"}
    assert found["published"] == []
    assert found["seen_in_training"] == {"num_products": 0, "tasks_without_them": found["tasks"]}
    assert [f"{gate.sum()} products are searched here" in caution for caution in found["cautions"]] == [True]


def test_pictures_alone_are_ranked_as_every_score_computed_says(world: World, enclip) -> None:
    """The slow oracle: all cosines, no index."""
    opened = world.opened
    rows = np.flatnonzero(opened.products.split == Split.GATE)
    gallery = opened.products.take(rows)
    found = answer_of(enclip("--json"))["tasks"]
    for task in kagl.TASKS:
        queries = kagl.task_queries(gallery, task)
        scores = opened.searcher.exact_scores(opened.encode_texts([query.text for query in queries]), rows)
        expected = kagl.figures(queries, kagl.values(queries, rank(scores, gallery.product_id, k=10)))
        assert found[task.key] == pytest.approx(expected.as_dict())


def test_names_are_mixed_in_one_product_at_a_time(world: World, enclip) -> None:
    """The slow oracle: Σ_k w_k cos(query_k, 0.9 · picture_k + 0.1 · name_k)."""
    opened = world.opened
    rows = np.flatnonzero(opened.products.split == Split.GATE)
    gallery = opened.products.take(rows)
    found = answer_of(enclip("--json"))["with_names"]
    for task in kagl.CATEGORY_TASKS:
        queries = kagl.task_queries(gallery, task)
        asked = opened.encode_texts([query.text for query in queries])
        scores = np.zeros((len(queries), len(rows)))
        for column, row in enumerate(rows):
            names = opened.encode_texts([str(opened.products.name[row])])
            for member, weight in enumerate(WEIGHTS):
                mixed = 0.9 * opened.searcher.block(member)[row].astype(np.float32) + 0.1 * names[member][0]
                scores[:, column] += weight * (asked[member] @ (mixed / np.linalg.norm(mixed)))
        expected = kagl.figures(queries, kagl.values(queries, rank(scores, gallery.product_id, k=10)))
        assert found[task.key] == pytest.approx(expected.as_dict())


def test_blocks_change_nothing(world: World, enclip, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answer_of(enclip("--json", "--catalog", str(world.catalog)))
    monkeypatch.setattr(step, "BLOCK", 7)
    monkeypatch.setattr(step, "CHUNK", 5)
    assert answer_of(enclip("--json", "--catalog", str(world.catalog))) == whole


def test_a_whole_catalog_stands_beside_the_published_lines(world: World, enclip) -> None:
    found = answer_of(enclip("--json", "--catalog", str(world.catalog)))
    learnt = int((world.opened.products.split != Split.GATE).sum())
    assert (found["num_products"], found["num_rejected"]) == (120, 0)
    assert [line["system"] for line in found["published"]] == [
        "Marqo-FashionSigLIP",
        "FashionCLIP 2.0",
        "OpenFashionCLIP",
    ]
    assert found["seen_in_training"]["num_products"] >= learnt > 0
    assert found["seen_in_training"]["tasks_without_them"] != found["tasks"]
    assert len(found["cautions"]) == 2


def test_tables_name_figures_published_lines_and_cautions(world: World, enclip) -> None:
    shown = enclip("--catalog", str(world.catalog))
    assert shown.status == 0
    for words in ("text → image", "AvgR", "MRR@10", "mAP@10 over R", "Marqo-FashionSigLIP", "0.489", "its name"):
        assert words in shown.out
    assert "Caution: 120 products are searched here, 44,434" in shown.err
    gate = enclip()
    assert "Marqo-FashionSigLIP" not in gate.out and "as leaderboards measure categories" in gate.out


@pytest.mark.parametrize("option", ["--run", "--trec"])
def test_options_of_the_own_protocol_are_refused(enclip, option: str, tmp_path: Path) -> None:
    refused = enclip(option, str(tmp_path / "x"))
    assert refused.status == 1 and f"{option} goes with --protocol own" in refused.err and "try: " in refused.err


def test_a_protocol_that_is_none_shows_the_usage(enclip) -> None:
    assert enclip("--protocol", "other").status == 2
