"""One search over a 5-member ensemble against one over a single member, at 50,000 products (D3).

Three questions. A picture: cosines and clusters, against one member's plain cosines. Words, the result of this
program: bank of likely queries, attribute heads and clusters, against the same of one member alone. Words where names
are searched, too: by the members' embeddings of names, BM25 and attributes by name, against that of one member.

Unit: ms a query, queries one at a time, one thread. Embeddings are random but correlated between members
and with low rank, as those of real members are; a search's time does not depend on their content. It does on where
an index lies in memory, by up to a third: each round copies both indexes. Beside it: words against plain cosines,
how many of the exact first ten are found, and what encoding a query costs with five `tiny` members.
"""

import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import faiss
import numpy as np
import torch
from releases import (
    CAPTIONS,
    DIM,
    RANK,
    SHARPNESS,
    drawn_colours,
    drawn_heads,
    drawn_name_heads,
    drawn_names,
)
from report import print_result

from enclip.models.bases import load_base
from enclip.models.clip import ClipEncoder
from enclip.records import Product, Products
from enclip.retrieval.bank import QueryBank
from enclip.retrieval.index import FlatIndex
from enclip.retrieval.mix import WITHOUT_CLUSTERS, Mix
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.text import NameIndex

PRODUCTS, MEMBERS, QUERIES, ROUNDS = 50_000, 5, 40, 15
WEIGHTS = [1 / MEMBERS] * MEMBERS
WORDS = "gender1 base_colour7 article_type30"
NAMED = f"{WORDS} colour7 type30"  # as names have them
BROAD = "article_type30"  # one attribute: it is scored again, turned toward the clusters of its first results


def main() -> None:
    """Print the median ratios over alternating rounds."""
    faiss.omp_set_num_threads(1)
    chance = np.random.default_rng(0)
    shared = chance.standard_normal((PRODUCTS, RANK), dtype=np.float32)
    blocks = [_member(shared, chance) for _ in range(MEMBERS)]
    names = drawn_names(chance, products=PRODUCTS)
    products = Products.from_rows(
        [Product(product_id=f"{row:06d}", name=name, image_sha256="") for row, name in enumerate(names)]
    )
    bank = QueryBank.of(
        [block[:CAPTIONS] for block in blocks],
        [block[CAPTIONS : 2 * CAPTIONS] for block in blocks],
        np.ones(CAPTIONS, np.int64),
        weights=WEIGHTS,
        sharpness=SHARPNESS,
    )
    mix = Mix(feedback=0.25, calibration=1.0, exemplar_share=0.35, attribute_weight=1.0)
    heads = drawn_heads(chance, members=MEMBERS)
    colour_NC = drawn_colours(chance, products=PRODUCTS)
    release = Searcher.build(
        products,
        blocks,
        WEIGHTS,
        cluster_count=447,  # 2√50,000
        mix=mix,
        bank=bank,
        heads=heads,
        colour_NC=colour_NC,
    )
    member = release.member(0)
    hybrid = Searcher.build(
        products,
        blocks,
        WEIGHTS,
        cluster_count=447,
        mix=replace(mix, feedback=0, name_share=0.5, bm25_weight=0.5, name_attribute_weight=1.0),
        bank=bank,
        heads=heads,
        colour_NC=colour_NC,
        name_block_NDs=[_member(shared, chance) for _ in range(MEMBERS)],
        names=NameIndex(products),
        said=drawn_name_heads(chance, heads, names).over(products.name),
    )
    hybrid_member = hybrid.member(0)
    plain = Searcher.build(products, blocks[:1], [1.0], cluster_count=1)
    queries = [block[chance.choice(PRODUCTS, QUERIES)].astype(np.float32) for block in blocks]
    found: dict[str, list[float]] = {
        "words": [],
        "words, member": [],
        "broad": [],
        "broad, member": [],
        "names": [],
        "names, member": [],
        "picture": [],
        "plain": [],
    }
    for _ in range(ROUNDS):
        found["words"].append(_ms_a_query(release, queries, WORDS))
        found["words, member"].append(_ms_a_query(member, queries[:1], WORDS))
        found["broad"].append(_ms_a_query(release, queries, BROAD))
        found["broad, member"].append(_ms_a_query(member, queries[:1], BROAD))
        found["names"].append(_ms_a_query(hybrid, queries, NAMED))
        found["names, member"].append(_ms_a_query(hybrid_member, queries[:1], NAMED))
        found["picture"].append(_ms_a_query(release, queries, None))
        found["plain"].append(_ms_a_query(plain, queries[:1], None))
    _print_beside(release, queries, found)
    for asked, bench in (
        ("words", "search_ensemble"),
        ("broad", "search_ensemble_broad"),
        ("names", "search_ensemble_names"),
    ):
        print_result(
            bench,
            ours=float(np.median(found[asked])),
            peer=float(np.median(found[f"{asked}, member"])),
            peer_name="one member's release, FAISS flat, without clusters",
            ratio=_ratio(found, asked, f"{asked}, member"),
            better="lower",
            goal=1.3,
        )


def _member(shared: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    mixed = shared @ chance.standard_normal((RANK, DIM), dtype=np.float32)
    mixed += 0.3 * np.sqrt(RANK) * chance.standard_normal(mixed.shape, dtype=np.float32)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def _ms_a_query(searcher: Searcher, queries: Sequence[np.ndarray], words: str | None) -> float:
    moved = copy.copy(searcher)
    moved.index = FlatIndex.build(searcher.index.vectors())
    texts = None if words is None else [words]
    start = time.perf_counter()
    for row in range(QUERIES):
        moved.search([block[row : row + 1] for block in queries], k=10, texts=texts)
    return 1000 * (time.perf_counter() - start) / QUERIES


def _ratio(found: dict[str, list[float]], ours: str, peer: str) -> float:
    return float(np.median(np.array(found[ours]) / np.array(found[peer])))


def _print_beside(release: Searcher, queries: list[np.ndarray], found: dict[str, list[float]]) -> None:
    exact = np.argsort(-release.exact_scores(queries), axis=1)[:, :10]
    first = release.with_mix(**WITHOUT_CLUSTERS).search(queries, k=10)
    kept = [
        np.isin([int(product_id) for product_id in ranking.product_ids], rows).mean()
        for ranking, rows in zip(first, exact, strict=True)
    ]
    cpu = torch.device("cpu")
    encoders = [ClipEncoder(load_base("tiny", seed=seed, device=cpu)) for seed in range(MEMBERS)]
    picture = np.random.default_rng(0).integers(0, 255, (1, 80, 80, 3), dtype=np.uint8)
    text_ms = _median_ms(lambda: [encoder.encode_texts(["navy blue shirt"]) for encoder in encoders])
    image_ms = _median_ms(lambda: [encoder.encode_images(picture) for encoder in encoders])
    print(
        f"a picture {_ratio(found, 'picture', 'plain'):.2f} x a plain member's search, words "
        f"{_ratio(found, 'words', 'plain'):.2f} x, with names {_ratio(found, 'names', 'words'):.2f} x as long as "
        f"without; of the exact first ten {np.mean(kept):.1%} found; encoding for "
        f"{MEMBERS} members: a text {text_ms:.1f} ms, a picture {image_ms:.1f} ms",
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
