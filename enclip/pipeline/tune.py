"""Weigh the parts of a release's score on *select*: calibration and exemplars, clusters, BM25."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from enclip.pipeline.validate import Validator
from enclip.recipes import ReleaseRecipe
from enclip.records import Floats
from enclip.retrieval.clusters import cluster_grid
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import Searcher

TIE = 1e-9


@dataclass(frozen=True)
class Tuned:
    """A searcher with the mix that was chosen, and why, by part."""

    searcher: Searcher
    why: dict[str, str]


def tune(
    build: Callable[[int, Mix], Searcher],
    query_blocks: Sequence[Floats],
    select: Validator,
    allowed: NDArray[np.bool_],
    recipe: ReleaseRecipe,
    *,
    mix: Mix,
) -> Tuned:
    """The mix with the highest mAP@10 on *select*, one part after the other; ties: the least of it.

    Parts are chosen in the order in which they enter the score, as a grid over all of them together would
    choose by chance: *select* has too few queries for so many candidates.

    Args:
        build: a searcher of that many clusters, with that mix.
        mix: what is settled before: the names' share.
        query_blocks: per member the embeddings of `select.texts`.
        allowed: the split's products.
    """

    def quality(searcher: Searcher) -> float:
        return select.quality_of_rankings(searcher.search(query_blocks, k=10, texts=select.texts, allowed=allowed))

    counts = recipe.cluster_counts or cluster_grid(len(allowed))
    best = build(counts[0], mix)
    why: dict[str, str] = {}
    if best.bank is not None:
        tried = product(sorted(recipe.exemplar_shares), sorted(recipe.calibrations))
        best, why["bank"] = _best(
            (best.with_mix(exemplar_share=share, calibration=strength) for share, strength in tried),
            quality,
            lambda searcher: f"exemplars {searcher.mix.exemplar_share:g}, calibration {searcher.mix.calibration:g}",
        )
    mix = best.mix
    clustered = (build(count, mix) for count in counts)
    best, why["clusters"] = _best(
        (
            searcher.with_mix(pull=pull, narrowing=narrowing)
            for searcher in clustered
            for pull, narrowing in product(sorted(recipe.pulls), sorted(recipe.narrowings))
            if pull or not narrowing
        ),
        quality,
        lambda searcher: (
            f"{searcher.clusters.count} clusters, pull {searcher.mix.pull:g}, narrowing {searcher.mix.narrowing:g}"
        ),
    )
    if best.names is not None:
        best, why["BM25"] = _best(
            (best.with_mix(bm25_weight=weight) for weight in sorted(recipe.bm25_weights)),
            quality,
            lambda searcher: f"weight {searcher.mix.bm25_weight:g}",
        )
    return Tuned(best, why)


def _best(
    candidates: Iterable[Searcher], quality: Callable[[Searcher], float], name: Callable[[Searcher], str]
) -> tuple[Searcher, str]:
    best: Searcher | None = None
    values: list[float] = []
    for candidate in candidates:
        values.append(quality(candidate))
        if best is None or values[-1] > max(values[:-1]) + TIE:
            best = candidate
    assert best is not None, "recipes have at least one value of each part"
    return best, (
        f"{name(best)}: {max(values):.3f} on select, {values[0]:.3f} with the least of it, best of {len(values)}."
    )
