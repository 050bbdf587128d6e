"""Labels that the pictures contradict: planted errors found, confusable and rare labels left alone."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from enclip.catalog.drawn import draw_catalog
from enclip.retrieval.audit import audit, find_suspects, neighbours_for
from enclip.retrieval.clusters import Clusters
from enclip.retrieval.neighbours import Looks, Neighbours


def judge(products, vector_ND, *, attribute="article_type", count=12, **options):
    looks = Looks.of(vector_ND, [vector_ND.shape[1]], [1.0])
    clusters = Clusters.fit(looks.vector_NP, count=count)
    neighbours = Neighbours.find(products, looks.vector_NP, clusters, k=neighbours_for(len(products)))
    return find_suspects(products, neighbours, clusters, attribute=attribute, **options)


def planted(products, *, share, seed=0, attribute="article_type"):
    """The products with some labels swapped for others, and the ids of those."""
    chance = np.random.default_rng(seed)
    labels = getattr(products, attribute).copy()
    names = sorted(set(labels))
    rows = chance.choice(len(labels), round(share * len(labels)), replace=False)
    for row in rows:
        labels[row] = chance.choice([name for name in names if name != labels[row]])
    return replace(products, **{attribute: labels}), {str(products.product_id[row]) for row in rows}


@pytest.mark.parametrize("attribute", ["article_type", "gender", "base_colour"])
def test_planted_errors_come_first_with_their_true_label(shop, attribute):
    wrong, ids = planted(shop.products, share=0.03, attribute=attribute)
    suspects = judge(wrong, shop.blocks[0], attribute=attribute)
    first = suspects[: len(ids)]
    truth = dict(zip(shop.products.product_id, getattr(shop.products, attribute), strict=True))
    assert np.mean([one.product_id in ids for one in first]) >= 0.9
    assert all(one.proposed == truth[one.product_id] for one in first if one.product_id in ids)
    assert {one.attribute for one in suspects} == {attribute}
    assert [one.confidence for one in suspects] == sorted((one.confidence for one in suspects), reverse=True)


def test_a_clean_shop_has_hardly_a_suspect(shop):
    assert len(judge(shop.products, shop.blocks[0])) <= 2


def test_a_suspect_says_what_it_rests_on(shop):
    wrong, ids = planted(shop.products, share=0.01)
    one = next(one for one in judge(wrong, shop.blocks[0]) if one.product_id in ids)
    row = list(shop.products.product_id).index(one.product_id)
    labels = dict(zip(wrong.product_id, wrong.article_type, strict=True))
    assert (one.given, one.proposed) == (wrong.article_type[row], shop.products.article_type[row])
    assert one.name == shop.products.name[row]
    assert 0.9 <= one.confidence < 1 and one.given_support < one.support <= 1
    assert 1 <= len(one.evidence) <= 3 and one.product_id not in one.evidence
    assert {labels[other] for other in one.evidence} == {one.proposed}
    assert one.cluster_size > 1 and 0.5 < one.purity <= 1


def test_a_label_that_is_usual_among_others_is_no_mistake(shop):
    """Where every other product of a look is called one or the other, neither is accused."""
    labels = shop.products.article_type.copy()
    shirts = np.flatnonzero(labels == "Shirts")
    labels[shirts[::2]] = "Casual Shirts"
    assert [
        one for one in judge(replace(shop.products, article_type=labels), shop.blocks[0]) if "Shirts" in one.given
    ] == []


def test_other_products_with_the_same_picture_are_heard(shop):
    sha = shop.products.image_sha256.copy()
    same = np.flatnonzero(shop.products.article_type == "Shirts")[:4]
    sha[same] = "f" * 64
    vector_ND = shop.blocks[0].copy()
    vector_ND[same] = vector_ND[same[0]]
    labels = shop.products.article_type.copy()
    labels[same[2]] = "Watches"
    suspects = judge(replace(shop.products, image_sha256=sha, article_type=labels), vector_ND)
    assert suspects[0].product_id == shop.products.product_id[same[2]]
    assert not {shop.products.product_id[row] for row in same[[0, 1, 3]]} & {one.product_id for one in suspects}


def test_products_without_a_label_are_neither_judged_nor_heard(shop):
    labels = shop.products.article_type.copy()
    labels[::3] = ""
    wrong, _ = planted(replace(shop.products, article_type=labels), share=0.0)
    suspects = judge(wrong, shop.blocks[0])
    assert all(one.given and one.proposed for one in suspects)
    blank = np.full(len(labels), "", dtype=object)
    assert judge(replace(shop.products, article_type=blank), shop.blocks[0]) == []


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_shop_of_few_products_is_audited_without_a_word(shop, size):
    rows = np.arange(size)
    half = shop.blocks[0][:size].astype(np.float16)
    found = audit(
        shop.products.take(rows), Looks.of(half, [half.shape[1]], [1.0]), Clusters.fit(shop.blocks[0][:size], count=1)
    )
    assert found.duplicates == ()


def test_the_audit_ranks_all_attributes_together(shop):
    wrong, by_type = planted(shop.products, share=0.02)
    wrong, by_gender = planted(wrong, share=0.02, seed=1, attribute="gender")
    half = np.concatenate([block.astype(np.float16) for block in shop.blocks], axis=1)
    looks = Looks.of(half, shop.dims, shop.weights)
    found = audit(wrong, looks, Clusters.fit(looks.vector_NP, count=12))
    assert {one.product_id for one in found.suspects if one.attribute == "article_type"} >= by_type
    assert {one.product_id for one in found.suspects if one.attribute == "gender"} >= by_gender
    assert found == audit(wrong, looks, Clusters.fit(looks.vector_NP, count=12)), "equal input, equal audit"


@pytest.mark.slow
def test_errors_in_a_drawn_catalog_are_found_by_a_model_that_learnt_from_them(tmp_path):
    """3% of the articleTypes are wrong before training, so the embeddings come from the wrong captions too."""
    import csv

    import torch

    from enclip.catalog.images import decode, fit_square
    from enclip.models.bases import load_base
    from enclip.models.checkpoint import load_checkpoint
    from enclip.models.clip import embed_pixels
    from enclip.models.training import TrainingData, fit
    from enclip.recipes import TrainRecipe
    from enclip.records import Product, Products, Split

    folder = draw_catalog(tmp_path / "shop", num_products=240, seed=5)
    with open(folder / "styles.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = {row["id"]: (folder / "images" / f"{row['id']}.jpg").read_bytes() for row in rows}
    right = Products.from_rows(
        [
            Product(
                row["id"],
                row["productDisplayName"],
                hashlib.sha256(pictures[row["id"]]).hexdigest(),
                gender=row["gender"],
                master_category=row["masterCategory"],
                sub_category=row["subCategory"],
                article_type=row["articleType"],
                base_colour=row["baseColour"],
                split=Split.TRAIN,
            )
            for row in rows
        ]
    )
    wrong, ids = planted(right, share=0.03)
    cpu = torch.device("cpu")
    model = load_base("tiny", seed=0, device=cpu)
    pixels = np.stack([fit_square(decode(pictures[product_id]), model.side) for product_id in wrong.product_id])
    data = TrainingData(products=wrong, pixels=pixels, rows=np.arange(len(wrong)))
    recipe = TrainRecipe(epochs=4, instances=1, batch_size=16)
    epochs = list(fit(model, data, recipe, instance=0, device=cpu, state_dir=tmp_path / "state", validate=lambda _: {}))
    embedding_ND = embed_pixels(load_checkpoint(epochs[-1].folder, device=cpu), pixels, cpu)

    suspects = judge(wrong, embedding_ND.astype(np.float16), count=16)

    hits = [one.product_id in ids for one in suspects]
    told = (
        f"{sum(hits)} of {len(ids)} in a list of {len(hits)}, {sum(hits[: 3 * len(ids)])} in its first {3 * len(ids)}"
    )
    assert sum(hits) >= 0.5 * len(ids), told
    assert np.mean(hits[: 3 * len(ids)]) >= 0.15, f"{told}; by chance 0.03 are"
