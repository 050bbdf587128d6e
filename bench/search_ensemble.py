"""One search over a 5-member ensemble against one over a single member, at 50,000 products (D3).

Unit: ms a query, queries one at a time, one thread. Embeddings are random but correlated between members
and with low rank, as those of real members are; a search's time does not depend on their content.
"""

import time

import faiss
import numpy as np
from report import print_result

from enclip.records import Product, Products
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
    ensemble = Searcher.build(products, blocks, [1 / MEMBERS] * MEMBERS, cluster_count=64, pull=0.3)
    single = ensemble.member(0)
    queries = [block[chance.choice(PRODUCTS, QUERIES)].astype(np.float32) for block in blocks]
    ours, peer = [], []
    for _ in range(ROUNDS):
        ours.append(_ms_a_query(ensemble, queries))
        peer.append(_ms_a_query(single, queries[:1]))
    ratio = float(np.median(np.array(ours) / np.array(peer)))
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


if __name__ == "__main__":
    main()
