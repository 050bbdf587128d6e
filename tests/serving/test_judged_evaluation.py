"""Judged on the service, exported, evaluated with: an mAP@10 that is right by hand."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.served import register_release
from enclip.catalog.drawn import draw_catalog
from enclip.catalog.snapshot import take_snapshot
from enclip.cli import main
from enclip.config import Settings
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform, open_platform
from enclip.serving.run import bind, make_server, platform_app

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """Two releases over one half of sixty drawn products each; champion is 1, challenger 2."""
    opened = open_platform(Settings(ENCLIP_HOME=tmp_path_factory.mktemp("home")))
    ingest_source(opened, str(draw_catalog(tmp_path_factory.mktemp("drawn"), num_products=60, seed=3)))
    digest = take_snapshot(opened.catalog, opened.blobs).digest
    for seed in (0, 1):
        register_release(opened, tmp_path_factory.mktemp("release"), seed=seed, half=seed, snapshot=digest)
    opened.registry.set_alias("champion", 1)
    opened.registry.set_alias("challenger", 2)
    opened.registry.report_release(2, tags={"map_at_10": "0.1234", "kind": "retrain"})
    return opened


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[httpx.Client]:
    """`enclip serve` over the platform, in a thread."""
    server = make_server(platform_app(platform))
    bound = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{bound.getsockname()[1]}", timeout=60) as opened:
        deadline = time.monotonic() + 60
        while not server.started or opened.get("/health/ready").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield opened
    server.should_exit = True
    thread.join(30)
    bound.close()


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: Platform, *arguments: str
) -> str:
    monkeypatch.setenv("ENCLIP_HOME", str(platform.settings.home))
    monkeypatch.setattr("sys.argv", ["enclip", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return out if not ended.value.code else err


def test_before_anything_is_judged_it_says_so(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Nothing has been judged yet." in run(monkeypatch, capsys, platform, "judgements")
    refused = run(monkeypatch, capsys, platform, "judgements", "--qrels", str(tmp_path / "qrels"))
    assert "No result of a query in words has been judged good yet." in refused
    assert not (tmp_path / "qrels").exists()


def test_the_registry_s_releases_are_listed(client: httpx.Client) -> None:
    found = client.get("/v1/releases").json()["releases"]
    assert [(one["version"], one["aliases"], one["map_at_10"]) for one in found] == [
        (2, ["challenger"], 0.1234),
        (1, ["champion"], None),
    ]


def test_judgements_become_the_qrels_of_an_evaluation(
    platform: Platform,
    client: httpx.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Good are ranks 1 and 3 of one query, rank 2 of another; AP@10 (1 + 2/3) / 2 and 1/2."""

    def judge(text: str, answer: dict, verdicts: dict[int, str]) -> None:
        for rank, verdict in verdicts.items():
            product_id = answer["left"]["results"][rank - 1]["product_id"]
            body = {"text": text, "release": 1, "product_id": product_id, "verdict": verdict}
            client.post("/v1/judgements", json=body).raise_for_status()

    shirts = client.post("/v1/compare", json={"text": "navy blue shirt", "k": 10}).raise_for_status().json()
    assert (shirts["left"]["release"], shirts["right"]["release"]) == (1, 2)
    judge("Navy blue shirt", shirts, {1: "good", 2: "bad", 3: "good"})
    bags = client.post("/v1/compare", json={"text": "50% off_bag", "k": 10}).json()
    judge("50% off_bag", bags, {1: "bad", 2: "good"})
    client.post(
        "/v1/judgements", json={"text": "Navy blue shirt", "left": 1, "right": 2, "verdict": "better"}
    ).raise_for_status()

    shown = run(monkeypatch, capsys, platform, "judgements")
    assert "Releases, by judgements" in shown
    assert "50% off_bag" in shown
    qrels = tmp_path / "qrels"
    listed = json.loads(run(monkeypatch, capsys, platform, "judgements", "--qrels", str(qrels), "--json"))
    assert listed["standings"] == [{"release": 2, "against": 1, "wins": 0, "ties": 0, "losses": 1}]
    assert len(listed["results"]) == len(qrels.read_text().splitlines()) == 5

    figures = json.loads(run(monkeypatch, capsys, platform, "evaluate", "--qrels", str(qrels), "--json"))
    assert figures["map_at_10"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert (figures["gallery"], figures["num_products"]) == ("all products", 30)
    assert figures["by_kind"]["specific"]["num_queries"] == 2
    assert figures["by_kind"]["specific"]["num_relevant"] == 3
    assert figures["judged_at_10"] == pytest.approx((3 / 10 + 2 / 10) / 2)

    # The other release holds the other half of the products: none of them was judged.
    other = run(monkeypatch, capsys, platform, "evaluate", "--qrels", str(qrels), "--release", "challenger")
    assert "names no relevant product of this catalog" in other
    both = run(monkeypatch, capsys, platform, "evaluate", "--qrels", str(qrels), "--protocol", "kagl")
    assert "--qrels and --protocol kagl ask different queries" in both
    assert "of the first 10 results 25% were judged" not in both


def test_figures_without_what_training_has_seen_stand_beside(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same judgements, narrowed to products that neither members nor heads have learnt from."""
    opened = open_release(platform, 1)
    first = opened.search(text="bag", k=30).product_ids
    split = dict(zip(opened.products.product_id, opened.products.split, strict=True))
    unseen = [found for found in first if split[found] == "gate"]
    (tmp_path / "qrels").write_text(f"bag 0 {first[0]} 1\nbag 0 {unseen[-1]} 1\n")
    figures = json.loads(run(monkeypatch, capsys, platform, "evaluate", "--qrels", str(tmp_path / "qrels"), "--json"))
    allowed = opened.products.split == "gate"
    rest = opened.searcher.search(opened.encode_texts(["bag"]), k=10, texts=["bag"], allowed=allowed)[0].product_ids
    relevant = {first[0], unseen[-1]} & set(unseen)
    hits = [found in relevant for found in rest]
    by_hand = sum(sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit) / len(relevant)
    assert figures["seen_in_training"]["map_at_10_without_them"] == pytest.approx(by_hand)
