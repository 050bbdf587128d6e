"""Choose a release's index: exact while that is quick enough, then what finds nearly the same in less time.

Text queries lie outside the pictures' distribution, and cost an approximate index several times the work for the same
recall: words and pictures are measured apart, and the worse of the two decides.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from enclip.recipes import ReleaseRecipe
from enclip.records import Floats
from enclip.release import IndexSettings
from enclip.retrieval.index import CellIndex, FlatIndex, GraphIndex, Index
from enclip.retrieval.searcher import Searcher

DEPTH = 10
MOST_QUERIES = 200  # of each kind
TIMINGS = 15
MOST_EFFORT = 4_096  # products in view on the way through the graph


@dataclass(frozen=True)
class Words:
    """Queries in words: T texts, and per member their `[T, D_k]`."""

    texts: Sequence[str]
    block_TDs: Sequence[Floats]


def with_index(
    searcher: Searcher, recipe: ReleaseRecipe, words: Callable[[], Words], *, seed: int = 0
) -> tuple[Searcher, IndexSettings]:
    """The searcher with the index that the recipe's budget calls for, and why.

    Exact up to `exact_up_to` products as long as that takes at most `max_search_ms`. Else the clusters as cells, with
    the least effort that finds `min_recall` of the exact first ten for words and for pictures; where they take more
    than `max_search_ms`, a graph, if `max_memory_mb` has room for its links: it takes minutes to build. What finds
    too little is not taken, however quick.

    Args:
        searcher: with an exact index.
        words: what is asked in words; called where there is something to measure.
    """
    number = len(searcher.products)
    if number <= recipe.exact_up_to and not recipe.max_search_ms:
        return searcher, _settings(
            recipe, why=f"All of {number:,} products are looked at, up to {recipe.exact_up_to:,}."
        )
    trial = _Trial(searcher, words(), seed=seed)
    exact_ms = trial.ms(searcher)
    if number <= recipe.exact_up_to and exact_ms <= recipe.max_search_ms:
        why = f"Looking at all {number:,} products takes {exact_ms:.1f} ms, within {recipe.max_search_ms:g}."
        return searcher, _settings(recipe, ms=exact_ms, exact_ms=exact_ms, why=why)
    options: list[_Option] = []
    tried: list[str] = []
    for kind, efforts in _kinds(searcher, recipe):
        settled = trial.least_effort(efforts, recipe.min_recall)
        if settled is None:
            tried.append(f"{kind} find less than {recipe.min_recall:g} of the exact first ten")
            continue
        options.append(_Option(kind, settled, trial.ms(settled), trial.recall(settled)))
        tried.append(f"{kind} take {options[-1].ms:.1f} ms with an effort of {settled.index.effort}")
        if not recipe.max_search_ms or options[-1].ms <= recipe.max_search_ms:
            break
    told = f"Looking at all {number:,} products takes {exact_ms:.1f} ms a search; {'; '.join(tried)}."
    best = min(options, key=lambda option: option.ms, default=None)
    if best is None or (number <= recipe.exact_up_to and best.ms >= exact_ms):
        return searcher, _settings(recipe, ms=exact_ms, exact_ms=exact_ms, why=f"{told} Exact search stays.")
    if 0 < recipe.max_search_ms < best.ms:
        told += f" None is within {recipe.max_search_ms:g} ms."
    return best.searcher, _settings(
        recipe,
        kind=best.kind,
        effort=best.searcher.index.effort,
        text_recall=best.recall["words"],
        image_recall=best.recall["pictures"],
        ms=best.ms,
        exact_ms=exact_ms,
        why=told,
    )


@dataclass(frozen=True)
class _Option:
    kind: str
    searcher: Searcher
    ms: float
    recall: dict[str, float]


def _kinds(searcher: Searcher, recipe: ReleaseRecipe) -> Iterator[tuple[str, Iterator[Searcher]]]:
    """Per kind searchers of rising effort; an index is built when it is asked for."""
    vector_NP = searcher.index.vectors()
    cells = CellIndex.build(vector_NP, searcher.clusters, effort=1)
    yield (
        CellIndex.kind,
        (_over(searcher, cells.with_effort(effort)) for effort in _doubling(1, searcher.clusters.count)),
    )
    room = recipe.max_memory_mb * 2**20 - (searcher.num_bytes - searcher.index.num_bytes)
    if not recipe.max_memory_mb or GraphIndex.bytes_of(*vector_NP.shape) <= room:
        graph = GraphIndex.build(vector_NP, effort=1)
        least = max(searcher.rescored, DEPTH)
        yield GraphIndex.kind, (_over(searcher, graph.with_effort(effort)) for effort in _doubling(least, MOST_EFFORT))


def _doubling(first: int, last: int) -> Iterator[int]:
    return takewhile(lambda effort: effort < 2 * last, (first * 2**power for power in range(32)))


def _over(searcher: Searcher, index: Index) -> Searcher:
    changed = copy.copy(searcher)
    changed.index = index
    return changed


class _Trial:
    """The same queries, asked of one index after the other."""

    def __init__(self, exact: Searcher, words: Words, *, seed: int) -> None:
        chance = np.random.default_rng(seed)
        asked = np.sort(chance.permutation(len(words.texts))[:MOST_QUERIES])
        rows = np.sort(chance.permutation(len(exact.products))[:MOST_QUERIES])
        self._texts = [words.texts[row] for row in asked]
        self._word_blocks = [block_TD[asked] for block_TD in words.block_TDs]
        # Products as pictures: each finds itself first, which says nothing, so that one more is asked for.
        self._picture_blocks = [np.asarray(exact.block(member)[rows], np.float32) for member in range(len(exact.dims))]
        self._own = [str(product_id) for product_id in exact.products.product_id[rows]]
        self._expected = self._found(exact)

    def least_effort(self, efforts: Iterator[Searcher], min_recall: float) -> Searcher | None:
        """The first that finds enough for words and for pictures."""
        return next((one for one in efforts if min(self.recall(one).values()) >= min_recall), None)

    def recall(self, searcher: Searcher) -> dict[str, float]:
        """By kind of query the mean share of the exact first ten that is found; 1 where there is no query."""
        found = self._found(searcher)
        return {
            kind: statistics.fmean(
                len(ours & theirs) / len(theirs) for ours, theirs in zip(found[kind], expected, strict=True)
            )
            if expected
            else 1.0
            for kind, expected in self._expected.items()
        }

    def ms(self, searcher: Searcher) -> float:
        """The median time of a search, in words where there are any."""
        blocks, texts = (self._word_blocks, self._texts) if self._texts else (self._picture_blocks, None)
        taken = []
        for row in range(min(TIMINGS, len(blocks[0]))):
            start = time.perf_counter()
            searcher.search([block[row : row + 1] for block in blocks], k=DEPTH, texts=texts and texts[row : row + 1])
            taken.append(1000 * (time.perf_counter() - start))
        return statistics.median(taken)

    def _found(self, searcher: Searcher) -> dict[str, list[set[str]]]:
        words = searcher.search(self._word_blocks, k=DEPTH, texts=self._texts) if self._texts else []
        pictures = searcher.search(self._picture_blocks, k=DEPTH + 1)
        return {
            "words": [set(ranking.product_ids) for ranking in words],
            "pictures": [set(ranking.product_ids) - {own} for ranking, own in zip(pictures, self._own, strict=True)],
        }


def _settings(recipe: ReleaseRecipe, *, why: str = "", **measured: object) -> IndexSettings:
    budget = {name: getattr(recipe, name) for name in ("exact_up_to", "min_recall", "max_search_ms", "max_memory_mb")}
    return IndexSettings.model_validate({"kind": FlatIndex.kind, **budget, **measured, "chosen_because": why})
