"""A release that is whole by every hash and no longer answers as it did: its canary queries refuse it, everywhere.

Each damage is one that happens: what a release refers to changes behind its back, or its files are put together from
others. `open_release` opens all of them.
"""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from enclip.catalog.drawn import draw_catalog
from enclip.cli import main
from enclip.config import Settings
from enclip.errors import ReleaseError
from enclip.models.bases import load_base
from enclip.models.checkpoint import CARD, save_checkpoint
from enclip.pipeline.canary import CANARY
from enclip.pipeline.choose import choose
from enclip.pipeline.cluster import build
from enclip.pipeline.embed import embed_all
from enclip.pipeline.evaluate import evaluate_run
from enclip.pipeline.gate import decide
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.open_release import open_release, open_to_serve
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.promote_run import promote_run
from enclip.pipeline.runs import EvaluationStep, Plan, RunFolder
from enclip.pipeline.snapshot import take
from enclip.pipeline.train import train
from enclip.recipes import GatePolicy, ReleaseRecipe, RetrainRecipe, TrainRecipe
from enclip.records import ShadowTotals
from enclip.registry import CHALLENGER, CHAMPION
from enclip.release import Manifest, read_manifest, write_manifest
from enclip.retrieval.files import EMBEDDINGS
from enclip.retrieval.heads import HEADS
from enclip.retrieval.searcher import PROJECTION
from enclip.serving.run import bind, make_server, platform_app
from enclip.shadow import add_shadow

pytestmark = pytest.mark.slow

RUN, GOOD = "canaries", 1
RECIPE = RetrainRecipe(
    train=TrainRecipe(epochs=2),
    release=ReleaseRecipe(
        min_members=1,
        max_members=1,
        soup_epochs=0,
        cluster_counts=(8,),
        pulls=(0.0,),
        calibrations=(1.0,),
        exemplar_shares=(0.0,),
        attribute_weights=(0.3,),  # heads need no text tower: beside it they must not say everything
        rescored=20,  # of 160 products, so that the projection decides who is looked at
    ),
    gate=GatePolicy(margin=2, category_margin=2, tolerance=2, floor=0, max_overfit=2, max_memory_ratio=100),
)

Damage = Callable[[Platform, Path, Manifest], Manifest]  # of a release's folder; the manifest it shall have


def with_member(manifest: Manifest, source: str) -> Manifest:
    """Other weights behind the member; what the manifest says of them stays."""
    return manifest.model_copy(update={"members": (manifest.members[0].model_copy(update={"source": source}),)})


def registered(platform: Platform, folder: Path, run_id: str) -> str:
    """The source of a checkpoint that is logged once more."""
    run = platform.registry.open_run(run_id, kind="retrain", params={})
    return platform.registry.log_epoch(
        run, folder, instance=0, epoch=0, metrics={}, snapshot="5" * 64, num_products=1
    ).source


def other_weights(platform: Platform, folder: Path, manifest: Manifest) -> Manifest:
    model = load_base("tiny", seed=77, device=torch.device("cpu"))
    save_checkpoint(folder.parent / "weights", model, pixel_side=model.side)
    return with_member(manifest, registered(platform, folder.parent / "weights", "other-weights"))


def with_card(platform: Platform, folder: Path, manifest: Manifest, change: Callable[[Any], None]) -> Manifest:
    """The member's own weights beside another card: the weights' hash is all that the registry knows."""
    checkpoint = folder.parent / f"card-of-{folder.name}"
    shutil.copytree(platform.registry.fetch_epoch(manifest.members[0].source), checkpoint)
    card = json.loads((checkpoint / CARD).read_bytes())
    change(card["architecture"])
    (checkpoint / CARD).write_text(json.dumps(card))
    return with_member(manifest, registered(platform, checkpoint, folder.name))


def other_tokenizer(platform: Platform, folder: Path, manifest: Manifest) -> Manifest:
    return with_card(platform, folder, manifest, lambda card: card["tokenizer"].update(num_merges=300))


def other_preprocessing(platform: Platform, folder: Path, manifest: Manifest) -> Manifest:
    return with_card(
        platform, folder, manifest, lambda card: card["preprocessing"].update(mean=[0, 0, 1], std=[9, 9, 1])
    )


def rewrite(path: Path, **changes: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {name: change(arrays[name]) for name, change in changes.items()})


def other_projection(_platform: Platform, folder: Path, manifest: Manifest) -> Manifest:
    rewrite(folder / PROJECTION, components=lambda component_DP: component_DP[::-1])
    return manifest


