"""Several views of each picture, from the recipe to the index that a refresh goes on with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enclip.catalog.drawn import draw_catalog
from enclip.catalog.images import decode, fit_square, image_key
from enclip.catalog.snapshot import load_snapshot, pixel_map
from enclip.config import Settings
from enclip.models.clip import embed_pixels
from enclip.models.colours import colours_of
from enclip.pipeline.choose import choose
from enclip.pipeline.cluster import build
from enclip.pipeline.colours import known_colours
from enclip.pipeline.embed import embed_all
from enclip.pipeline.heads import ensemble_heads
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.members import load_member
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.promote import promote_by_hand
from enclip.pipeline.refresh import prepare
from enclip.pipeline.runs import Plan, RunFolder
from enclip.pipeline.shards import snapshot_part
from enclip.pipeline.snapshot import take
from enclip.pipeline.train import train
from enclip.recipes import MOST_VIEWS, ReleaseRecipe, RetrainRecipe, TrainRecipe

pytestmark = pytest.mark.slow

PRODUCTS, NEWCOMERS = 100, 20
RELEASE = ReleaseRecipe(views=3, max_members=2, soup_epochs=2, cluster_counts=(4,), pulls=(0.0,), student_epochs=0)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """A champion by three views of each picture."""
    home = tmp_path_factory.mktemp("views")
    opened = open_platform(Settings(ENCLIP_HOME=home / "enclip", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    ingest_source(opened, str(draw_catalog(home / "first", num_products=PRODUCTS, seed=1)))
    take(opened, "run", RetrainRecipe(train=TrainRecipe(epochs=2), release=RELEASE))
    train(opened, "run", environment={})
    choose(opened, "run")
    embed_all(opened, "run")
    promote_by_hand(opened, build(opened, "run").release)
    return opened


def test_the_index_holds_the_mean_of_the_views(platform: Platform) -> None:
    opened = open_release(platform, 1)
    assert {member.views for member in opened.manifest.members} == {3}
    products = load_snapshot(platform.blobs, opened.manifest.snapshot)
    for column, member in enumerate(opened.manifest.members):
        pixels = pixel_map(
            products, platform.blobs, side=member.pixel_side, scratch=platform.scratch, digest=opened.manifest.snapshot
        )
        model = load_member(platform.registry, member.source)
        block_ND = opened.searcher.block(column).astype(np.float32)
        off = [np.abs(block_ND - embed_pixels(model, pixels, model.device, views=views)).mean() for views in (1, 2, 3)]
        assert off[2] < min(off[:2]) / 3, "rounding to float16 is less than another number of looks makes"


def test_a_refresh_looks_at_newcomers_as_often_and_at_nothing_again(platform: Platform, tmp_path: Path) -> None:
    ingest_source(platform, str(draw_catalog(tmp_path, num_products=NEWCOMERS, seed=1, start=PRODUCTS)))
    prepare(platform, "refresh")
    steps = embed_all(platform, "refresh")
    assert {(step.num_images, step.num_reused) for step in steps} == {(PRODUCTS + NEWCOMERS, PRODUCTS)}
    before, opened = open_release(platform, 1), open_release(platform, build(platform, "refresh").release)
    assert {member.views for member in opened.manifest.members} == {3}
    side = opened.manifest.members[0].pixel_side
    pictures = [decode(platform.blobs.get(image_key(sha256))) for sha256 in opened.products.image_sha256]
    colour_NC = colours_of(np.stack([fit_square(picture, side) for picture in pictures]))
    np.testing.assert_array_equal(opened.searcher.wording.colours, colour_NC)
    known = np.isin(opened.products.product_id, before.products.product_id)
    np.testing.assert_array_equal(opened.searcher.wording.colours[known], before.searcher.wording.colours)


def test_colours_are_known_of_canvases_of_the_same_side_alone(platform: Platform) -> None:
    opened = open_release(platform, 1, encoders=False)
    side = opened.manifest.members[0].pixel_side
    assert set(known_colours(opened, side=side)) == set(opened.products.image_sha256)
    assert not known_colours(opened, side=side + 8)


def test_by_another_number_of_views_a_known_picture_is_looked_at_again(platform: Platform) -> None:
    take(platform, "other", RetrainRecipe(train=TrainRecipe(epochs=2), release=RELEASE))
    folder = RunFolder(platform.blobs, "other")
    plan = folder.read("plan", Plan)
    for step in ("train", "choose"):
        platform.blobs.put(f"runs/other/{step}.json", platform.blobs.get(f"runs/run/{step}.json"))
    assert all(step.num_reused == step.num_images for step in embed_all(platform, "other"))
    release = RELEASE.model_copy(update={"views": 0})
    folder.write("plan", plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"release": release})}))
    members = choose(platform, "other").members
    assert {member.views for member in members} == {MOST_VIEWS}, "its base is from nothing"
    assert {step.num_reused for step in embed_all(platform, "other")} == {0}


def test_a_refresh_of_a_release_from_before_heads_read_colours_does_without(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_before(*parts: Any, colour_NC: object) -> Any:
        return ensemble_heads(*parts)

    with monkeypatch.context() as older:
        older.setattr("enclip.pipeline.cluster.ensemble_heads", as_before)
        promote_by_hand(platform, build(platform, "run").release)
    ingest_source(platform, str(draw_catalog(tmp_path, num_products=NEWCOMERS, seed=1, start=PRODUCTS + NEWCOMERS)))
    snapshot = prepare(platform, "bare").snapshot
    embed_all(platform, "bare")
    opened = open_release(platform, build(platform, "bare").release)
    assert opened.manifest.attributes.num_colours == opened.searcher.wording.colours.shape[1] == 0
    assert opened.searcher.heads and opened.search(text="red shirt", k=5).hits
    assert not [blob for blob in platform.blobs.listing("colours/") if snapshot_part(snapshot) in blob.key]
