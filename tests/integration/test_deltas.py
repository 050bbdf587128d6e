"""A fine-tuning by low-rank updates through every step: trained, registered as deltas, released, fine-tuned further."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from enclip.catalog.drawn import draw_catalog
from enclip.errors import ConfigError, TrainingError
from enclip.models.checkpoint import read_card, read_weights, save_checkpoint
from enclip.pipeline import retrain as steps
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform
from enclip.pipeline.snapshot import take
from enclip.pipeline.train import train
from enclip.recipes import ReleaseRecipe, RetrainRecipe, TrainRecipe
from enclip.records import EpochVersion
from tests.integration.faults.world import OPEN, open_home
from tests.unit.models.small_models import TRANSFORMER, small_clip

pytestmark = pytest.mark.slow

RUN = "deltas"


def recipe(base: str, **changes: object) -> RetrainRecipe:
    """One member with a student; two checkpoints behind it, so that a soup is chosen."""
    asked = {"base": base, "epochs": 2, "instances": 2, "batch_size": 16, "learning_rate": 1e-3, "lora_rank": 2}
    return RetrainRecipe(
        train=TrainRecipe.model_validate({**asked, **changes}),
        release=ReleaseRecipe(
            min_members=2, max_members=2, soup_epochs=2, cluster_counts=(4,), pulls=(0.0,), student_epochs=1
        ),
        gate=OPEN,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("deltas")
    draw_catalog(root / "catalog", num_products=120, seed=7)
    pretrained = replace(small_clip(architecture=TRANSFORMER), from_scratch=False)
    save_checkpoint(root / "pretrained", pretrained, pixel_side=32)
    save_checkpoint(root / "random", small_clip(architecture=TRANSFORMER), pixel_side=32)
    return root


@pytest.fixture(scope="module")
def platform(root: Path) -> Platform:
    """A champion of two members, both deltas or soups of them."""
    opened = open_home(root / "home")
    ingest_source(opened, str(root / "catalog"))
    take(opened, RUN, recipe(f"local-dir:{root / 'pretrained'}"))
    train(opened, RUN, environment={})
    assert steps.finish(opened, RUN).promoted
    return opened


def stored(epoch: EpochVersion, platform: Platform) -> dict[str, int]:
    """Files of a version in MLflow's store, with their bytes."""
    versions = platform.registry.stored_versions("enclip-epoch")
    (version,) = [version for version in versions if version.version == epoch.version]
    folder = Path(version.location.removeprefix("file://")) / "artifacts"
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def whole(platform: Platform, source: str) -> dict[str, torch.Tensor]:
    folder = platform.registry.fetch_epoch(source)
    return read_weights(folder, read_card(folder))


def test_the_registry_holds_the_base_once_per_instance_and_deltas(platform: Platform) -> None:
    epochs = platform.registry.epochs(RUN)
    assert [(epoch.instance, epoch.epoch) for epoch in epochs] == [(i, e) for i in (0, 1) for e in (0, 1, 2)]
    weights = "checkpoint/weights.safetensors"
    files = [stored(epoch, platform) for epoch in epochs]
    assert all(of_epoch.keys() == {weights, "checkpoint/model.json"} for of_epoch in files)
    sizes = [of_epoch[weights] for of_epoch in files]
    assert sizes[0] == sizes[3] > 10 * max(*sizes[1:3], *sizes[4:])
    assert len({epoch.weights_sha256 for epoch in epochs}) == 5, "instances start alike"
    assert len({epoch.init_id for epoch in epochs}) == 1


def test_what_is_fetched_is_what_was_trained(platform: Platform) -> None:
    for epoch in platform.registry.epochs(RUN):
        folder = platform.scratch / "training" / RUN / f"i{epoch.instance}" / f"epoch-{epoch.epoch:02d}"
        expected, found = read_weights(folder, read_card(folder)), whole(platform, epoch.source)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_release_searches_and_its_soup_is_whole(platform: Platform) -> None:
    release = open_release(platform, "champion")
    assert len(release.search(text="red shirt", k=5).hits) == 5
    epochs = platform.registry.epochs(RUN)
    versions = platform.registry.stored_versions("enclip-epoch")
    (soup,) = [version for version in versions if version.version not in {epoch.version for epoch in epochs}]
    folder = platform.registry.fetch_epoch(soup.source)
    assert soup.delta_of is None and read_card(folder).delta is None
    parts = [whole(platform, epoch.source) for epoch in epochs if epoch.epoch]
    for name, value in whole(platform, soup.source).items():
        torch.testing.assert_close(value, torch.stack([part[name] for part in parts]).mean(dim=0), msg=name)


def test_a_further_training_starts_from_the_champions_whole_weights(platform: Platform) -> None:
    plan = take(platform, "further", recipe("champion", instances=1, epochs=1))
    train(platform, "further", environment={})
    base, epoch = platform.registry.epochs("further")
    assert read_card(platform.registry.fetch_epoch(base.source)).delta is None
    start, first = whole(platform, plan.base_source), whole(platform, base.source)
    assert all(torch.equal(first[name], value) for name, value in start.items())
    versions = {version.version: version for version in platform.registry.stored_versions("enclip-epoch")}
    assert versions[epoch.version].delta_of == base.version
    assert steps.finish(platform, "further").promoted


def test_tiny_is_refused_before_a_run_is_planned(platform: Platform) -> None:
    with pytest.raises(ConfigError, match="tiny starts from nothing"):
        take(platform, "tiny", recipe("tiny"))


def test_a_base_from_nothing_is_refused_before_anything_is_registered(platform: Platform, root: Path) -> None:
    take(platform, "nothing", recipe(f"local-dir:{root / 'random'}"))
    with pytest.raises(TrainingError, match="starts from nothing"):
        train(platform, "nothing", environment={})
    assert platform.registry.epochs("nothing") == []
