"""(b) Are the clusters good, and what do they do to the ranking?"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from enclip.pipeline.gallery import plain
from enclip.pipeline.tune import tune
from enclip.records import Floats, Split
from enclip.retrieval.clusters import Clusters, cluster_grid, cluster_means, purity, silhouette
from enclip.retrieval.mix import NOTHING, WITHOUT_CLUSTERS, Mix
from enclip.retrieval.searcher import Searcher
from enclip.studies.findings import Fact, Findings
from enclip.studies.material import Material, Values
from enclip.studies.signals import query_signals, rank_correlation

PULLS = (0.15, 0.3, 0.6)
FEEDBACKS = (0.25, 0.5)
SIGNALLED = 0.3  # the pull whose gain is held against what queries show
PER_CLUSTER = 8  # products, of one more size: of thousands of products a release tries none so fine
ITSELF = "feedback 0.25 of the first results themselves"
COSINES = "cosines, "
COSINES_ALONE = f"{COSINES}without clusters"
COSINES_CHOSEN = f"{COSINES}clusters as chosen on select"
ABOUT = (
    "The first table is of the release as it searches. The second is of the same members' cosines alone, as the paper "
    "has them: one view of each picture, no bank's calibration, no exemplars, no attributes; bank and heads say how "
    "broad a query is, and nothing else. Its gains are over those cosines without clusters. Of the second, select has "
    "chosen by the release's own rule: the default, unless another beats it by three standard errors."
)


def run(material: Material) -> Findings:
    """Every size of the grid and one more: its quality, and the ranking with its feedback and at several pulls, these
    for all or for broad queries, and for broad queries over plain cosines; and the rank correlation of what a pull
    gains a query with what the query shows.
    """
    chosen = material.release.searcher
    by_size = {count: _with_clusters(chosen, count) for count in _sizes(len(chosen.products))}
    over_all, facts = _over_the_release(material, by_size)
    over_cosines, why = _over_cosines(material, tuple(by_size))
    return Findings({**over_all, **over_cosines}, {**facts, COSINES_CHOSEN: {"clusters": why}})


def _sizes(num_products: int) -> tuple[int, ...]:
    return tuple(sorted({*cluster_grid(num_products), max(2, num_products // PER_CLUSTER)}))


def _over_the_release(material: Material, by_size: Mapping[int, Searcher]) -> tuple[dict[str, Values], dict[str, Fact]]:
    members, _ = material.ensemble
    chosen = material.release.searcher
    chosen_alone = chosen.with_mix(**WITHOUT_CLUSTERS)
    without = material.searched(chosen_alone, members)
    systems = {
        "without clusters": without,
        "as chosen on select": material.searched(chosen, members),
        ITSELF: material.searched(_each_itself(chosen_alone).with_mix(feedback=min(FEEDBACKS)), members),
    }
    facts: dict[str, Fact] = {}
    vector_NP = chosen.vectors()
    for searcher in by_size.values():
        clusters = searcher.clusters
        for feedback in FEEDBACKS:
            turned = searcher.with_mix(**WITHOUT_CLUSTERS).with_mix(feedback=feedback)
            systems[f"{clusters.count} clusters, feedback {feedback:g}"] = material.searched(turned, members)
        for pull in PULLS:
            for narrowing, whom in ((0.0, "all queries"), (1.0, "broad queries")):
                pulled = searcher.with_mix(pull=pull, narrowing=narrowing, feedback=0)
                systems[f"{clusters.count} clusters, pull {pull:g}, {whom}"] = material.searched(pulled, members)
        gained = systems[f"{clusters.count} clusters, pull {SIGNALLED:g}, all queries"] - without
        signals = query_signals(material, searcher, members)
        facts[f"{clusters.count} clusters"] = {
            **_similarities(vector_NP, clusters.assignment_N),
            "silhouette": silhouette(vector_NP, clusters),
            "purity by type": purity(clusters.assignment_N, chosen.products.article_type),
            **{f"gain by {name}": rank_correlation(signal, gained) for name, signal in signals.items()},
        }
    return systems, facts


def _over_cosines(material: Material, sizes: Sequence[int]) -> tuple[dict[str, Values], str]:
    """The ensemble's cosines with pulls of broad queries, and what *select* chooses among those, with the reason."""
    members, weights = material.ensemble
    of_one_view = material.builder(members, weights, views=1, heads=material.release.searcher.heads)
    cosines = {count: plain(of_one_view(count, Mix())) for count in sizes}
    systems = {COSINES_ALONE: material.searched(next(iter(cosines.values())), members)}
    for searcher in cosines.values():
        for feedback in FEEDBACKS:
            turned = searcher.with_mix(feedback=feedback)
            name = f"{COSINES}{searcher.clusters.count} clusters, feedback {feedback:g}"
            systems[name] = material.searched(turned, members)
        for pull in PULLS:
            pulled = searcher.with_mix(pull=pull, narrowing=1)
            name = f"{COSINES}{searcher.clusters.count} clusters, pull {pull:g}, broad queries"
            systems[name] = material.searched(pulled, members)
    recipe = material.setting.release.model_copy(
        update={
            "cluster_counts": tuple(cosines),
            "pulls": (0.0, *PULLS),
            "narrowings": (1.0,),
            "calibrations": (0.0,),
            "exemplar_shares": (0.0,),
            "attribute_weights": (0.0,),
        }
    )

    def build(count: int, mix: Mix) -> Searcher:
        return cosines[count].with_mix(**asdict(mix))

    select = [material.world.of(Split.SELECT, material.embedded(member))[0] for member in members]
    tuned = tune(build, select, material.world.select, material.allowed(Split.SELECT), recipe, mix=NOTHING)
    systems[COSINES_CHOSEN] = material.searched(tuned.searcher, members)
    return systems, tuned.why["clusters"]


def _with_clusters(searcher: Searcher, count: int) -> Searcher:
    blocks = [searcher.block(member) for member in range(len(searcher.dims))]
    return Searcher.build(
        searcher.products,
        blocks,
        searcher.weights,
        cluster_count=count,
        mix=searcher.mix,
        bank=searcher.bank,
        heads=searcher.heads,
        colour_NC=searcher.wording.colours,
    )


def _each_itself(searcher: Searcher) -> Searcher:
    """The same with as many clusters as products, so that what feeds back are the first results themselves."""
    alone = copy.copy(searcher)
    alone.clusters = Clusters(np.arange(len(searcher.products), dtype=np.int32), searcher.vectors())
    alone.cluster_mean_CD = cluster_means(searcher.embedding_ND, alone.clusters)
    alone.gather()
    return alone


def _similarities(vector_NP: Floats, cluster_N: NDArray[np.int32]) -> Fact:
    """Mean cosine of 200,000 random pairs within a cluster, and between two."""
    chance = np.random.default_rng(0)
    unit_NP = vector_NP / np.maximum(np.linalg.norm(vector_NP, axis=1, keepdims=True), 1e-9)
    left, right = chance.integers(0, len(unit_NP), (2, 200_000))
    cosine = np.einsum("nd,nd->n", unit_NP[left], unit_NP[right])
    same, other = cluster_N[left] == cluster_N[right], left != right
    return {"within": float(cosine[same & other].mean()), "between": float(cosine[~same].mean())}
