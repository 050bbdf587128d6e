"""Build a release: project, cluster, index, and register it as a version of `enclip`."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclip.blobs import writing
from enclip.catalog.images import image_key
from enclip.catalog.snapshot import load_snapshot
from enclip.models.clip import ClipEncoder
from enclip.pipeline.audit import findings
from enclip.pipeline.bank import bank_texts, query_bank
from enclip.pipeline.canary import Canaries
from enclip.pipeline.colours import reads_colours
from enclip.pipeline.distil import copy_student, fetch_student, judged
from enclip.pipeline.gallery import extended
from enclip.pipeline.heads import ensemble_heads, name_heads, train_values
from enclip.pipeline.index import Words, with_index
from enclip.pipeline.members import load_member
from enclip.pipeline.open_release import STUDENT, OpenRelease, open_release, open_release_folder
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import ChoiceStep, Plan, ReleaseStep, RunFolder, StudentStep
from enclip.pipeline.shards import colour_block, member_block
from enclip.pipeline.tune import Tuned, tune
from enclip.pipeline.validate import Validator
from enclip.records import Products, Split
from enclip.release import (
    AttributeSettings,
    BankSettings,
    ClusterSettings,
    GallerySettings,
    Manifest,
    StudentSettings,
    write_manifest,
)
from enclip.retrieval.atlas import MAP, Atlas
from enclip.retrieval.audit import SUSPECTS, save_suspects
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.spread import DUPLICATES
from enclip.retrieval.text import NameIndex


def build(platform: Platform, run_id: str) -> ReleaseStep:
    """Build the run's release from its embedded shards and register it.

    A retraining fits projection and clusters anew and weighs the parts of the score on *select*
    (`tune`); a refresh keeps its parent's, so that known products keep their place.
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
        colour_NC = None
        if reads_colours(platform, plan):
            colour_NC = colour_block(platform, choice.members[0], plan.snapshot, shards)
        parent: OpenRelease | None = None
        if plan.built_from is not None:
            parent = open_release(platform, plan.built_from, encoders=False)
            searcher, parts = extended(parent.searcher, products, blocks, names, colour_NC), _parts(parent.manifest)
            trained_on = parent.manifest.trained_on
            student: Path | None = platform.registry.fetch_release(plan.built_from) / STUDENT
        else:
            taught = folder.find("distil", StudentStep) or StudentStep(summary="None was taught.")
            student = fetch_student(platform, taught) if taught.key else None
            tuned, settings = _chosen(platform, plan, choice, products, blocks, names, colour_NC, taught)
            searcher, trained_on = tuned.searcher, plan.snapshot
            parts = {**_settings(tuned, choice.gallery), "student": settings}
        searcher, parts["index"] = with_index(
            searcher, plan.recipe.release, partial(_words, platform, choice, products), seed=plan.recipe.train.seed
        )
        target = platform.scratch / "releases" / run_id
        with writing(target):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            searcher.save(target)
            duplicates, suspects = findings(searcher)
            duplicates.save(target / DUPLICATES)
            save_suspects(suspects, target / SUSPECTS)
            atlas_of(searcher, parent, seed=plan.recipe.train.seed).save(target / MAP)
            if student is not None and parts["student"].num_texts:
                copy_student(student, target / STUDENT)
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
                    **parts,
                    rescored=searcher.rescored,
                    candidates=choice.candidates,
                    chosen_because=choice.chosen_because,
                    created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    git_commit=plan.origin.git_commit,
                    lock_sha256=plan.origin.lock_sha256,
                ),
            )
            manifest = write_manifest(target, _with_canaries(platform, target, manifest))
        step = ReleaseStep(release=platform.registry.log_release(plan.mlflow_run_id, target, manifest))
        folder.write("release", step)
        shutil.rmtree(target, ignore_errors=True)
    return step


def atlas_of(searcher: Searcher, parent: OpenRelease | None, *, seed: int) -> Atlas:
    """A release's map: its parent's with newcomers, where the parent of a refresh has one, else a new one."""
    if parent is None or parent.atlas is None:
        return Atlas.fit(searcher.vectors(), seed=seed)
    return parent.atlas.extended(parent.products, searcher.products, searcher.vectors(), seed=seed)


