"""The search service against one that encodes each request by itself, searches per member and fuses the lists.

Two parts, over drawn releases (`releases.py`) of 10,000, 100,000 and 1,000,000 products and 1 and 5 members:

- *search*: one query at a time, one thread: ours, exact and with as many clusters looked into as find 0.99 of the
  exact first ten for words and pictures; FAISS flat over one member; FAISS flat per member, lists fused by reciprocal
  ranks. Time, memory, AP@10 beside that of exact scores, how many of the exact first ten are found, for
  words and for pictures apart.
- *service*: uvicorn in a process of its own, 16 clients that ask again as soon as they are answered, no text twice.
  Throughput and times; the peer is a FastAPI service with the same members, one thread a core. Then one client alone:
  what words cost end to end over a release of five, against one of one.

Both take turns, so that what else the machine does meets both. The last line is the throughput's ratio. The run that
docs/reports/search.md was made by took 41 minutes and 11 GB; `--products 10000` is quick. `--report docs/reports`
writes that file.
"""

import argparse
import itertools
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from releases import DIM, Drawn, Queries, open_drawn, towers
from report import print_result

from enclip.pipeline.index import Words, with_index
from enclip.recipes import ReleaseRecipe
from enclip.records import Floats
from enclip.retrieval.searcher import Searcher
from enclip.serving.app import create_app
from enclip.serving.follow import Follower
from enclip.serving.run import bind, limit_threads, make_server

PRODUCTS, MEMBERS = (10_000, 100_000, 1_000_000), (1, 5)
K, CLIENTS, ROUNDS, SECONDS = 10, 16, 5, 4.0
DEEP = 100  # of each member's list that the peer fuses
RRF = 60
QUERIES, TIMED, REPEATS = 200, 20, 7
AT_ONCE = 25  # queries held against every product
MOST_SERVED = 100_000  # products of the service part: with more of them it only shows the search again
# The heads are drawn too: what they say of values that words name takes time, and means nothing.
TIMED_WORDS, WORDS = "gender1 base_colour7 article_type30", "something of this class"

Search = Callable[[list[Floats], str | None], list[list[int]]]  # members' queries, words → per query the first rows


@dataclass(frozen=True)
class Found:
    """What one way of searching costs and finds; ratios to one member's FAISS flat, paired by round."""

    way: str
    num_products: int
    num_members: int
    ms: float
    ratio: float
    memory_mb: float
    text_recall: float
    image_recall: float
    text_ap: float
    image_ap: float


@dataclass(frozen=True)
class Served:
    """What 16 clients met."""

    per_second: float
    p50_ms: float
    p99_ms: float


def main() -> None:
    """Measure, print tables, and the line of the throughput last."""
    arguments = _arguments()
    limit_threads()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    searches = [
        found
        for num_products in arguments.products
        for num_members in MEMBERS
        for found in compare_searches(num_products, num_members)
    ]
    served = {
        (num_products, num_members): compare_services(num_products, num_members)
        for num_products in arguments.products
        if num_products <= MOST_SERVED
        for num_members in MEMBERS
    }
    alone = {number: words_end_to_end(number) for number in arguments.products if number <= MOST_SERVED}
    text = report(searches, served, alone)
    print(text)
    if arguments.report:
        (arguments.report / "search.md").write_text(text)
    ours, peer = (np.array([way.per_second for way in ways]) for ways in served[min(arguments.products), MEMBERS[-1]])
    print_result(
        "search",
        ours=float(np.median(ours)),
        peer=float(np.median(peer)),
        peer_name="a FastAPI service that encodes a request by itself and fuses FAISS flat lists of 5 members",
        ratio=float(np.median(ours / peer)),
        better="higher",
        goal=3.0,
    )


