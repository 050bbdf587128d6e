"""Build a release: project, cluster, index, and register it as a version of `enclip`."""

import shutil
from datetime import UTC, datetime
from itertools import product

import numpy as np
from numpy.typing import NDArray

from enclip.blobs import writing
from enclip.catalog.snapshot import load_snapshot
from enclip.models.clip import ClipEncoder
from enclip.pipeline.audit import near_duplicates
from enclip.pipeline.embed import member_block
from enclip.pipeline.gallery import extended
from enclip.pipeline.members import load_member
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import ChoiceStep, Plan, ReleaseStep, RunFolder
from enclip.pipeline.validate import Validator
from enclip.records import Products, Split
from enclip.release import ClusterSettings, GallerySettings, Manifest, write_manifest
from enclip.retrieval.clusters import cluster_grid
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.spread import DUPLICATES
from enclip.retrieval.text import NameIndex


def build(platform: Platform, run_id: str) -> ReleaseStep:
    """Build the run's release from its embedded shards and register it.

    A retraining fits projection and clusters anew and chooses their number and pull, and BM25's weight
    where it has one, on *select*; a refresh keeps its parent's, so that known products keep their place.
    """
    folder = RunFolder(platform.blobs, run_id)
    plan, choice = folder.read("plan", Plan), folder.read("choose", ChoiceStep)
    with folder.timed("cluster"):
        products = load_snapshot(platform.blobs, plan.snapshot)
        shards = plan.recipe.release.shards
        blocks = [member_block(platform, member, plan.snapshot, shards) for member in choice.members]
        names: list[NDArray[np.float16]] = []
        if plan.recipe.release.gallery != "image":
            names = [member_block(platform, member, plan.snapshot, shards, what="names") for member in choice.members]
        if plan.built_from is not None:
            parent = open_release(platform, plan.built_from, encoders=False)
            searcher, gallery = extended(parent.searcher, products, blocks, names), parent.manifest.gallery
            trained_on = parent.manifest.trained_on
        else:
            searcher, gallery = _choose_weights(platform, plan, choice, products, blocks, names)
            trained_on = plan.snapshot
        target = platform.scratch / "releases" / run_id
        with writing(target):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            searcher.save(target)
            near_duplicates(searcher).save(target / DUPLICATES)
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
                    gallery=gallery,
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


def _choose_weights(
    platform: Platform,
    plan: Plan,
    choice: ChoiceStep,
    products: Products,
    blocks: list[NDArray[np.float16]],
    names: list[NDArray[np.float16]],
) -> tuple[Searcher, GallerySettings]:
    """The number of clusters, the pull and BM25's weight with the highest mAP@10 on *select*.

    Ties: fewer clusters, and less of the others.
    """
    recipe = plan.recipe.release
    select = Validator(products, split=Split.SELECT)
    allowed = products.split == Split.SELECT
    queries = [
        ClipEncoder(load_member(platform.registry, member.source)).encode_texts(select.texts)
        for member in choice.members
    ]
    is_hybrid = recipe.gallery == "hybrid"
    words = NameIndex(products) if is_hybrid else None
    best: tuple[float, Searcher] | None = None
    by_weight: dict[float, float] = {}
    for count in recipe.cluster_counts or cluster_grid(len(products)):
        built = Searcher.build(
            products,
            blocks,
            [member.weight for member in choice.members],
            cluster_count=count,
            pull=0.0,
            rescored=recipe.rescored,
            seed=plan.recipe.train.seed,
            name_block_NDs=names,
            name_share=choice.gallery.name_share,
            names=words,
        )
        for pull, weight in product(sorted(recipe.pulls), sorted(recipe.bm25_weights) if is_hybrid else (0.0,)):
            candidate = built.with_weights(pull=pull, bm25_weight=weight)
            rankings = candidate.search(queries, k=10, texts=select.texts, allowed=allowed)
            value = select.quality_of_rankings(rankings)
            by_weight[weight] = max(value, by_weight.get(weight, 0.0))
            if best is None or value > best[0] + 1e-9:
                best = (value, candidate)
    assert best is not None, "recipes have at least one cluster count, pull and weight"
    gallery = choice.gallery
    if is_hybrid:
        values = ", ".join(f"{weight:g}: {value:.3f}" for weight, value in sorted(by_weight.items()))
        why = f"{gallery.chosen_because} So has a BM25 weight of {best[1].bm25_weight:g}, with clusters ({values})."
        gallery = gallery.model_copy(update={"bm25_weight": best[1].bm25_weight, "chosen_because": why})
    return best[1], gallery
