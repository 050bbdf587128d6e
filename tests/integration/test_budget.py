"""The automatic choice under a budget, from the recipe to the manifest."""

import pytest

from enclip.catalog.drawn import draw_catalog
from enclip.config import Settings
from enclip.errors import ConfigError
from enclip.pipeline.choose import choose
from enclip.pipeline.cluster import build
from enclip.pipeline.embed import embed_all
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.promote import promote_by_hand
from enclip.pipeline.refresh import prepare
from enclip.pipeline.runs import ChoiceStep, Plan, RunFolder
from enclip.pipeline.snapshot import take
from enclip.pipeline.train import train
from enclip.recipes import ReleaseRecipe, RetrainRecipe, TrainRecipe

pytestmark = pytest.mark.slow

PRODUCTS, DIM, SIDE = 160, 128, 48
ONE, TWO = (PRODUCTS * (2 * members * DIM + 4 * indexed) / 1e6 for members, indexed in ((1, DIM), (2, DIM * 3 // 4)))
TRAIN = TrainRecipe(epochs=2, instances=2, image_side=SIDE)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """A training whose ensemble is still to be chosen."""
    home = tmp_path_factory.mktemp("budget")
    opened = open_platform(Settings(ENCLIP_HOME=home / "enclip", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    ingest_source(opened, str(draw_catalog(home / "first", num_products=PRODUCTS, seed=1)))
    take(opened, "run", RetrainRecipe(train=TRAIN))
    train(opened, "run", environment={})
    return opened


def chosen(platform: Platform, **release: object) -> ChoiceStep:
    folder = RunFolder(platform.blobs, "run")
    plan = folder.read("plan", Plan)
    recipe = plan.recipe.model_copy(
        update={"release": ReleaseRecipe.model_validate({"min_members": 2, "soup_epochs": 0, **release})}
    )
    folder.write("plan", plan.model_copy(update={"recipe": recipe}))
    return choose(platform, "run")


def test_without_a_budget_what_each_candidate_costs_is_told(platform: Platform) -> None:
    step = chosen(platform)
    assert len(step.members) >= 2
    for candidate in step.candidates:
        members = len(candidate.versions)
        indexed = DIM if members == 1 else DIM * 3 // 4
        assert candidate.memory_mb == pytest.approx(PRODUCTS * (2 * members * DIM + 4 * indexed) / 1e6, abs=0.006)
        assert candidate.text_ms is None
        assert candidate.within_budget
    assert "MB" not in step.chosen_because


def test_times_are_taken_once_so_that_a_second_try_chooses_the_same(platform: Platform) -> None:
    first = chosen(platform, max_text_ms=10_000)
    assert all(candidate.text_ms and candidate.text_ms > 0 for candidate in first.candidates)
    assert chosen(platform, max_text_ms=10_000) == first
    assert set(first.text_ms) >= {member.weights_sha256 for member in first.members}
    assert chosen(platform).text_ms == {}


def test_an_ensemble_becomes_as_small_as_its_memory_must_be(platform: Platform) -> None:
    step = chosen(platform, max_memory_mb=(ONE + TWO) / 2)
    assert len(step.members) == 1
    assert {len(candidate.versions) for candidate in step.candidates} == {1}
    assert "fewer than the 2 checkpoints wished for" in step.chosen_because
    assert "MB" in step.chosen_because
    assert len(chosen(platform, max_memory_mb=TWO + 0.01).members) == 2


def test_where_nothing_can_be_paid_one_member_is_taken_and_the_manifest_says_so(platform: Platform) -> None:
    # None can be paid: the release is one member, and its candidates say that they are beyond the budget.
    step = chosen(platform, max_memory_mb=ONE / 2)
    assert len(step.members) == 1
    assert not any(candidate.within_budget for candidate in step.candidates)


def test_a_base_that_cannot_be_paid_is_refused_before_it_is_trained(platform: Platform) -> None:
    release = ReleaseRecipe(max_memory_mb=ONE / 2)
    take(platform, "dear", RetrainRecipe(train=TRAIN, release=release))
    with pytest.raises(ConfigError, match="max_memory_mb"):
        train(platform, "dear", environment={})
    assert platform.registry.epochs("dear") == []


def test_beyond_exact_up_to_a_release_and_its_refresh_look_into_cells(platform: Platform) -> None:
    chosen(platform, exact_up_to=PRODUCTS - 1, min_recall=0.9)
    first = released(platform, "run")
    promote_by_hand(platform, first)
    prepare(platform, "again")
    for version in (first, released(platform, "again")):
        opened = open_release(platform, version)
        settings = opened.manifest.index
        assert opened.searcher.index.kind == settings.kind == "cells", settings.chosen_because
        assert opened.searcher.index.effort == settings.effort
        assert min(settings.text_recall, settings.image_recall) >= 0.9
        assert (settings.exact_up_to, settings.min_recall) == (PRODUCTS - 1, 0.9)
        assert len(opened.search(text="red shirt", k=5).hits) == 5
        assert {member.pixel_side for member in opened.manifest.members} == {SIDE}


def test_last_epochs_are_this_run_s_though_the_champion_trained_longer(platform: Platform) -> None:
    chosen(platform)
    promote_by_hand(platform, released(platform, "run"))
    take(platform, "short", RetrainRecipe(train=TrainRecipe(epochs=1), release=ReleaseRecipe(soup_epochs=0)))
    train(platform, "short", environment={})
    versions = {candidate.name: candidate.versions for candidate in choose(platform, "short").candidates}
    (last,) = [epoch.version for epoch in platform.registry.epochs("short") if epoch.epoch == 1]
    assert versions["uniform last epochs"] == (last,)


def released(platform: Platform, run_id: str) -> int:
    embed_all(platform, run_id)
    return build(platform, run_id).release