def other_heads(_platform: Platform, folder: Path, manifest: Manifest) -> Manifest:
    rewrite(folder / HEADS, joint=lambda weight_DV: np.roll(weight_DV, 1, axis=1))
    return manifest


def other_embeddings(_platform: Platform, folder: Path, manifest: Manifest) -> Manifest:
    embedding_ND = np.load(folder / EMBEDDINGS)
    np.save(folder / EMBEDDINGS, np.roll(embedding_ND, 1, axis=0))
    return manifest


DAMAGES: dict[str, tuple[Damage, str]] = {
    "other weights": (other_weights, "words"),
    "another tokenizer": (other_tokenizer, "words"),
    "another preprocessing": (other_preprocessing, "pictures"),
    "another projection": (other_projection, "pictures"),
    "other heads": (other_heads, "words"),
    "embeddings in another order": (other_embeddings, "words"),
}
VERSIONS = {damage: version for version, damage in enumerate(DAMAGES, GOOD + 1)}
OLD = GOOD + len(DAMAGES) + 1


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """Release 1 of a run that waits for its promotion; one more for each damage; and one from before canaries."""
    scratch = tmp_path_factory.mktemp("canaries")
    opened = open_platform(Settings(ENCLIP_HOME=scratch / "home", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    ingest_source(opened, str(draw_catalog(scratch / "catalog", num_products=160, seed=7)))
    take(opened, RUN, RECIPE)
    train(opened, RUN, environment={})
    choose(opened, RUN)
    embed_all(opened, RUN)
    assert build(opened, RUN).release == GOOD
    for damage, (happen, _) in DAMAGES.items():
        assert register(opened, scratch / damage.replace(" ", "-"), happen) == VERSIONS[damage]

    def forget(_platform: Platform, folder: Path, manifest: Manifest) -> Manifest:
        (folder / CANARY).unlink()
        return manifest

    assert register(opened, scratch / "old", forget) == OLD
    opened.registry.set_alias(CHAMPION, GOOD)
    return opened


def register(platform: Platform, folder: Path, happen: Damage) -> int:
    """A copy of the good release that something happens to before it is hashed; its version."""
    shutil.copytree(platform.registry.fetch_release(GOOD), folder)
    manifest = happen(platform, folder, read_manifest(folder)).model_copy(update={"run_id": folder.name})
    run = platform.registry.open_run(folder.name, kind="retrain", params={})
    return platform.registry.log_release(run, folder, write_manifest(folder, manifest))


def test_a_release_is_built_with_canaries_and_answers_them(platform: Platform) -> None:
    manifest = platform.registry.release_manifest(GOOD)
    assert manifest.files[CANARY].num_bytes < 100_000
    opened = open_to_serve(platform, GOOD)
    assert opened.canaries is not None
    assert {query.kind for query in opened.canaries.queries} == {"words", "pictures", "products"}
    assert all(query.expected for query in opened.canaries.queries)
    started = time.perf_counter()
    opened.canaries.check(opened)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("damage", DAMAGES)
def test_only_its_canaries_refuse_a_release_whose_parts_do_not_belong_together(platform: Platform, damage: str) -> None:
    opened = open_release(platform, VERSIONS[damage])
    assert len(opened.search(text="red shirt", k=10).hits) == 10
    with pytest.raises(ReleaseError, match=f"canary queries by {DAMAGES[damage][1]} find .* was to find"):
        open_to_serve(platform, VERSIONS[damage])


def test_a_release_from_before_there_were_canaries_is_served(platform: Platform) -> None:
    assert open_to_serve(platform, OLD).canaries is None


def test_what_is_withdrawn_is_no_reason_to_refuse(platform: Platform) -> None:
    opened = open_release(platform, GOOD, encoders=False)
    assert opened.canaries is not None
    gone = opened.canaries.queries[0].expected[0].product_id
    platform.catalog.withdraw([gone])
    open_to_serve(platform, GOOD)


def test_promote_refuses_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENCLIP_HOME", str(platform.settings.home))
    monkeypatch.setattr(sys, "argv", ["enclip", "promote", str(VERSIONS["other weights"])])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "canary queries by words" in capsys.readouterr().err
    assert platform.registry.alias(CHAMPION) == GOOD


def test_a_run_does_not_promote_what_has_changed_since_its_gates_looked(platform: Platform) -> None:
    evaluate_run(platform, RUN)
    assert decide(platform, RUN).outcome != "refuse"
    platform.registry.drop_alias(CHAMPION)
    folder = platform.registry.fetch_release(GOOD)
    kept = folder.parent / "kept"
    shutil.copytree(folder, kept)
    try:
        write_manifest(folder, other_heads(platform, folder, read_manifest(folder)))
        with pytest.raises(ReleaseError, match="canary queries by words"):
            promote_run(platform, RUN, approved=True)
        assert platform.registry.alias(CHAMPION) is None
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)
    assert promote_run(platform, RUN, approved=True).promoted


def test_gates_that_ask_for_the_shadow_wait_until_it_has_shown_enough(platform: Platform) -> None:
    """Release 1 as the challenger of the one from before canaries: asked first, refused by what was seen, promoted."""
    folder = RunFolder(platform.blobs, RUN)
    plan, evaluation = folder.read("plan", Plan), folder.read("evaluation", EvaluationStep)
    policy = GatePolicy(**{**RECIPE.gate.model_dump(), "min_shadow_queries": 30, "min_shadow_overlap": 0.5})
    alike = {"champion": evaluation.systems["challenger"]}
    against = {"champion": OLD, "systems": {**evaluation.systems, **alike}, "new_categories": ()}
    folder.write("plan", plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"gate": policy})}))
    folder.write("evaluation", evaluation.model_copy(update=against))
    platform.registry.set_alias(CHAMPION, OLD)
    try:
        asked = decide(platform, RUN)
        assert (asked.outcome, platform.registry.alias(CHALLENGER)) == ("ask", GOOD)
        assert "0 live queries" in asked.summary
        for replica_overlap, outcome in ((0.0, "refuse"), (30.0, "promote")):
            seen = ShadowTotals(num_compared=30, overlap=replica_overlap, champion_s=1, challenger_s=1)
            add_shadow(platform.database, champion=OLD, challenger=GOOD, more=seen)
            judged = decide(platform, RUN)
            assert judged.outcome == outcome, judged.summary
            (row,) = [row for row in judged.results if row.gate == "shadow overlap"]
            assert row.value == pytest.approx(0.0 if outcome == "refuse" else 0.5)
    finally:
        folder.write("plan", plan)
        folder.write("evaluation", evaluation)
        platform.registry.set_alias(CHAMPION, GOOD)
        platform.registry.drop_alias(CHALLENGER)


