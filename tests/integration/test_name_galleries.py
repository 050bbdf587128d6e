"""Names in the gallery, through every step: chosen on select, built, measured, refreshed, served."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enclip.blobs import write_whole
from enclip.catalog.drawn import draw_catalog
from enclip.catalog.images import image_key
from enclip.cli.releases import show_figures
from enclip.config import Settings
from enclip.errors import ConfigError, ReleaseError
from enclip.evaluation.queries import build_queries
from enclip.models.clip import ClipEncoder
from enclip.pipeline.choose import choose
from enclip.pipeline.cluster import build
from enclip.pipeline.embed import embed_all
from enclip.pipeline.evaluate import evaluate_run
from enclip.pipeline.gallery import extended, measure, parts_alone
from enclip.pipeline.gate import decide
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.kagl import measure_kagl
from enclip.pipeline.measure import measure_release
from enclip.pipeline.members import load_member
from enclip.pipeline.names import encode_names
from enclip.pipeline.open_release import OpenRelease, open_release
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.promote import promote_by_hand
from enclip.pipeline.refresh import prepare
from enclip.pipeline.report import write_report
from enclip.pipeline.runs import ChoiceStep, EmbedStep, EvaluationStep, GateStep, RunFolder
from enclip.pipeline.snapshot import take
from enclip.pipeline.train import train
from enclip.recipes import Gallery, GatePolicy, ReleaseRecipe, RetrainRecipe, TrainRecipe
from enclip.records import Split
from enclip.release import MANIFEST, read_manifest
from enclip.retrieval.name_heads import SaidByNames
from enclip.retrieval.text import NameIndex
from tests.integration.faults.world import root_of, small_base

pytestmark = pytest.mark.slow

OPEN = GatePolicy(
    margin=2, category_margin=2, tolerance=2, floor=0, max_overfit=2, max_search_ratio=100, max_memory_ratio=100
)
IMAGE, HYBRID = 1, 2


def recipe(platform: Platform, gallery: Gallery) -> RetrainRecipe:
    return RetrainRecipe(
        train=TrainRecipe(base=small_base(root_of(platform)), epochs=3),
        release=ReleaseRecipe(
            min_members=2,
            max_members=2,
            soup_epochs=2,
            cluster_counts=(8,),
            pulls=(0.0, 0.2),
            gallery=gallery,
            name_shares=(0.3, 0.6),
            bm25_weights=(0.0, 0.4),
            name_attribute_weights=(0.5,),
            shards=2,
        ),
        gate=OPEN,
    )


def finish(platform: Platform, run_id: str) -> tuple[list[EmbedStep], GateStep]:
    steps = embed_all(platform, run_id)
    build(platform, run_id)
    evaluate_run(platform, run_id)
    return steps, decide(platform, run_id)


def retrained(platform: Platform, run_id: str, gallery: Gallery) -> GateStep:
    take(platform, run_id, recipe(platform, gallery))
    train(platform, run_id, environment={})
    choose(platform, run_id)
    return finish(platform, run_id)[1]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """240 products, a champion that searches pictures, and a hybrid challenger."""
    home = tmp_path_factory.mktemp("names")
    opened = open_platform(Settings(ENCLIP_HOME=home / "enclip", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    ingest_source(opened, str(draw_catalog(home / "first", num_products=240, seed=1)))
    retrained(opened, "pictures", "image")
    promote_by_hand(opened, IMAGE)
    retrained(opened, "hybrid", "hybrid")
    return opened


@pytest.fixture(scope="module")
def hybrid(platform: Platform) -> OpenRelease:
    return open_release(platform, HYBRID)


def evaluation_of(platform: Platform, run_id: str) -> EvaluationStep:
    return RunFolder(platform.blobs, run_id).read("evaluation", EvaluationStep)


def test_the_manifest_says_what_was_chosen_and_why(platform: Platform, hybrid: OpenRelease) -> None:
    gallery = hybrid.manifest.gallery
    assert (gallery.protocol, gallery.name_share) == ("hybrid", hybrid.searcher.mix.name_share)
    assert gallery.name_share in (0.3, 0.6)
    assert gallery.bm25_weight == hybrid.searcher.mix.bm25_weight
    assert "on select (0.3: " in gallery.chosen_because
    assert f"weight {gallery.bm25_weight:g}: " in gallery.chosen_because
    assert RunFolder(platform.blobs, "hybrid").read("choose", ChoiceStep).gallery.name_share == gallery.name_share
    attributes = hybrid.manifest.attributes
    assert attributes.name_weight == hybrid.searcher.mix.name_attribute_weight == 0.5
    assert attributes.name_chosen_because.startswith("weight 0.5: ")
    pictures = platform.registry.release_manifest(IMAGE).attributes
    assert (pictures.name_weight, pictures.name_chosen_because) == (0, "")


def test_names_say_of_attributes_what_their_words_meant_in_training(hybrid: OpenRelease) -> None:
    """Of names alone: what the gallery's own rows say has no part in it."""
    products, said = hybrid.products, hybrid.searcher.wording.said
    assert said is not None and hybrid.searcher.heads is not None
    is_gate = products.split == Split.GATE
    for kind in set(products.article_type[is_gate]):
        said_N = said.log_probability(hybrid.searcher.heads.scored(str(kind)))
        assert said_N is not None
        is_kind = products.article_type == kind
        assert said_N[is_gate & is_kind].mean() > said_N[is_gate & ~is_kind].mean() + 1, kind