def compare_searches(num_products: int, num_members: int) -> list[Found]:
    """Ours, one member's FAISS flat, and lists per member fused, over one drawn catalog."""
    drawn = Drawn(num_products, num_members)
    ours = drawn.searcher(cluster_count=round(num_products**0.5 / 2))
    flats = [_flat(block_ND) for block_ND in drawn.block_NDs]
    kinds = {"text": drawn.texts(QUERIES), "image": drawn.pictures(QUERIES)}
    words = {"text": WORDS, "image": None}
    part = with_index(ours, ReleaseRecipe(exact_up_to=0), lambda: _words(drawn))[0]
    ways: dict[str, Search] = {
        "ours": lambda blocks, words: _ours(ours, blocks, words),
        f"ours, {part.index.effort} of {part.clusters.count} cells": lambda blocks, words: _ours(part, blocks, words),
        "one member, FAISS flat": lambda blocks, _: flats[0].search(blocks[0], K)[1].tolist(),
        "FAISS flat per member, fused": lambda blocks, _: _fused(flats, blocks),
    }
    took = {way: np.zeros(REPEATS) for way in ways}
    for repeat in range(REPEATS):
        for way, search in ways.items():
            took[way][repeat] = _ms_a_query(search, kinds["text"])
    exact = {kind: _exact(ours, asked, words[kind]) for kind, asked in kinds.items()}
    exact_ap = {kind: _mean_ap(drawn, asked, exact[kind]) for kind, asked in kinds.items()}
    memory = {
        "ours": ours.num_bytes,
        f"ours, {part.index.effort} of {part.clusters.count} cells": part.num_bytes,
        "one member, FAISS flat": 4 * DIM * num_products,
        "FAISS flat per member, fused": 4 * DIM * num_products * num_members,
    }
    found = []
    for way, search in ways.items():
        rows = {kind: search(asked.block_QDs, words[kind]) for kind, asked in kinds.items()}
        recall = {
            kind: float(np.mean([np.isin(a, b).mean() for a, b in zip(exact[kind], rows[kind], strict=True)]))
            for kind in kinds
        }
        ap = {kind: _mean_ap(drawn, kinds[kind], rows[kind]) / exact_ap[kind] for kind in kinds}
        found.append(
            Found(
                way=way,
                num_products=num_products,
                num_members=num_members,
                ms=float(np.median(took[way])),
                ratio=float(np.median(took[way] / took["one member, FAISS flat"])),
                memory_mb=memory[way] / 2**20,
                text_recall=recall["text"],
                image_recall=recall["image"],
                text_ap=ap["text"],
                image_ap=ap["image"],
            )
        )
        print(found[-1], flush=True)
    return found


def compare_services(num_products: int, num_members: int) -> tuple[list[Served], list[Served]]:
    """Per round what clients met at our service, and at the peer's."""
    with (
        _process(serve_ours, num_products, num_members) as our_port,
        _process(serve_peer, num_products, num_members) as peer_port,
    ):
        texts = _texts()
        for port in (our_port, peer_port):
            crowd(port, texts, seconds=1.0)
        rounds = [(crowd(our_port, texts), crowd(peer_port, texts)) for _ in range(ROUNDS)]
    for ours, peer in rounds:
        print(num_products, num_members, ours, peer, flush=True)
    return [ours for ours, _ in rounds], [peer for _, peer in rounds]


def words_end_to_end(num_products: int) -> float:
    """How many times as long one client waits for an answer to words over five members, as over one."""
    with (
        _process(serve_ours, num_products, 5) as many_port,
        _process(serve_ours, num_products, 1) as single_port,
    ):
        texts = _texts()
        ratios = []
        for _ in range(ROUNDS + 1):
            many, single = (crowd(port, texts, clients=1, seconds=2.0) for port in (many_port, single_port))
            ratios.append(many.p50_ms / single.p50_ms)
    return float(np.median(ratios[1:]))


