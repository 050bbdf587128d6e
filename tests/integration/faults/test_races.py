"""Two at once: the alias is always valid, no update is lost, and the ledger tells the story (D13)."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from enclip import ledger
from enclip.catalog.drawn import draw_catalog
from enclip.pipeline.changed import should_refresh
from enclip.pipeline.choose import choose
from enclip.pipeline.cluster import build
from enclip.pipeline.embed import embed_all
from enclip.pipeline.evaluate import evaluate_run
from enclip.pipeline.gate import decide
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.platform import Platform
from enclip.pipeline.promote_run import promote_run
from enclip.pipeline.refresh import prepare
from enclip.pipeline.runs import GateStep, RunFolder
from enclip.pipeline.snapshot import take
from enclip.pipeline.train import train
from tests.children import CHILDREN

from .world import RUN, World, open_home, recipe, root_of

pytestmark = pytest.mark.slow


def retrain_up_to_the_gate(platform: Platform, run_id: str, seed: int) -> None:
    take(platform, run_id, recipe(root_of(platform), seed=seed))
    train(platform, run_id, environment={})
    choose(platform, run_id)
    measure(platform, run_id)


def refresh_up_to_the_gate(platform: Platform, run_id: str) -> None:
    prepare(platform, run_id)
    measure(platform, run_id)


def measure(platform: Platform, run_id: str) -> None:
    embed_all(platform, run_id)
    build(platform, run_id)
    evaluate_run(platform, run_id)
    decide(platform, run_id)


def retrain(home: Path, run_id: str, seed: int, start: Any, answers: Any) -> None:
    platform = open_home(home)
    start.wait(60)
    retrain_up_to_the_gate(platform, run_id, seed)
    answers.put((run_id, promote_run(platform, run_id).promoted))


def promote_now(home: Path, run_id: str, start: Any, answers: Any) -> None:
    platform = open_home(home)
    platform.registry.aliases()
    start.wait(60)
    step = promote_run(platform, run_id, approved=True)
    answers.put((run_id, step.promoted))


def race(home: Path, entrants: list[tuple[Any, ...]]) -> list[tuple[str, bool]]:
    """Start (function, arguments…) at the same moment; their answers. The alias is looked at all the while."""
    start, answers = CHILDREN.Barrier(len(entrants)), CHILDREN.Queue()
    children = [
        CHILDREN.Process(target=function, args=(home, *arguments, start, answers)) for function, *arguments in entrants
    ]
    platform = open_home(home)
    for child in children:
        child.start()
    while any(child.is_alive() for child in children):
        champion = platform.registry.alias("champion")
        assert champion is None or platform.registry.release_manifest(champion).files
        time.sleep(0.05)
    assert [child.exitcode for child in children] == [0] * len(children)
    platform.database.dispose()
    return [answers.get(timeout=10) for _ in children]


def assert_story_is_whole(platform: Platform) -> None:
    """Each move starts where the one before ended, nobody moved outside, and the last one is the alias."""
    made = ledger.history(platform.database)
    assert made[0].from_release is None
    assert all(later.from_release == earlier.to_release for earlier, later in pairwise(made))
    assert {move.action for move in made} == {"promote"}
    assert made[-1].to_release == platform.registry.alias("champion")
    assert len({move.to_release for move in made}) == len(made)


def test_two_retrainings_at_once_are_both_released_one_measured_against_the_other(world: World) -> None:
    home = world.home_after("ingest")

    answers = race(home, [(retrain, "one", 0), (retrain, "two", 1)])

    platform = open_home(home)
    assert sorted(answers) == [("one", True), ("two", True)]
    assert_story_is_whole(platform)
    made = ledger.history(platform.database)
    assert [move.expected_champion for move in made] == [move.from_release for move in made]
    assert len({move.ensemble_key for move in made}) == 2
    epochs = [len(platform.registry.epochs(run_id)) for run_id in ("one", "two")]
    assert epochs == [3, 3]
    platform.database.dispose()


def test_the_same_promotion_twice_at_once_is_one_move(world: World) -> None:
    home = world.home_after("gate")

    answers = race(home, [(promote_now, RUN), (promote_now, RUN)])

    assert answers == [(RUN, True), (RUN, True)]
    platform = open_home(home)
    assert_story_is_whole(platform)
    assert len(ledger.history(platform.database)) == 1
    platform.database.dispose()


def test_a_refresh_against_a_promotion_loses_neither(world: World) -> None:
    home = world.home_after("promote")
    platform = open_home(home)
    retrain_up_to_the_gate(platform, "second", 1)
    ingest_source(platform, str(draw_catalog(home / "later", num_products=20, seed=7, start=120)))
    refresh_up_to_the_gate(platform, "refreshed")
    wanted = platform.registry.release_manifest(RunFolder(platform.blobs, "second").read("gate", GateStep).release)

    answers = dict(race(home, [(promote_now, "second"), (promote_now, "refreshed")]))

    assert answers["second"]
    assert_story_is_whole(platform)
    champion = platform.registry.alias("champion")
    assert champion is not None
    serving = platform.registry.release_manifest(champion)
    assert serving.ensemble_key == wanted.ensemble_key
    if answers["refreshed"]:  # it was first, and the retrained ensemble was rebased onto its catalog
        assert serving.num_products == 140
    else:  # it was late and is thrown away; that the catalog has changed is not forgotten
        assert serving.num_products == 120
        assert should_refresh(platform)
    platform.database.dispose()
