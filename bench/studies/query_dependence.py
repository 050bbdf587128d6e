"""Do gate queries over one gallery depend on each other, so that the bootstrap believes too much?

The bootstrap resamples queries as if they were independent, though they are ranked over the same products and
"Casual Shoes" shares relevant products with "Men Black Casual Shoes". The direct answer: two fixed systems
are compared over many *disjoint* galleries of a real catalog, and the spread of their difference in mAP@10
over the galleries is held against the spread that each gallery's queries alone predict. A ratio above 1 would
mean that intervals are too narrow.

The systems are cheap stand-ins (least squares from attribute words to random projections of thumbnails, each
from its own 70% of the training products): what is asked is about queries and galleries, not about models.
`enclip` makes the queries and the values. Called by gate_errors.py.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from enclip.evaluation.metrics import ap_at_10_of_scores, relevance
from enclip.evaluation.queries import build_queries
from enclip.records import Product, Products, QueryKind

Floats = NDArray[np.float32]
PAIRS, GALLERIES = 12, 5
WIDTH, DIM = 128, 96  # principal components of a picture; dimensions of a system
COLUMNS = {
    "gender": "gender",
    "master_category": "masterCategory",
    "sub_category": "subCategory",
    "article_type": "articleType",
    "base_colour": "baseColour",
}


def dependence(catalog: Path, *, seed: int) -> dict[str, float]:
    """Ratio of observed to predicted spread, for specific queries and with type queries, and what else was seen.

    Args:
        catalog: a folder with `styles.csv` and `images/<id>.jpg`.
    """
    chance = np.random.default_rng(seed)
    products, picture_NF = _read(catalog)
    picture_NF = _components(picture_NF, chance)
    word_NV = _words(products.gender, products.base_colour, products.article_type, _vocabulary(products))
    observed, predicted, spreads, together, means, num_queries = [], [], [], [], [], []
    for _ in range(PAIRS):
        order = chance.permutation(len(products))
        train, rest = np.split(order, [len(order) // 4])
        systems = [_system(picture_NF, word_NV, train, chance) for _ in range(2)]
        found = [_differences(products, np.sort(rows), systems) for rows in np.array_split(rest, GALLERIES)]
        for kinds in ({QueryKind.SPECIFIC}, {QueryKind.SPECIFIC, QueryKind.TYPE}):
            chosen = [values[[kind in kinds for kind in kind_Q]] for values, kind_Q, _, _ in found]
            observed.append(np.var([values.mean() for values in chosen], ddof=1))
            predicted.append(np.mean([values.var(ddof=1) / len(values) for values in chosen]))
        for values, kind_Q, category_Q, level in found:
            specific = np.array([kind is QueryKind.SPECIFIC for kind in kind_Q])
            spreads.append(values[specific].std(ddof=1))
            together.append(_correlation(values[specific], np.array(category_Q)[specific]))
            num_queries.append(int(specific.sum()))
            means.append(level)
    return {
        "num_galleries": PAIRS * GALLERIES,
        "mean_num_queries": round(float(np.mean(num_queries)), 1),
        "map_at_10": round(float(np.mean(means)), 4),
        "paired_sd": round(float(np.mean(spreads)), 4),
        "spread_ratio_specific": round(float(np.sqrt(np.mean(observed[::2]) / np.mean(predicted[::2]))), 3),
        "spread_ratio_with_type": round(float(np.sqrt(np.mean(observed[1::2]) / np.mean(predicted[1::2]))), 3),
        "correlation_within_category": round(float(np.mean(together)), 4),
    }


def _read(catalog: Path) -> tuple[Products, Floats]:
    pictures, rows = {}, []
    with open(catalog / "styles.csv", newline="") as file:
        for row in csv.DictReader(file):
            try:
                with Image.open(catalog / "images" / f"{row['id']}.jpg") as picture:
                    pictures[row["id"]] = _look(picture.convert("RGB"))
            except OSError:
                continue
            attributes = {field: row[column] for field, column in COLUMNS.items()}
            rows.append(
                Product(product_id=row["id"], name=row["productDisplayName"], image_sha256=row["id"], **attributes)
            )
    products = Products.from_rows(rows)
    return products, np.stack([pictures[product_id] for product_id in products.product_id])


def _look(picture: Image.Image) -> Floats:
    """Colours and edges of a thumbnail."""
    colour = np.asarray(picture.resize((12, 16)), np.float32) / 255
    grey = np.asarray(picture.convert("L").resize((24, 32)), np.float32) / 255
    edges = [1.5 * np.abs(np.diff(grey, axis=axis)).ravel() for axis in (0, 1)]
    return np.concatenate([colour.ravel(), *edges])


def _components(picture_NF: Floats, chance: np.random.Generator) -> Floats:
    centred_NF = picture_NF - picture_NF.mean(axis=0)
    some = chance.permutation(len(centred_NF))[:3000]
    _, size_F, axis_FF = np.linalg.svd(centred_NF[some], full_matrices=False)
    whitened: Floats = centred_NF @ axis_FF[:WIDTH].T / np.sqrt(size_F[:WIDTH])
    return whitened


def _vocabulary(products: Products) -> dict[str, int]:
    words = {
        word for row in zip(products.gender, products.base_colour, products.article_type, strict=True) for word in row
    }
    return {word: number for number, word in enumerate(sorted(words))}


def _words(
    gender: Sequence[str], colour: Sequence[str], kind: Sequence[str], vocabulary: dict[str, int]
) -> NDArray[np.float64]:
    """`[Q, V]`: 1 where a text has the word; "" is a word of no text."""
    found = np.zeros((len(kind), len(vocabulary)))
    for row, words in enumerate(zip(gender, colour, kind, strict=True)):
        found[row, [vocabulary[word] for word in words if word]] = 1
    return found


def _system(
    picture_NF: Floats, word_NV: NDArray[np.float64], train: NDArray[np.int64], chance: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Words → embedding, and the pictures' embeddings."""
    seen = chance.choice(train, int(0.7 * len(train)), replace=False)
    image_ND = np.tanh(3 * picture_NF @ chance.standard_normal((WIDTH, DIM)) / np.sqrt(DIM))
    image_ND -= image_ND[seen].mean(axis=0)
    words = word_NV[seen]
    text_VD = np.linalg.solve(words.T @ words + 5 * np.eye(words.shape[1]), words.T @ image_ND[seen])
    return text_VD, image_ND / np.linalg.norm(image_ND, axis=1, keepdims=True)