def test_a_manifest_from_before_names_means_image(platform: Platform, tmp_path: Path) -> None:
    manifest = platform.registry.release_manifest(IMAGE)
    write_whole(tmp_path / MANIFEST, manifest.model_dump_json(exclude={"gallery"}).encode())
    old = read_manifest(tmp_path, verify=False)
    assert old.gallery.protocol == "image"
    assert old.ensemble_key == manifest.ensemble_key


def test_the_same_members_with_another_gallery_are_another_release_to_go_back_to(platform: Platform) -> None:
    manifest = platform.registry.release_manifest(IMAGE)
    with_names = manifest.model_copy(update={"gallery": platform.registry.release_manifest(HYBRID).gallery})
    assert with_names.ensemble_key != manifest.ensemble_key
    weighed = {"attributes": manifest.attributes.model_copy(update={"name_weight": 0.25})}
    assert with_names.model_copy(update=weighed).ensemble_key != with_names.ensemble_key


def test_the_index_holds_the_text_tower_s_embedding_of_each_name(platform: Platform, hybrid: OpenRelease) -> None:
    member = hybrid.manifest.members[0]
    encoder = ClipEncoder(load_member(platform.registry, member.source, device="cpu"))
    expected = encoder.encode_texts([str(name) for name in hybrid.products.name])
    np.testing.assert_allclose(hybrid.searcher.name_block(0), expected, atol=2e-3)


def test_of_a_product_s_text_the_name_alone_is_embedded(hybrid: OpenRelease) -> None:
    products = hybrid.products
    fields = ("gender", "master_category", "sub_category", "article_type", "base_colour", "season", "year", "usage")
    other = replace(products, **{field: np.array(["x"] * len(products), dtype=object) for field in fields})
    encoder = hybrid.encoders[0]
    np.testing.assert_array_equal(encode_names(encoder, other)[0], encode_names(encoder, products)[0])


def test_bm25_is_under_the_manifest_s_checksums(platform: Platform) -> None:
    folder = platform.registry.fetch_release(HYBRID)
    entries = [name for name in platform.registry.release_manifest(HYBRID).files if name.startswith("names/")]
    assert {Path(name).suffix for name in entries} == {".npy", ".json"}
    path = folder / "names" / "data.csc.index.npy"
    good = path.read_bytes()
    try:
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(ReleaseError, match="not what the manifest says"):
            read_manifest(folder)
    finally:
        path.write_bytes(good)


def test_it_is_measured_as_it_serves(platform: Platform, hybrid: OpenRelease) -> None:
    evaluation = evaluation_of(platform, "hybrid")
    texts = [query.text for query in evaluation.queries]
    is_gate = hybrid.products.split == Split.GATE
    withdrawn = frozenset(hybrid.products.product_id[~is_gate])
    for text, ranking in zip(
        texts, hybrid.searcher.search(hybrid.encode_texts(texts), k=10, texts=texts, allowed=is_gate), strict=True
    ):
        served = hybrid.search(text=text, k=10, withdrawn=withdrawn)
        assert served.product_ids == ranking.product_ids
    figures = measure_release(platform, HYBRID)
    assert figures["gallery_protocol"] == "hybrid"
    assert figures["map_at_10"] == pytest.approx(evaluation.mean("challenger"), abs=1e-6)