def _with_canaries(platform: Platform, folder: Path, manifest: Manifest) -> Manifest:
    """Ask the release of a folder its canary queries, opened as a service opens it, and put them beside it."""
    release = open_release_folder(folder, platform.registry, device="cpu")
    side = max(member.pixel_side for member in manifest.members)
    Canaries.of(release, lambda sha256: platform.blobs.get(image_key(sha256)), pixel_side=side).save(folder)
    return manifest


def _settings(tuned: Tuned, gallery: GallerySettings) -> dict[str, Any]:
    """The manifest's account of a mix."""
    searcher, mix = tuned.searcher, tuned.searcher.mix
    return {
        "clusters": ClusterSettings(
            count=searcher.clusters.count,
            pull=mix.pull,
            narrowing=mix.narrowing,
            feedback=mix.feedback,
            chosen_because=tuned.why["clusters"],
        ),
        "bank": BankSettings(
            num_texts=len(searcher.bank.count_J) if searcher.bank else 0,
            calibration=mix.calibration,
            exemplar_share=mix.exemplar_share,
            chosen_because=tuned.why.get("bank", "There are no captions to make one of."),
        ),
        "attributes": AttributeSettings(
            fields=searcher.heads.fields if searcher.heads else (),
            num_values=sum(map(len, searcher.heads.values)) if searcher.heads else 0,
            num_colours=searcher.heads.num_colours if searcher.heads else 0,
            weight=mix.attribute_weight,
            name_weight=mix.name_attribute_weight,
            chosen_because=tuned.why.get("attributes", "The catalog has no attributes to tell apart."),
            name_chosen_because=tuned.why.get("attributes by name", ""),
        ),
        "gallery": gallery.model_copy(
            update={
                "bm25_weight": mix.bm25_weight,
                "chosen_because": " ".join(filter(None, [gallery.chosen_because, tuned.why.get("BM25")])),
            }
        ),
    }


def _words(platform: Platform, choice: ChoiceStep, products: Products) -> Words:
    """The queries of *select*, as the members see them."""
    texts = Validator(products, split=Split.SELECT).texts
    models = [load_member(platform.registry, member.source) for member in choice.members]
    return Words(texts, [ClipEncoder(model).encode_texts(texts) for model in models])


def _parts(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in ("clusters", "bank", "attributes", "gallery", "student")}


def _chosen(
    platform: Platform,
    plan: Plan,
    choice: ChoiceStep,
    products: Products,
    blocks: list[NDArray[np.float16]],
    names: list[NDArray[np.float16]],
    colour_NC: NDArray[np.float16] | None,
    taught: StudentStep,
) -> tuple[Tuned, StudentSettings]:
    """A searcher with the mix that is best on *select*, and whether a student may ask it."""
    recipe = plan.recipe.release
    select = Validator(products, split=Split.SELECT)
    weights = [member.weight for member in choice.members]
    models = [load_member(platform.registry, member.source) for member in choice.members]
    words = NameIndex(products) if recipe.gallery == "hybrid" else None
    sharpnesses = [model.sharpness for model in models]
    texts = bank_texts(products)
    asked = [ClipEncoder(model).encode_texts(texts.texts) for model in models]
    bank = query_bank(texts, asked, blocks, weights, sharpnesses)
    values = train_values(products)
    heads = ensemble_heads(products, blocks, weights, sharpnesses, values, colour_NC=colour_NC)
    by_name = name_heads(products, values) if names and heads else None
    said = by_name.judged.over(products.name) if by_name else None

    def build(count: int, mix: Mix) -> Searcher:
        return Searcher.build(
            products,
            blocks,
            weights,
            cluster_count=count,
            mix=mix,
            rescored=recipe.rescored,
            seed=plan.recipe.train.seed,
            name_block_NDs=names,
            names=words,
            bank=bank,
            heads=heads.judged if heads else None,
            colour_NC=colour_NC,
            said=said,
        )

    queries = [ClipEncoder(model).encode_texts(select.texts) for model in models]
    settled = Mix(name_share=choice.gallery.name_share)
    allowed = products.split == Split.SELECT
    tuned = tune(build, queries, select, allowed, recipe, mix=settled)
    student = judged(
        platform,
        taught,
        tuned.searcher,
        queries,
        select,
        allowed,
        most=recipe.student_loss,
        needed=choice.needs_student,
    )
    if heads is not None:
        final = by_name.final.over(products.name) if by_name else None
        tuned = replace(tuned, searcher=tuned.searcher.with_heads(heads.final, final))
    return tuned, student