def _differences(
    products: Products, rows: NDArray[np.int64], systems: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> tuple[NDArray[np.float64], list[QueryKind], list[str], float]:
    """Per query the difference in AP@10; kinds and categories of the queries; mAP@10 of the first."""
    gallery = products.take(rows)
    queries = [query for query in build_queries(gallery) if query.kind is not QueryKind.NAME]
    relevant_QN = relevance(queries, gallery.product_id)
    one = relevant_QN.argmax(axis=1)  # a relevant product says what the query asks for
    is_type = [query.kind is QueryKind.TYPE for query in queries]
    word_QV = _words(
        ["" if asks else str(value) for asks, value in zip(is_type, gallery.gender[one], strict=True)],
        ["" if asks else str(value) for asks, value in zip(is_type, gallery.base_colour[one], strict=True)],
        [str(value) for value in gallery.article_type[one]],
        _vocabulary(products),
    )
    ours, theirs = (
        ap_at_10_of_scores((word_QV @ text_VD) @ image_ND[rows].T, relevant_QN) for text_VD, image_ND in systems
    )
    categories = [query.category for query in queries]
    return ours - theirs, [query.kind for query in queries], categories, float(ours[np.logical_not(is_type)].mean())


def _correlation(value_Q: NDArray[np.float64], category_Q: NDArray[np.str_]) -> float:
    """Mean correlation of two queries' differences within a category."""
    centred = value_Q - value_Q.mean()
    products, pairs = 0.0, 0
    for category in set(category_Q):
        own = centred[category_Q == category]
        products += own.sum() ** 2 - (own**2).sum()
        pairs += len(own) * (len(own) - 1)
    return float(products / pairs / centred.var()) if pairs else 0.0
