"""Nobody's update is lost (D13): a champion that changes while a run is under way."""

from pathlib import Path

import pytest

from enclip.catalog.drawn import draw_catalog
from enclip.config import Settings
from enclip.ledger import start_attempt
from enclip.pipeline.changed import should_refresh, should_retrain
from enclip.pipeline.choose import choose
from enclip.pipeline.cluster import build
from enclip.pipeline.embed import embed_all
from enclip.pipeline.evaluate import evaluate_run
from enclip.pipeline.gate import decide
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.products import SingleProducts
from enclip.pipeline.promote import promote_by_hand
from enclip.pipeline.promote_run import promote_run
from enclip.pipeline.refresh import prepare
from enclip.pipeline.runs import GateStep
from enclip.pipeline.snapshot import take
from enclip.pipeline.train import train
from enclip.recipes import GatePolicy, ReleaseRecipe, RetrainRecipe, TrainRecipe
from enclip.records import ATTRIBUTES, Filters
from tests.integration.faults.world import root_of, small_base

pytestmark = pytest.mark.slow

# These tests are about who may move the alias, not about quality: every gate is wide open.
OPEN = GatePolicy(
    margin=2, category_margin=2, tolerance=2, floor=0, max_overfit=2, max_search_ratio=100, max_memory_ratio=100
)


def recipe(platform: Platform) -> RetrainRecipe:
    return RetrainRecipe(
        train=TrainRecipe(base=small_base(root_of(platform)), epochs=3),
        release=ReleaseRecipe(min_members=2, max_members=2, cluster_counts=(8,), pulls=(0.0, 0.2)),
        gate=OPEN,
    )


def finish(platform: Platform, run_id: str) -> GateStep:
    """Embed to gate; nothing is promoted."""
    embed_all(platform, run_id)
    build(platform, run_id)
    evaluate_run(platform, run_id)
    return decide(platform, run_id)


def retrained(platform: Platform, run_id: str) -> GateStep:
    """A retraining up to its gate."""
    take(platform, run_id, recipe(platform))
    train(platform, run_id, environment={})
    choose(platform, run_id)
    return finish(platform, run_id)


def placed(platform: Platform, release: int) -> dict[str, tuple[float, float]]:
    """Where a release has its products on the map."""
    opened = open_release(platform, release, encoders=False)
    assert opened.atlas is not None
    return dict(zip(opened.products.product_id, map(tuple, opened.atlas.position_N2.tolist()), strict=True))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """160 products and a first release as champion."""
    home = tmp_path_factory.mktemp("conflicts")
    opened = open_platform(Settings(ENCLIP_HOME=home / "enclip", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    ingest_source(opened, str(draw_catalog(home / "first", num_products=160, seed=1)))
    assert should_retrain(opened)
    retrained(opened, "first")
    promote_by_hand(opened, 1)
    assert not should_retrain(opened)
    assert not should_refresh(opened)
    return opened


def test_a_run_s_steps_run_again_give_the_same_release(platform: Platform) -> None:
    before = [release.version for release in platform.registry.releases()]

    again = finish(platform, "first")

    assert again.release == 1
    assert [release.version for release in platform.registry.releases()] == before


def test_a_retrained_ensemble_is_rebased_onto_the_catalog_that_a_refresh_has_published(
    platform: Platform, tmp_path: Path
) -> None:
    gate = retrained(platform, "second")
    ingest_source(platform, str(draw_catalog(tmp_path / "later", num_products=20, seed=1, start=160)))
    assert should_refresh(platform)
    prepare(platform, "refresh-a")
    finish(platform, "refresh-a")
    refreshed = promote_run(platform, "refresh-a", approved=True)
    assert refreshed.promoted

    step = promote_run(platform, "second", approved=True)

    champion = platform.registry.alias("champion")
    assert step.promoted
    assert champion == step.release
    assert step.release not in (gate.release, refreshed.release)
    rebased = open_release(platform, step.release, encoders=False)
    assert len(rebased.products) == 180
    assert rebased.manifest.ensemble_key == platform.registry.release_manifest(gate.release).ensemble_key
    assert rebased.manifest.parent_release == refreshed.release
    on_map = placed(platform, gate.release)
    assert len(on_map) == 160 and placed(platform, step.release).items() >= on_map.items(), "a refresh moves nobody"
    assert rebased.suspects is not None
    assert not should_refresh(platform)


def test_a_stale_refresh_is_thrown_away(platform: Platform, tmp_path: Path) -> None:
    ingest_source(platform, str(draw_catalog(tmp_path / "newest", num_products=10, seed=1, start=180)))
    prepare(platform, "refresh-b")
    finish(platform, "refresh-b")
    promote_by_hand(platform, 1)

    step = promote_run(platform, "refresh-b", approved=True)

    assert not step.promoted
    assert "Thrown away" in step.summary
    assert platform.registry.alias("champion") == 1


def test_a_refresh_embeds_only_what_is_new(platform: Platform) -> None:
    prepare(platform, "refresh-c")
    maps = sorted((platform.scratch / "pixels").iterdir())

    steps = embed_all(platform, "refresh-c")

    assert sorted((platform.scratch / "pixels").iterdir()) == maps, "a few pictures are not worth a map of all"
    assert {step.num_images for step in steps} == {190}
    assert all(step.num_images - step.num_reused <= 30 for step in steps)


def test_a_new_price_reaches_the_index_with_nothing_embedded_and_asks_for_no_training(platform: Platform) -> None:
    start_attempt(platform.database, run_id="noted", snapshot=platform.catalog.state_digest())
    product = platform.catalog.products().row(0)
    cells = {name: getattr(product, name) for name in ("name", *ATTRIBUTES)}
    assert SingleProducts(platform).put(product.product_id, {**cells, "price": "4321.5"}, image=None)
    assert should_refresh(platform)
    assert not should_retrain(platform)

    plan = prepare(platform, "refresh-price")
    steps = embed_all(platform, "refresh-price")
    finish(platform, "refresh-price")
    step = promote_run(platform, "refresh-price", approved=True)

    assert all(step.num_reused == step.num_images for step in steps), "the run before has embedded these pictures"
    assert step.promoted
    assert not should_refresh(platform)
    assert not should_retrain(platform)
    opened = open_release(platform, step.release)
    assert opened.manifest.snapshot == plan.snapshot
    assert opened.product(product.product_id).price == 4321.5
    only = opened.search(text="shirt", filters=Filters(price_min=4000), k=10)
    assert only.product_ids == (product.product_id,)
