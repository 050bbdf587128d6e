"""(b) Are the clusters good, and what do they do to the ranking?"""

import numpy as np
from numpy.typing import NDArray

from enclip.records import Floats
from enclip.retrieval.clusters import cluster_grid, purity, silhouette
from enclip.retrieval.searcher import Searcher
from enclip.studies.findings import Fact, Findings
from enclip.studies.material import Material
from enclip.studies.signals import query_signals, rank_correlation

PULLS = (0.15, 0.3, 0.6)
SIGNALLED = 0.3  # the pull whose gain is held against what queries show


def run(material: Material) -> Findings:
    """Every size of the grid: its quality, and the ranking with it at several pulls, for all or for broad queries;
    and the rank correlation of what a pull gains a query with what the query shows.
    """
    members, _ = material.ensemble
    chosen = material.release.searcher
    without = material.searched(chosen.with_mix(pull=0, narrowing=0), members)
    systems = {"without clusters": without}
    systems["as chosen on select"] = material.searched(chosen, members)
    facts: dict[str, Fact] = {}
    vector_NP = chosen.index.vectors()[:, : chosen.projection.width]
    for count in cluster_grid(len(chosen.products)):
        searcher = _with_clusters(chosen, count)
        clusters = searcher.clusters
        for pull in PULLS:
            for narrowing, whom in ((0.0, "all queries"), (1.0, "broad queries")):
                pulled = searcher.with_mix(pull=pull, narrowing=narrowing)
                systems[f"{clusters.count} clusters, pull {pull:g}, {whom}"] = material.searched(pulled, members)
        gained = systems[f"{clusters.count} clusters, pull {SIGNALLED:g}, all queries"] - without
        signals = query_signals(material, searcher, members)
        facts[f"{clusters.count} clusters"] = {
            **_similarities(vector_NP, clusters.assignment_N),
            "silhouette": silhouette(vector_NP, clusters),
            "purity by type": purity(clusters.assignment_N, chosen.products.article_type),
            **{f"gain by {name}": rank_correlation(signal, gained) for name, signal in signals.items()},
        }
    return Findings(systems, facts)


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
    )


def _similarities(vector_NP: Floats, cluster_N: NDArray[np.int32]) -> Fact:
    """Mean cosine of 200,000 random pairs within a cluster, and between two."""
    chance = np.random.default_rng(0)
    unit_NP = vector_NP / np.maximum(np.linalg.norm(vector_NP, axis=1, keepdims=True), 1e-9)
    left, right = chance.integers(0, len(unit_NP), (2, 200_000))
    cosine = np.einsum("nd,nd->n", unit_NP[left], unit_NP[right])
    same, other = cluster_N[left] == cluster_N[right], left != right
    return {"within": float(cosine[same & other].mean()), "between": float(cosine[~same].mean())}
