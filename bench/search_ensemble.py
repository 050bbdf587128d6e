"""One search over a 5-member ensemble against one over a single member, at 50,000 products (D3).

Unit: ms a query, queries one at a time, one thread. Embeddings are random but correlated between members
and with low rank, as those of real members are; a search's time does not depend on their content. Beside
it: how many of the exact first ten are found, and what encoding a query costs with five `tiny` members.
"""

import sys
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch
from report import print_result

from enclip.models.bases import load_base
from enclip.models.clip import ClipEncoder
from enclip.records import Product, Products
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import Searcher

PRODUCTS, MEMBERS, DIM, RANK, QUERIES, ROUNDS = 50_000, 5, 128, 48, 40, 7


def main() -> None:
    """Print the median ratio over alternating rounds."""
    faiss.omp_set_num_threads(1)
    chance = np.random.default_rng(0)
    shared = chance.standard_normal((PRODUCTS, RANK), dtype=np.float32)
    blocks = [_member(shared, chance) for _ in range(MEMBERS)]
    products = Products.from_rows(
        [Product(product_id=f"{row:06d}", name="", image_sha256="") for row in range(PRODUCTS)]
    )
    ensemble = Searcher.build(products, blocks, [1 / MEMBERS] * MEMBERS, cluster_count=64, mix=Mix(pull=0.3))
    single = ensemble.member(0)
    queries = [block[chance.choice(PRODUCTS, QUERIES)].astype(np.float32) for block in blocks]
    ours, peer = [], []
    for _ in range(ROUNDS):
        ours.append(_ms_a_query(ensemble, queries))
        peer.append(_ms_a_query(single, queries[:1]))
    ratio = float(np.median(np.array(ours) / np.array(peer)))
    _print_beside(ensemble, queries)
    print_result(
        "search_ensemble",
        ours=float(np.median(ours)),
        peer=float(np.median(peer)),
        peer_name="one member, FAISS flat",
        ratio=ratio,
        better="lower",
        goal=1.3,
    )


def _member(shared: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    mixed = shared @ chance.standard_normal((RANK, DIM), dtype=np.float32)
    mixed += 0.3 * np.sqrt(RANK) * chance.standard_normal(mixed.shape, dtype=np.float32)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def _ms_a_query(searcher: Searcher, queries: list[np.ndarray]) -> float:
    start = time.perf_counter()
    for row in range(QUERIES):
        searcher.search([block[row : row + 1] for block in queries], k=10)
    return 1000 * (time.perf_counter() - start) / QUERIES


def _print_beside(ensemble: Searcher, queries: list[np.ndarray]) -> None:
    exact = np.argsort(-ensemble.exact_scores(queries), axis=1)[:, :10]
    plain = ensemble.with_mix(pull=0).search(queries, k=10)
    found = [
        np.isin([int(product_id) for product_id in ranking.product_ids], rows).mean()
        for ranking, rows in zip(plain, exact, strict=True)
    ]
    cpu = torch.device("cpu")
    encoders = [ClipEncoder(load_base("tiny", seed=seed, device=cpu)) for seed in range(MEMBERS)]
    picture = np.random.default_rng(0).integers(0, 255, (1, 80, 80, 3), dtype=np.uint8)
    text_ms = _median_ms(lambda: [encoder.encode_texts(["navy blue shirt"]) for encoder in encoders])
    image_ms = _median_ms(lambda: [encoder.encode_images(picture) for encoder in encoders])
    print(
        f"of the exact first ten {np.mean(found):.1%} found; encoding for {MEMBERS} members: "
        f"a text {text_ms:.1f} ms, a picture {image_ms:.1f} ms",
        file=sys.stderr,
    )


def _median_ms(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))


if __name__ == "__main__":
    main()
