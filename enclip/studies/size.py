"""(c) How large an ensemble, and of which members?"""

from collections.abc import Sequence

import numpy as np

from enclip.studies.findings import Fact, Findings
from enclip.studies.lab import Epoch
from enclip.studies.material import Material

SIZES = range(2, 13)


def run(material: Material) -> Findings:
    """Uniform ensembles: the last epochs of one instance, the same over several instances, and greedy ones.

    Every size from 1 to 12 for which there are so many epochs to take; of equal ensembles the first is shown.
    """
    instances = material.instances
    first, spread = instances[0], newest_first(instances)
    systems = {"1 best epoch": material.ap(material.scores(material.best_epoch))}
    facts: dict[str, Fact] = {}
    for size in SIZES:
        if size <= len(first):
            systems[f"{size} last epochs of one instance"] = material.uniform(first[-size:])
        if len(instances) > 1 and size <= len(spread):
            among = min(size, len(instances))
            systems[f"{size} last epochs over {among} instances"] = material.uniform(spread[:size])
        if size <= len(material.candidates):
            members, weights = material.greedy(material.candidates, most=size)
            if len(members) == size:
                systems[f"{size} by greedy selection"] = material.ap(material.weighted(members, weights))
    for number, other in enumerate(material.instances[1:], 1):
        facts[f"last epochs of instances 0 and {number}"] = _agreement(material, first[-1], other[-1])
    if len(first) > 1:
        facts["last two epochs of instance 0"] = _agreement(material, first[-1], first[-2])
    return Findings(systems, facts)


def newest_first(instances: Sequence[Sequence[Epoch]]) -> list[Epoch]:
    """The last epoch of each instance, then the last but one of each, while each has one."""
    backwards = (reversed(epochs) for epochs in instances)
    return [epoch for layer in zip(*backwards, strict=False) for epoch in layer]


def _agreement(material: Material, one: Epoch, other: Epoch) -> Fact:
    ours, theirs = (material.ap(material.scores(epoch)) for epoch in (one, other))
    return {"correlation of AP@10": float(np.corrcoef(ours, theirs)[0, 1])}