def test_its_parts_stand_beside_it_and_every_figure_names_its_gallery(platform: Platform) -> None:
    evaluation = evaluation_of(platform, "hybrid")
    assert {system: evaluation.protocol(system) for system in evaluation.systems} == {
        "challenger": "hybrid",
        "without clusters": "hybrid",
        "without bank": "hybrid",
        "without attributes": "hybrid",
        "best member": "hybrid",
        "base": "hybrid",
        "pictures alone": "image",
        "vectors alone": "name",
        "words of names alone": "words",
        "BM25 over names alone": "BM25",
        "champion": "image",
    }
    for title, systems in evaluation.by_gallery().items():
        assert {evaluation.protocol(system) == "image" for system in systems.values()} == {title == "image-only"}
    alone = measure_release(platform, HYBRID)["alone"]
    assert set(alone) == {"pictures alone", "vectors alone", "words of names alone", "BM25 over names alone"}
    for system, part in alone.items():
        assert part["map_at_10"][evaluation.headline.value] == pytest.approx(evaluation.mean(system), abs=1e-6)
    assert measure_release(platform, IMAGE)["alone"] == {}
    assert measure_release(platform, IMAGE)["gallery_protocol"] == "image"


def test_a_terminal_shows_the_parts_and_two_tables(platform: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(figures: dict[str, Any]) -> str:
        show_figures(figures)
        return " ".join(capsys.readouterr().out.split())

    own = shown(measure_release(platform, HYBRID))
    assert "products), hybrid" in own
    assert "BM25 over names alone" in own
    assert "BM25" not in shown(measure_release(platform, IMAGE))
    with_names, image_only = shown(evaluation_of(platform, "hybrid").summary()).split("gate split, image-only")
    assert "vectors alone (name)" in with_names
    assert "champion" not in with_names
    assert "champion" in image_only


def test_the_gate_report_says_that_galleries_differ(platform: Platform) -> None:
    gate = RunFolder(platform.blobs, "hybrid").read("gate", GateStep)
    assert "The galleries differ (hybrid; champion: image); each was measured as it serves." in gate.summary
    assert "galleries" not in RunFolder(platform.blobs, "pictures").read("gate", GateStep).summary


def test_a_report_keeps_pictures_and_names_in_two_tables(platform: Platform, tmp_path: Path) -> None:
    text = next(
        path for path in write_report(platform, "hybrid", folder=tmp_path, name="r") if path.suffix == ".md"
    ).read_text()
    with_names, image_only = text.split("## Systems, mAP@10, names in the gallery")[1].split(
        "## Systems, mAP@10, image"
    )
    assert "chosen release (hybrid)" in with_names
    assert "BM25 over names alone (BM25)" in with_names
    assert "pictures alone" not in with_names
    assert "pictures alone" in image_only.split("\n## ")[0]


def test_a_picture_and_what_is_similar_are_looked_for_among_pictures(platform: Platform, hybrid: OpenRelease) -> None:
    product = hybrid.products.row(11)
    own = [hybrid.searcher.block(member)[11:12].astype(np.float32) for member in range(len(hybrid.encoders))]
    found = hybrid.searcher.search(own, k=5)[0]
    assert found.product_ids[0] == product.product_id
    picture = platform.blobs.get(image_key(product.image_sha256))
    assert hybrid.search(image=picture, k=5) == hybrid.search(image=picture, text="shoe", weights={"text": 0}, k=5)
    assert hybrid.search(image=picture, k=1).product_ids == (product.product_id,)
    assert hybrid.similar(product.product_id, k=4).product_ids == tuple(
        found_id for found_id in found.product_ids if found_id != product.product_id
    )


def test_a_refresh_embeds_only_new_names_and_keeps_the_weights(
    platform: Platform, hybrid: OpenRelease, tmp_path: Path
) -> None:
    promote_by_hand(platform, HYBRID)
    ingest_source(platform, str(draw_catalog(tmp_path / "second", num_products=20, seed=1, start=240)))
    plan = prepare(platform, "refresh", shards=2)
    assert plan.recipe.release.gallery == "hybrid"
    steps, gate = finish(platform, "refresh")
    before = set(hybrid.products.name)
    refreshed = open_release(platform, gate.release)
    new = [name for name in refreshed.products.name if name not in before]
    assert sum(step.num_images - step.num_reused for step in steps) == 20 * len(hybrid.manifest.members)
    assert 0 < sum(step.num_names for step in steps) <= len(new) * len(hybrid.manifest.members)
    assert refreshed.manifest.gallery == hybrid.manifest.gallery
    assert refreshed.manifest.attributes == hybrid.manifest.attributes
    ours, theirs = refreshed.searcher.wording.said, hybrid.searcher.wording.said
    assert ours is not None and theirs is not None and ours.heads.vocabulary == theirs.heads.vocabulary
    np.testing.assert_array_equal(ours.heads.linear.weight_DV, theirs.heads.linear.weight_DV)
    assert ours.word_NW.shape[0] == len(refreshed.products)
    assert (
        refreshed.searcher.with_mix(bm25_weight=0.9)
        .search(refreshed.encode_texts([new[0]]), k=1, texts=[new[0]])[0]
        .hits
    )
    assert "galleries differ" not in gate.summary


def test_parts_alone_are_the_release_with_weights_of_zero(hybrid: OpenRelease, platform: Platform) -> None:
    allowed = hybrid.products.split == Split.GATE
    queries = build_queries(hybrid.products.take(allowed))
    blocks = hybrid.encode_texts([query.text for query in queries])
    found = parts_alone(hybrid.searcher, blocks, queries, allowed=allowed)
    plain = hybrid.searcher.with_mix(name_share=0, bm25_weight=0, name_attribute_weight=0)
    assert found["pictures alone"][1].map_at_10 == measure(plain, blocks, queries, allowed=allowed).evaluation.map_at_10


def test_by_pictures_alone_kagl_reads_no_word_of_names(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("names were read")

    monkeypatch.setattr(SaidByNames, "log_probability", read)
    monkeypatch.setattr(NameIndex, "coverage", read)
    assert "article_type_to_product" in measure_kagl(platform, HYBRID)["tasks"]


def test_what_searches_names_stands_over_products_that_have_lost_them(hybrid: OpenRelease) -> None:
    """A champion must not stop the retraining that comes after an ingest without names."""
    nameless = replace(hybrid.products, name=np.full(len(hybrid.products), "", dtype=object))
    searcher = hybrid.searcher
    members = range(len(hybrid.manifest.members))
    blocks = [searcher.block(member) for member in members]
    colours = searcher.wording.colours
    bare = extended(searcher, nameless, blocks, blocks, colours if colours.shape[1] else None)
    texts = ["navy blue shirt"]
    found = bare.search(hybrid.encode_texts(texts), k=10, texts=texts)[0]
    assert len(found.hits) == 10
    assert bare.names is not None and not bare.names.search(texts, k=10)[0].hits
    allowed = np.ones(len(nameless), dtype=bool)
    alone = parts_alone(bare, hybrid.encode_texts(texts), build_queries(nameless)[:1], allowed=allowed)
    assert alone["BM25 over names alone"][1].map_at_10 == 0


def test_a_catalog_without_names_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    opened = open_platform(Settings(ENCLIP_HOME=tmp_path / "home", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    folder = draw_catalog(tmp_path / "shop", num_products=30, seed=1)
    styles = folder / "styles.csv"
    header, *lines = styles.read_text().splitlines()
    column = header.split(",").index("productDisplayName")
    nameless = [",".join("" if i == column else cell for i, cell in enumerate(line.split(","))) for line in lines]
    styles.write_text("\n".join([header, *nameless]) + "\n")
    ingest_source(opened, str(folder))
    with pytest.raises(ConfigError, match="No product has a name"):
        take(opened, "run", recipe(opened, "name"))


def test_another_catalog_is_measured_with_its_own_names(platform: Platform, tmp_path: Path) -> None:
    """Of a shop that training never saw: its names are embedded and indexed, and found."""
    folder = draw_catalog(tmp_path / "other", num_products=60, seed=9)
    figures = measure_release(platform, HYBRID, catalog=str(folder))
    assert (figures["num_products"], figures["gallery_protocol"]) == (60, "hybrid")
    assert figures["alone"]["BM25 over names alone"]["map_at_10"]["name"] > 0.9