@pytest.fixture(scope="module")
def service(platform: Platform) -> Iterator[str]:
    """`enclip serve` over the platform, in a thread; its address."""
    platform.registry.set_alias(CHAMPION, GOOD)
    server = make_server(platform_app(platform))
    bound = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(30)
        bound.close()


def wait_until(url: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while True:
        try:
            state: dict[str, Any] = httpx.get(f"{url}/health/ready").json()
        except httpx.TransportError as error:
            state = {"release": None, "alias": None, "problem": str(error)}
        if condition(state):
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.05)


def test_it_is_not_compared_either(service: str) -> None:
    wait_until(service, lambda state: state["release"] == GOOD)
    damaged = VERSIONS["another tokenizer"]

    def compared() -> httpx.Response:
        return httpx.post(f"{service}/v1/compare", json={"text": "red shirt", "right": damaged}, timeout=30)

    deadline = time.monotonic() + 30
    while (answer := compared()).status_code == 503:  # it is being opened
        assert time.monotonic() < deadline
    assert answer.status_code == 409, answer.text
    assert f"Release {damaged} cannot be opened: Its canary queries by words" in answer.json()["detail"]


def test_the_service_serves_the_old_one_on_and_says_why(
    platform: Platform, service: str, caplog: pytest.LogCaptureFixture
) -> None:
    wait_until(service, lambda state: state["release"] == GOOD)
    damaged = VERSIONS["another tokenizer"]
    platform.registry.set_alias(CHAMPION, damaged)  # as a person may, in MLflow
    state = wait_until(service, lambda state: "canary" in state["problem"])
    assert (state["ready"], state["release"], state["alias"]) == (True, GOOD, damaged)
    assert f"Release {damaged} cannot be served: Its canary queries by words" in state["problem"]
    assert state["problem"] in caplog.text
    figures = httpx.get(f"{service}/metrics").text
    assert "enclip_failed_loads_total 0.0" not in figures
    assert f"enclip_release {GOOD}.0" in figures
    assert httpx.post(f"{service}/v1/search", json={"text": "red shirt"}).json()["release"] == GOOD
    platform.registry.set_alias(CHAMPION, OLD)
    assert wait_until(service, lambda state: state["release"] == OLD)["problem"] == ""
