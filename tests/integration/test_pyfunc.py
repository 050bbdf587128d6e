"""`mlflow.pyfunc.load_model` on real versions: an epoch embeds, a release answers a search."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException

from enclip.catalog.drawn import draw_catalog
from enclip.catalog.images import decode, fit_square
from enclip.errors import QueryError
from enclip.models.bases import load_base
from enclip.models.checkpoint import save_checkpoint
from enclip.models.clip import ClipEncoder, ClipModel
from enclip.models.lora import attach
from enclip.pipeline.members import member_of
from enclip.records import EpochVersion, Product, Products
from enclip.registry import CHAMPION, Registry
from enclip.release import ClusterSettings, Manifest, write_manifest
from enclip.retrieval.searcher import Searcher

NUM_PRODUCTS = 12


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    home = tmp_path_factory.mktemp("pyfunc")
    registry = Registry(f"sqlite:///{home}/mlflow.db", home / "art", home / "cache")
    registry.aliases()
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(registry.tracking_uri)  # as a user of `load_model` does
    yield registry
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_catalog(tmp_path_factory.mktemp("drawn"), num_products=NUM_PRODUCTS, seed=3)


@pytest.fixture(scope="module")
def clip() -> ClipModel:
    return load_base("tiny", seed=0, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def encoder(clip: ClipModel) -> ClipEncoder:
    return ClipEncoder(clip)


@pytest.fixture(scope="module")
def epoch(registry: Registry, clip: ClipModel, tmp_path_factory: pytest.TempPathFactory) -> EpochVersion:
    folder = tmp_path_factory.mktemp("checkpoint") / "epoch"
    save_checkpoint(folder, clip, pixel_side=clip.side)
    return registry.log_epoch(
        registry.open_run("run", kind="retrain", params={}),
        folder,
        instance=0,
        epoch=0,
        metrics={"val_map_at_10": 0.1},
        snapshot="5" * 64,
        num_products=NUM_PRODUCTS,
    )


def picture(catalog: Path, product_id: str) -> bytes:
    return (catalog / "images" / f"{product_id}.jpg").read_bytes()


@pytest.fixture(scope="module")
def products(catalog: Path) -> Products:
    rows = pd.read_csv(catalog / "styles.csv", dtype=str).fillna("").to_dict("records")
    return Products.from_rows(
        [
            Product(
                product_id=row["id"],
                name=row["productDisplayName"],
                image_sha256="",
                gender=row["gender"],
                sub_category=row["subCategory"],
                article_type=row["articleType"],
                price=float(row["price"]),
            )
            for row in rows
        ]
    )


def test_an_epoch_embeds_words_and_pictures(
    epoch: EpochVersion, clip: ClipModel, encoder: ClipEncoder, catalog: Path, products: Products
) -> None:
    model = mlflow.pyfunc.load_model(f"models:/enclip-epoch/{epoch.version}")
    image = picture(catalog, products.product_id[0])
    asked = pd.DataFrame({"text": ["navy shirt", None], "image": [None, base64.b64encode(image).decode()]})
    embedding_ND = model.predict(asked)
    assert embedding_ND.dtype == np.float32
    pixels = fit_square(decode(image), clip.side)
    expected = np.concatenate([encoder.encode_texts(["navy shirt"]), encoder.encode_images(pixels[None])])
    np.testing.assert_allclose(embedding_ND, expected, atol=1e-5)
    with pytest.raises(QueryError, match="Row 0"):
        model.predict(pd.DataFrame({"text": [""]}))
    with pytest.raises(QueryError, match="base64"):
        model.predict(pd.DataFrame({"image": ["not base64!"]}))


def test_a_delta_embeds_with_its_base(registry: Registry, clip: ClipModel, tmp_path: Path) -> None:
    model = replace(load_base("tiny", seed=0, device=clip.device), epochs_trained=1)
    save_checkpoint(tmp_path / "epoch-00", model, pixel_side=model.side)
    attach(model.module, 2, seed=0)
    with torch.no_grad():
        for value in model.module.parameters():
            if value.requires_grad:
                value.add_(0.01)
    save_checkpoint(tmp_path / "epoch-01", model, pixel_side=model.side, base=tmp_path / "epoch-00")
    run = registry.open_run("deltas", kind="retrain", params={})
    _, delta = (
        registry.log_epoch(
            run,
            tmp_path / f"epoch-0{epoch}",
            instance=0,
            epoch=epoch,
            metrics={},
            snapshot="5" * 64,
            num_products=NUM_PRODUCTS,
        )
        for epoch in (0, 1)
    )
    found = mlflow.pyfunc.load_model(f"models:/enclip-epoch/{delta.version}").predict(
        pd.DataFrame({"text": ["navy shirt"]})
    )
    np.testing.assert_allclose(found, ClipEncoder(model).encode_texts(["navy shirt"]), atol=1e-5)
    assert not np.allclose(found, ClipEncoder(clip).encode_texts(["navy shirt"]), atol=1e-2)


def test_a_release_answers_a_search_as_the_service_does(
    registry: Registry,
    epoch: EpochVersion,
    clip: ClipModel,
    encoder: ClipEncoder,
    catalog: Path,
    products: Products,
    tmp_path: Path,
) -> None:
    side = clip.side
    pixels = np.stack([fit_square(decode(picture(catalog, key)), side) for key in products.product_id])
    searcher = Searcher.build(products, [encoder.encode_images(pixels)], [1.0], cluster_count=2, rescored=50)
    folder = tmp_path / "release"
    folder.mkdir()
    searcher.save(folder)
    member = member_of(epoch, side)
    manifest = write_manifest(
        folder,
        Manifest(
            kind="retrain",
            run_id="run",
            base="tiny",
            snapshot="5" * 64,
            trained_on="5" * 64,
            num_products=len(products),
            members=(member,),
            clusters=ClusterSettings(count=2, pull=0.0),
            rescored=50,
            chosen_because="it is the only one",
            created_at="2026-01-01T00:00:00Z",
        ),
    )
    run = registry.open_run("run", kind="retrain", params={})
    registry.set_alias(CHAMPION, registry.log_release(run, folder, manifest))

    model = mlflow.pyfunc.load_model("models:/enclip@champion")
    first = products.product_id[0]
    price_of = dict(zip(products.product_id, products.price.tolist(), strict=True))
    low, high = np.quantile(list(price_of.values()), (0.25, 0.75))
    found = model.predict(
        pd.DataFrame(
            {
                "text": ["navy shirt", None, "navy shirt", "navy shirt", "navy shirt"],
                "image": [None, base64.b64encode(picture(catalog, first)).decode(), None, None, None],
                "k": [3, 3, 3, NUM_PRODUCTS, NUM_PRODUCTS],
                "category": [None, None, products.sub_category[0], None, None],
                "price_min": [None, None, None, low, None],
                "price_max": [None, None, None, high, low],
            }
        )
    )
    assert list(found.columns) == ["query", "rank", "product_id", "score", "name"]
    expected = searcher.search([encoder.encode_texts(["navy shirt"])], k=3)[0]
    assert tuple(found[found["query"] == 0]["product_id"]) == expected.product_ids
    assert list(found[found["query"] == 0]["rank"]) == [1, 2, 3]
    assert found[found["query"] == 1].iloc[0]["product_id"] == first
    category_of = dict(zip(products.product_id, products.sub_category, strict=True))
    filtered = found[found["query"] == 2]["product_id"]
    assert {category_of[product_id] for product_id in filtered} == {products.sub_category[0]}
    for query, passes in ((3, lambda price: low <= price <= high), (4, lambda price: price <= low)):
        within = {product_id for product_id, price in price_of.items() if passes(price)}
        assert set(found[found["query"] == query]["product_id"]) == within
        assert 0 < len(within) < NUM_PRODUCTS
    assert len(model.predict(pd.DataFrame({"text": ["shirt"]}))) == 10

    with pytest.raises(QueryError, match="needs words, a picture or a product"):
        model.predict(pd.DataFrame({"text": [""]}))
    with pytest.raises(MlflowException, match="schema"):
        model.predict(pd.DataFrame({"text": [1.5]}))
