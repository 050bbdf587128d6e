"""A drawn catalog, a base of a few thousand weights, and the studies run over them once for all tests."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from enclip.catalog.drawn import draw_catalog
from enclip.config import Settings
from enclip.models.checkpoint import save_checkpoint
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.platform import Platform, open_platform
from enclip.recipes import ReleaseRecipe
from enclip.studies import bases
from enclip.studies.definition import Setting
from enclip.studies.run import STUDIES, run_study
from tests.unit.models.small_models import SIDE, small_clip

NOWHERE = "local-dir:/nowhere/at/all"


@dataclass(frozen=True)
class Ran:
    """One run of a study: what it wrote, and what it told."""

    folder: Path
    name: str
    told: list[str]

    @property
    def document(self) -> dict[str, Any]:
        return json.loads((self.folder / f"{self.name}.json").read_bytes())

    @property
    def per_query(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / f"{self.name}.per_query.csv")

    @property
    def trained(self) -> list[str]:
        """The epochs that were trained in it."""
        return [line for line in self.told if " epoch " in line]


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """With 400 drawn products: gate asks some twenty queries of them."""
    folder = tmp_path_factory.mktemp("studies")
    platform = open_platform(Settings(ENCLIP_HOME=folder / "home"))
    ingest_source(platform, str(draw_catalog(folder / "drawn", num_products=400, seed=7)))
    return platform


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Two instances of two epochs, and few parts of a score to choose from."""
    base = tmp_path_factory.mktemp("base")
    save_checkpoint(base, small_clip(), pixel_side=SIDE)
    release = ReleaseRecipe(min_members=1, cluster_counts=(6,), pulls=(0.0, 0.3), narrowings=(0.0,))
    return Setting(base=f"local-dir:{base}", epochs=2, instances=2, offered=2, folds=(0, 1), release=release)


@pytest.fixture(scope="session")
def run(platform: Platform, setting: Setting) -> Callable[..., Ran]:
    """Run a study into a folder. The bases that hubs would have to deliver are left out."""

    def once(name: str, folder: Path, *, folds: tuple[int, ...] = (0,), setting: Setting = setting) -> Ran:
        told: list[str] = []
        offline = replace(STUDIES["bases"], run=partial(bases.run, bases={"nobody's": NOWHERE, "unknown": "NoNet:x"}))
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(STUDIES, "bases", offline)
            run_study(platform, name, setting, folds=folds, folder=folder, tell=told.append)
        return Ran(folder, name, told)

    return once


@pytest.fixture(scope="session")
def ran(run: Callable[..., Ran], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """A study's first run, of fold 0."""
    folder, known = tmp_path_factory.mktemp("reports"), dict[str, Ran]()

    def first(name: str) -> Ran:
        if name not in known:
            known[name] = run(name, folder)
        return known[name]

    return first