def crowd(port: int, texts: Iterator[str], *, clients: int = CLIENTS, seconds: float = SECONDS) -> Served:
    """Clients that ask again as soon as they are answered. Raises RuntimeError where one is not answered."""
    took: list[float] = []
    failed: list[str] = []
    until = time.perf_counter() + seconds

    def go_on() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        while time.perf_counter() < until:
            body = json.dumps({"text": next(texts), "k": K})
            start = time.perf_counter()
            connection.request("POST", "/v1/search", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            took.append(time.perf_counter() - start)
            if answer.status != 200 or len(json.loads(content)["results"]) != K:
                failed.append(f"{answer.status}: {content[:200]!r}")
                break

    threads = [threading.Thread(target=go_on) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(failed[0])
    p50, p99 = np.percentile(took, (50, 99)) * 1000
    return Served(len(took) / (time.perf_counter() - started), float(p50), float(p99))


def serve_ours(connection: Any, num_products: int, num_members: int) -> None:
    """The whole service: release, follower, routes; until it is killed."""
    limit_threads()
    torch.set_num_threads(1)
    release = open_drawn(Drawn(num_products, num_members))
    follower = Follower(current=lambda: 1, load=lambda _: release, withdrawn=frozenset)
    _serve(connection, create_app(follower, lambda _: b""), lambda: follower.served is not None)


def serve_peer(connection: Any, num_products: int, num_members: int) -> None:
    """The service that one would write first: encode, search per member, fuse, answer."""
    limit_threads()
    torch.set_num_threads(1)
    drawn = Drawn(num_products, num_members)
    flats, encoders, ids = [_flat(block) for block in drawn.block_NDs], towers(num_members), drawn.products.product_id
    app = FastAPI()
    turns = threading.Semaphore(multiprocessing.cpu_count())  # more threads at once only wait for each other

    @app.post("/v1/search")
    def search(request: dict[str, Any]) -> dict[str, Any]:
        with turns:
            rows = _fused(flats, [encoder.encode_texts([request["text"]]) for encoder in encoders])[0]
        return {"results": [{"product_id": ids[row], "rank": rank} for rank, row in enumerate(rows)]}

    _serve(connection, app, lambda: True)


def _serve(connection: Any, app: FastAPI, ready: Callable[[], bool]) -> None:
    with bind("127.0.0.1", 0) as bound:
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not (server.started and ready()):
            time.sleep(0.05)
        connection.send(bound.getsockname()[1])
        thread.join()


@contextmanager
def _process(serve: Callable[..., None], *arguments: int) -> Iterator[int]:
    """A server in a process of its own; its port once it answers."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=serve, args=(its, *arguments), daemon=True)
    process.start()
    try:
        if not ours.poll(600):
            raise RuntimeError("The server did not start in ten minutes.")
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def report(
    searches: Sequence[Found],
    served: dict[tuple[int, int], tuple[list[Served], list[Served]]],
    alone: dict[int, float],
) -> str:
    """Markdown."""
    lines = [
        "# Searching: time, memory, and what is found",
        "",
        "Made by `python bench/search.py --report docs/reports`, which says what is measured and against whom.",
        "",
        "## Search, one query in words at a time, one thread",
        "",
        "| products | members | | ms | × one member | MB | first ten, words | pictures | AP@10, words | pictures |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {found.num_products:,} | {found.num_members} | {found.way} | {found.ms:.2f} | {found.ratio:.2f} "
        f"| {found.memory_mb:,.0f} | {found.text_recall:.3f} | {found.image_recall:.3f} | {found.text_ap:.3f} "
        f"| {found.image_ap:.3f} |"
        for found in searches
    ]
    lines += [
        "",
        "“First ten” and AP@10 are shares of what exact scores of all products give. A share above 1 finds more of a",
        "drawn class, which says nothing of a catalog: [fusion](fusion.md) compares ways of combining members on one.",
        "",
        f"## Service, {CLIENTS} clients, no text twice",
        "",
        "| products | members | | requests/s | p50 ms | p99 ms | throughput, ours over the peer's | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (num_products, num_members), (ours, peer) in served.items():
        faster = np.median([a.per_second / b.per_second for a, b in zip(ours, peer, strict=True)])
        slowest = np.median([a.p99_ms / b.p99_ms for a, b in zip(ours, peer, strict=True)])
        for way, rounds, ratios in (
            ("ours", ours, f"{faster:.1f} × | {slowest:.2f} ×"),
            ("the peer", peer, " | "),
        ):
            middle = [np.median([getattr(one, name) for one in rounds]) for name in ("per_second", "p50_ms", "p99_ms")]
            lines.append(
                f"| {num_products:,} | {num_members} | {way} | {middle[0]:,.0f} | {middle[1]:.1f} | {middle[2]:.1f} "
                f"| {ratios} |"
            )
    lines += [
        "",
        "One client alone waits for an answer to words over five members "
        + ", ".join(f"{ratio:.2f} × as long as over one at {number:,} products" for number, ratio in alone.items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def _flat(block_ND: NDArray[np.float16]) -> "faiss.IndexFlatIP":
    index = faiss.IndexFlatIP(block_ND.shape[1])
    index.add(np.asarray(block_ND, np.float32))
    return index


def _ours(searcher: Searcher, blocks: list[Floats], words: str | None) -> list[list[int]]:
    rankings = searcher.search(blocks, k=K, texts=[words] * len(blocks[0]))
    return [[int(product_id) for product_id in ranking.product_ids] for ranking in rankings]


def _fused(flats: Sequence["faiss.IndexFlatIP"], blocks: list[Floats]) -> list[list[int]]:
    lists = [flat.search(block, DEEP)[1] for flat, block in zip(flats, blocks, strict=True)]
    found = []
    for of_query in zip(*lists, strict=True):
        scores: dict[int, float] = {}
        for rows in of_query:
            for rank, row in enumerate(rows.tolist(), 1):
                scores[row] = scores.get(row, 0.0) + 1 / (RRF + rank)
        found.append(sorted(scores, key=lambda row: (-scores[row], row))[:K])
    return found


def _ms_a_query(search: Search, asked: Queries) -> float:
    start = time.perf_counter()
    for row in range(TIMED):
        search([block[row : row + 1] for block in asked.block_QDs], TIMED_WORDS)
    return 1000 * (time.perf_counter() - start) / TIMED


def _exact(searcher: Searcher, asked: Queries, words: str | None) -> list[list[int]]:
    """The first ten of exact scores of all products, some queries at once: a million scores each."""
    found = []
    for start in range(0, len(asked.class_Q), AT_ONCE):
        blocks = [block[start : start + AT_ONCE] for block in asked.block_QDs]
        for score_N in searcher.exact_scores(blocks, texts=[words] * len(blocks[0])):
            best = np.argpartition(-score_N, K)[: 2 * K]
            found.append(best[np.lexsort((best, -score_N[best]))][:K].tolist())
    return found


def _mean_ap(drawn: Drawn, asked: Queries, rows: list[list[int]]) -> float:
    """Mean AP@10, each product of a query's class relevant."""
    is_relevant_QK = drawn.class_N[np.array(rows)] == asked.class_Q[:, None]
    num_relevant_Q = np.bincount(drawn.class_N, minlength=int(asked.class_Q.max()) + 1)[asked.class_Q]
    precision_QK = np.cumsum(is_relevant_QK, axis=1) / np.arange(1, K + 1)
    return float(((precision_QK * is_relevant_QK).sum(axis=1) / np.maximum(1, np.minimum(K, num_relevant_Q))).mean())


def _words(drawn: Drawn) -> Words:
    asked = drawn.texts(QUERIES)
    return Words([WORDS] * QUERIES, asked.block_QDs)


def _texts() -> Iterator[str]:
    """Words of a shop, each combination once; `next` on it is safe from several threads."""
    return (f"colour{number % 44} kind{number % 110} number {number}" for number in itertools.count())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, nargs="+", default=PRODUCTS, help="numbers of products")
    parser.add_argument("--report", type=Path, help="folder to write search.md to")
    arguments = parser.parse_args()
    if min(arguments.products) > MOST_SERVED:
        parser.error(f"the services are asked with up to {MOST_SERVED:,} products: name a smaller number too")
    return arguments


if __name__ == "__main__":
    main()
