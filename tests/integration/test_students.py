"""One text tower for an ensemble, through every step: taught, judged on select, stored, served, refreshed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enclip.catalog.drawn import draw_catalog
from enclip.config import Settings
from enclip.errors import ReleaseError
from enclip.evaluation.queries import build_queries
from enclip.models.clip import ClipEncoder
from enclip.pipeline import retrain as steps
from enclip.pipeline.distil import distil_run, judged, student_texts
from enclip.pipeline.gallery import measure
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.members import load_member
from enclip.pipeline.open_release import OpenRelease, open_release, open_release_folder
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.refresh import prepare
from enclip.pipeline.runs import ChoiceStep, EvaluationStep, RunFolder, StudentStep
from enclip.pipeline.snapshot import take
from enclip.pipeline.train import train
from enclip.pipeline.validate import Validator
from enclip.recipes import GatePolicy, ReleaseRecipe, RetrainRecipe, TrainRecipe
from enclip.records import Split
from tests.integration.faults.world import small_base

pytestmark = pytest.mark.slow

RELEASE = ReleaseRecipe(
    min_members=2, max_members=2, soup_epochs=0, cluster_counts=(8,), pulls=(0.0,), student_epochs=6, student_loss=1
)
OPEN = GatePolicy(margin=2, category_margin=2, tolerance=2, floor=0, max_overfit=2, max_memory_ratio=100)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """240 products and a champion of two members."""
    home = tmp_path_factory.mktemp("students")
    opened = open_platform(Settings(ENCLIP_HOME=home / "enclip", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    ingest_source(opened, str(draw_catalog(home / "first", num_products=240, seed=1)))
    asked = TrainRecipe(base=small_base(home), epochs=2, instances=2)
    take(opened, "taught", RetrainRecipe(train=asked, release=RELEASE, gate=OPEN))
    train(opened, "taught", environment={})
    steps.finish(opened, "taught")
    return opened


@pytest.fixture(scope="module")
def release(platform: Platform) -> OpenRelease:
    return open_release(platform, "champion")


def test_the_manifest_says_who_answers_and_why(release: OpenRelease) -> None:
    student = release.manifest.student
    assert len(release.manifest.members) == 2
    assert student.num_texts > 100
    assert len(student.agreement) == 2
    assert "it answers for them" in student.chosen_because
    assert {"student/student.json", "student/weights.safetensors"} <= set(release.manifest.files)


def test_words_are_encoded_by_the_student_alone(release: OpenRelease) -> None:
    class Unused:
        dim = 0

        def encode_texts(self, texts: object) -> np.ndarray:
            raise AssertionError("a member encoded words")

    assert release.student is not None
    untouched = replace(release, encoders=(Unused(), Unused()))  # type: ignore[arg-type]
    assert untouched.search(text="navy blue shirt", k=5) == release.search(text="navy blue shirt", k=5)
    own = [encoder.encode_texts(["navy blue shirt"]) for encoder in release.encoders]
    for ours, theirs in zip(release.encode_texts(["navy blue shirt"]), own, strict=True):
        assert float((ours * theirs).sum()) > 0.8


def test_the_best_member_answers_by_its_own_text_tower(platform: Platform, release: OpenRelease) -> None:
    """As a release of it alone would, which has no student."""
    folder = RunFolder(platform.blobs, "taught")
    evaluation, best = folder.read("evaluation", EvaluationStep), folder.read("choose", ChoiceStep).best_member
    is_gate = release.products.split == Split.GATE
    queries = build_queries(release.products.take(is_gate))
    texts = [query.text for query in queries]
    own, taught = replace(release, student=None).encode_texts(texts)[best], release.encode_texts(texts)[best]
    by_own, by_student = (
        measure(release.searcher.member(best), [block], queries, allowed=is_gate).evaluation.results
        for block in (own, taught)
    )
    assert evaluation.systems["best member"] == pytest.approx([result.ap_at_10 for result in by_own], abs=1e-5)
    assert by_own != by_student


def test_words_beside_a_product_are_completed_by_its_kind(release: OpenRelease) -> None:
    assert release.searcher.heads is not None
    product = next(product for product in release.products if product.base_colour == "Red")
    kinds = release.searcher.heads.values[release.searcher.heads.fields.index("article_type")]
    another = next(kind for kind in kinds if kind != product.article_type)
    bare, whole = (
        release.search(like=product.product_id, text=text, k=20) for text in ("blue", f"blue {product.article_type}")
    )
    assert bare == whole
    named = release.search(like=product.product_id, text=f"blue {another}", k=20)
    assert named != release.search(like=product.product_id, text=f"blue {another} {product.article_type}", k=20)
    assert release.search(text="blue", k=20) != release.search(text=f"blue {product.article_type}", k=20)


def test_the_evaluation_shows_what_the_student_costs(platform: Platform, release: OpenRelease) -> None:
    evaluation = RunFolder(platform.blobs, "taught").read("evaluation", EvaluationStep)
    assert len(evaluation.systems["without student"]) == len(evaluation.systems["challenger"])


def test_a_second_try_finds_the_student_that_is_there(platform: Platform) -> None:
    steps_taken: list[int] = []
    before = RunFolder(platform.blobs, "taught").read("distil", StudentStep)
    again = distil_run(platform, "taught", on_text=lambda step, steps_in_all, loss: steps_taken.append(step))
    assert again == before
    assert steps_taken == []


def test_a_student_whose_files_were_pruned_is_made_again(platform: Platform) -> None:
    before = RunFolder(platform.blobs, "taught").read("distil", StudentStep)
    kept = {blob.key: platform.blobs.get(blob.key) for blob in platform.blobs.listing(before.key)}
    for key in kept:
        platform.blobs.delete(key)
    assert len(kept) == 2
    assert distil_run(platform, "taught").key == before.key
    assert {key: platform.blobs.get(key) for key in kept} == kept


def test_a_student_that_loses_too_much_does_not_answer(platform: Platform, release: OpenRelease) -> None:
    choice = RunFolder(platform.blobs, "taught").read("choose", ChoiceStep)
    step = RunFolder(platform.blobs, "taught").read("distil", StudentStep)
    select = Validator(release.products, split=Split.SELECT)
    queries = [
        ClipEncoder(load_member(platform.registry, member.source)).encode_texts(select.texts)
        for member in choice.members
    ]
    allowed = release.products.split == Split.SELECT
    verdict = judged(platform, step, release.searcher, queries, select, allowed, most=-1.0)
    assert verdict.num_texts == 0
    assert "they answer themselves" in verdict.chosen_because
    verdict = judged(platform, step, release.searcher, queries, select, allowed, most=-1.0, needed=True)
    assert verdict.num_texts == step.num_texts
    assert "max_text_ms does not allow" in verdict.chosen_because


def test_nothing_of_another_split_teaches_it(release: OpenRelease) -> None:
    others = release.products.take(np.flatnonzero(release.products.split != Split.TRAIN))
    assert not set(others.name) & set(student_texts(release.products))


def test_a_refresh_keeps_it(platform: Platform, release: OpenRelease) -> None:
    prepare(platform, "refreshed")
    outcome = steps.finish_refresh(platform, "refreshed")
    fresh = open_release(platform, outcome.release)
    assert fresh.manifest.student == release.manifest.student
    for ours, theirs in zip(fresh.encode_texts(["red bag"]), release.encode_texts(["red bag"]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_student_with_a_flipped_byte_is_refused(platform: Platform, tmp_path: Path) -> None:
    import shutil

    version = platform.registry.resolve("champion")
    folder = tmp_path / "release"
    shutil.copytree(platform.registry.fetch_release(version), folder)
    path = folder / "student" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReleaseError, match="is not what the manifest says"):
        open_release_folder(folder, platform.registry)
