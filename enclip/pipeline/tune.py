"""Weigh the parts of a release's score on *select*: calibration and exemplars, attributes, clusters, words of names."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product

import numpy as np
from numpy.typing import NDArray

from enclip.pipeline.validate import Validator
from enclip.recipes import ReleaseRecipe
from enclip.records import Floats
from enclip.retrieval.clusters import cluster_grid, unusual
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import Searcher

TIE = 1e-9
PROOF = 3.0  # standard errors by which other clusters must beat the default, of some 40 tries
Values = NDArray[np.float64]  # AP@10 of each query


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
    """The mix that does best on *select*, one part after the other.

    Parts are chosen in the order in which they enter the score, as a grid over all of them together would
    choose by chance: *select* has too few queries for so many candidates. Of most parts the best is taken. What
    clusters gain is less than *select* can tell, over one catalog, and their grid is the largest: there the default
    stands (`docs/decisions/0013` has what it gains over five folds), unless another beats it by three standard errors
    over queries as pairs: of some 40 tries, one beats it by two through chance alone.

    Args:
        build: a searcher of that many clusters, with that mix.
        mix: what is settled before: the names' share.
        query_blocks: per member the embeddings of `select.texts`.
        allowed: the split's products.
    """

    def quality(searcher: Searcher) -> Values:
        return select.ap_of_rankings(searcher.search(query_blocks, k=10, texts=select.texts, allowed=allowed))

    counts = sorted(
        recipe.cluster_counts or cluster_grid(len(allowed)), key=partial(unusual, num_products=len(allowed))
    )
    best = build(counts[0], mix)
    why: dict[str, str] = {}
    if best.bank is not None:
        tried = product(sorted(recipe.exemplar_shares), sorted(recipe.calibrations))
        best, why["bank"] = _best(
            (best.with_mix(exemplar_share=share, calibration=strength) for share, strength in tried),
            quality,
            lambda searcher: f"exemplars {searcher.mix.exemplar_share:g}, calibration {searcher.mix.calibration:g}",
        )
    if best.heads is not None:
        best, why["attributes"] = _best(
            (best.with_mix(attribute_weight=weight) for weight in sorted(recipe.attribute_weights)),
            quality,
            lambda searcher: f"weight {searcher.mix.attribute_weight:g}",
        )
    mix = best.mix
    best, why["clusters"] = _best(
        chain.from_iterable(clustered(build(count, mix), recipe) for count in counts),
        quality,
        described,
        errors=PROOF,
        first="by default",
    )
    if best.names is not None:
        best, why["BM25"] = _best(
            (best.with_mix(bm25_weight=weight) for weight in sorted(recipe.bm25_weights)),
            quality,
            lambda searcher: f"weight {searcher.mix.bm25_weight:g}",
        )
    if best.wording.said is not None:
        # After BM25: of *select*'s queries these leave it nothing to do, but people search brands, too.
        best, why["attributes by name"] = _best(
            (best.with_mix(name_attribute_weight=weight) for weight in sorted(recipe.name_attribute_weights)),
            quality,
            lambda searcher: f"weight {searcher.mix.name_attribute_weight:g}",
        )
    return Tuned(best, why)


def clustered(searcher: Searcher, recipe: ReleaseRecipe) -> Iterator[Searcher]:
    """A searcher with its clusters in each way to try, the default first: feedbacks, where a bank says which queries
    are broad; none; pulls.

    Where attributes count or names are searched, these find the kind that words mean, and feedback is no default.
    """
    feedbacks = recipe.feedbacks if searcher.bank is not None else (0.0,)
    by_default = not (searcher.mix.attribute_weight or searcher.has_names)
    feedbacks = feedbacks[::-1] if by_default else feedbacks
    if 0.0 in recipe.pulls:
        for feedback in feedbacks:
            yield searcher.with_mix(pull=0, narrowing=0, feedback=feedback)
    for pull, narrowing in product(sorted(recipe.pulls), sorted(recipe.narrowings)):
        if pull:
            yield searcher.with_mix(pull=pull, narrowing=narrowing, feedback=0)


def described(searcher: Searcher) -> str:
    """How many clusters a searcher has, and what they do."""
    mix = searcher.mix
    done = f"pull {mix.pull:g}, narrowing {mix.narrowing:g}" if mix.pull else f"feedback {mix.feedback:g}"
    return f"{searcher.clusters.count} clusters, {done}"


def _best(
    candidates: Iterable[Searcher],
    quality: Callable[[Searcher], Values],
    name: Callable[[Searcher], str],
    *,
    errors: float = 0.0,
    first: str = "with the least of it",
) -> tuple[Searcher, str]:
    """The first of the candidates that none after it beats by more than so many standard errors."""
    best: Searcher | None = None
    values: list[Values] = []
    chosen = 0
    for row, candidate in enumerate(candidates):
        values.append(quality(candidate))
        if best is None or _is_better(values[row], values[chosen], errors):
            best, chosen = candidate, row
    assert best is not None, "recipes have at least one value of each part"
    means = [float(value.mean()) if len(value) else 0.0 for value in values]
    return best, (
        f"{name(best)}: {means[chosen]:.3f} on select, {means[0]:.3f} {first}, "
        f"{max(means):.3f} the best of {len(means)}."
    )


def _is_better(ours: Values, theirs: Values, errors: float) -> bool:
    gain = ours - theirs
    return len(gain) > 1 and float(gain.mean()) > errors * float(gain.std(ddof=1)) / len(gain) ** 0.5 + TIE
