"""Soups: averaged from a run's last epochs, offered to the choice, and released like any member."""

import numpy as np
import pytest

from enclip.catalog.drawn import draw_catalog
from enclip.config import Settings
from enclip.models.checkpoint import load_checkpoint
from enclip.models.device import resolve_device
from enclip.pipeline.choose import choose
from enclip.pipeline.cluster import build
from enclip.pipeline.embed import embed_all
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.promote import promote_by_hand
from enclip.pipeline.snapshot import take
from enclip.pipeline.status import read_status
from enclip.pipeline.train import train
from enclip.recipes import ReleaseRecipe, RetrainRecipe, TrainRecipe

pytestmark = pytest.mark.slow

RUN = "soups"
# One member may serve, and at least two checkpoints must stand behind it: that is a soup.
RECIPE = RetrainRecipe(
    train=TrainRecipe(epochs=3, instances=2),
    release=ReleaseRecipe(min_members=2, max_members=1, soup_epochs=2, cluster_counts=(8,), pulls=(0.0,), views=1),
)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    home = tmp_path_factory.mktemp("soups")
    opened = open_platform(Settings(ENCLIP_HOME=home / "enclip", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    ingest_source(opened, str(draw_catalog(home / "first", num_products=160, seed=1)))
    take(opened, RUN, RECIPE)
    train(opened, RUN, environment={})
    choose(opened, RUN)
    embed_all(opened, RUN)
    promote_by_hand(opened, build(opened, RUN).release)
    return opened


def test_a_soup_is_the_mean_of_the_last_epochs_of_one_instance(platform: Platform) -> None:
    (member,) = platform.registry.release_manifest(1).members
    assert [(part.instance, part.epoch) for part in member.ingredients] == [(member.instance, 2), (member.instance, 3)]
    cpu = resolve_device("cpu")
    soup = load_checkpoint(platform.registry.fetch_epoch(member.source), device=cpu).module
    parts = [
        load_checkpoint(platform.registry.fetch_epoch(platform.registry.epoch(part.version).source), device=cpu).module
        for part in member.ingredients
    ]
    name, mean = next(iter(soup.named_parameters()))
    expected = sum(part.get_parameter(name).detach().numpy() for part in parts) / 2
    np.testing.assert_allclose(mean.detach().numpy(), expected, atol=1e-6)


def test_status_lists_its_ingredients_as_members(platform: Platform) -> None:
    members = read_status(platform)["champion"]["members"]
    assert [member["epoch"] for member in members] == [2, 3]
    assert sum(member["weight"] for member in members) == pytest.approx(1)
    known = {epoch.version for epoch in platform.registry.epochs(RUN)}
    assert {member["version"] for member in members} <= known


def test_it_searches_like_any_release(platform: Platform) -> None:
    opened = open_release(platform, 1)
    (ranking,) = opened.searcher.search(opened.encode_texts(["red shirt"]), k=5)
    assert len(ranking.hits) == 5


def test_a_soup_is_a_version_beside_the_epochs_and_not_one_of_them(platform: Platform) -> None:
    epochs = platform.registry.epochs(RUN)
    assert len(epochs) == 2 * (3 + 1)
    member = platform.registry.release_manifest(1).members[0]
    assert member.version not in {epoch.version for epoch in epochs}
    assert platform.registry.epoch(member.version).map_at_10 > 0


def test_choosing_again_registers_nothing_twice(platform: Platform) -> None:
    first = platform.registry.release_manifest(1).members
    assert choose(platform, RUN).members == first
