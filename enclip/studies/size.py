"""(c) How large an ensemble, and of which members?"""

from collections.abc import Sequence

import numpy as np

from enclip.studies.findings import Fact, Findings
from enclip.studies.lab import Epoch
from enclip.studies.material import Material, Values

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12)


def run(material: Material) -> Findings:
    """Uniform ensembles: the last epochs of one instance, the same over all instances, and greedy ones."""
    first = material.instances[0]
    systems = {"1 best epoch": material.ap(material.scores(material.best_epoch))}
    facts: dict[str, Fact] = {}
    for size in SIZES[1:]:
        in_one = first[-size:]
        if len(in_one) == size:
            systems[f"{size} last epochs of one instance"] = _uniform(material, in_one)
        spread = [epochs[-1 - back] for back in range(len(first)) for epochs in material.instances][:size]
        systems[f"{size} last epochs over {len(material.instances)} instances"] = _uniform(material, spread)
        members, weights = material.greedy(material.candidates, most=size)
        if len(members) == size:
            systems[f"{size} by greedy selection"] = material.ap(material.weighted(members, weights))
    for number, other in enumerate(material.instances[1:], 1):
        facts[f"last epochs of instances 0 and {number}"] = _agreement(material, first[-1], other[-1])
    if len(first) > 1:
        facts["last two epochs of instance 0"] = _agreement(material, first[-1], first[-2])
    return Findings(systems, facts)


def _uniform(material: Material, members: Sequence[Epoch]) -> Values:
    return material.ap(material.weighted(members, [1 / len(members)] * len(members)))


def _agreement(material: Material, one: Epoch, other: Epoch) -> Fact:
    ours, theirs = (material.ap(material.scores(epoch)) for epoch in (one, other))
    return {"correlation of AP@10": float(np.corrcoef(ours, theirs)[0, 1])}
