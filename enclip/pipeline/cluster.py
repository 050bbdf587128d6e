"""Build a release: project, cluster, index, and register it as a version of `enclip`."""

import shutil
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from enclip.blobs import writing
from enclip.catalog.snapshot import load_snapshot
from enclip.models.clip import ClipEncoder
from enclip.pipeline.embed import member_block
from enclip.pipeline.gallery import extended
from enclip.pipeline.members import load_member
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import ChoiceStep, Plan, ReleaseStep, RunFolder
from enclip.pipeline.validate import Validator
from enclip.records import Products, Split
from enclip.release import ClusterSettings, Manifest, write_manifest
from enclip.retrieval.clusters import cluster_grid
from enclip.retrieval.searcher import Searcher


def build(platform: Platform, run_id: str) -> ReleaseStep:
    """Build the run's release from its embedded shards and register it.

    A retraining fits projection and clusters anew and chooses their number and pull on *select*; a
    refresh keeps its parent's, so that known products keep their place.
    """
    folder = RunFolder(platform.blobs, run_id)
    plan, choice = folder.read("plan", Plan), folder.read("choose", ChoiceStep)
    with folder.timed("cluster"):
        products = load_snapshot(platform.blobs, plan.snapshot)
        shards = plan.recipe.release.shards
        blocks = [member_block(platform, member, plan.snapshot, shards) for member in choice.members]
        if plan.built_from is not None:
            parent = open_release(platform, plan.built_from, encoders=False)
            searcher = extended(parent.searcher, products, blocks)
            trained_on = parent.manifest.trained_on
        else:
            searcher = _choose_clusters(platform, plan, choice, products, blocks)
            trained_on = plan.snapshot
        target = platform.scratch / "releases" / run_id
        with writing(target):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            searcher.save(target)
            manifest = write_manifest(
                target,
                Manifest(
                    kind=plan.kind,
                    run_id=run_id,
                    parent_release=plan.parent_release,
                    base=plan.recipe.train.base,
                    base_version=choice.base.version if choice.base else None,
                    snapshot=plan.snapshot,
                    trained_on=trained_on,
                    num_products=len(products),
                    members=choice.members,
                    best_member=choice.best_member,
                    clusters=ClusterSettings(count=searcher.clusters.count, pull=searcher.pull),
                    rescored=searcher.rescored,
                    candidates=choice.candidates,
                    chosen_because=choice.chosen_because,
                    created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    git_commit=plan.origin.git_commit,
                    lock_sha256=plan.origin.lock_sha256,
                ),
            )
        step = ReleaseStep(release=platform.registry.log_release(plan.mlflow_run_id, target, manifest))
        folder.write("release", step)
        shutil.rmtree(target, ignore_errors=True)
    return step


def _choose_clusters(
    platform: Platform, plan: Plan, choice: ChoiceStep, products: Products, blocks: list[NDArray[np.float16]]
) -> Searcher:
    """The number of clusters and the pull with the highest mAP@10 on *select*; ties: fewer, weaker."""
    recipe = plan.recipe.release
    select = Validator(products, split=Split.SELECT)
    allowed = products.split == Split.SELECT
    queries = [
        ClipEncoder(load_member(platform.registry, member.source)).encode_texts(select.texts)
        for member in choice.members
    ]
    weights = [member.weight for member in choice.members]
    best: tuple[float, Searcher] | None = None
    for count in recipe.cluster_counts or cluster_grid(len(products)):
        built = Searcher.build(
            products,
            blocks,
            weights,
            cluster_count=count,
            pull=0.0,
            rescored=recipe.rescored,
            seed=plan.recipe.train.seed,
        )
        for pull in sorted(recipe.pulls):
            candidate = built.with_weights(pull=pull)
            value = select.quality_of_rankings(candidate.search(queries, k=10, allowed=allowed))
            if best is None or value > best[0] + 1e-9:
                best = (value, candidate)
    assert best is not None, "recipes have at least one cluster count and one pull"
    return best[1]
