"""(g) How much data does it take?"""

from collections.abc import Sequence

import numpy as np

from enclip.records import Split
from enclip.studies.definition import Setting
from enclip.studies.findings import Fact, Findings
from enclip.studies.lab import Epoch, Training, best_of
from enclip.studies.material import Material, Values

SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)
BEST, ENSEMBLE, RELEASE = "best epoch", "greedy ensemble", "as a release"
SYSTEMS = (BEST, ENSEMBLE, RELEASE)


def named(system: str, share: float) -> str:
    """A system that has learned from a share of the train split."""
    return f"{system}, {share:.0%} of train"


LEVELS = {
    "share of the train split": {
        system: [(f"{share:.0%}", named(system, share)) for share in sorted(SHARES)] for system in SYSTEMS
    }
}


def trainings(setting: Setting, fold: int) -> list[Training]:
    """One for each share, the longest first."""
    return [setting.little(fold, share) for share in SHARES]


def run(material: Material) -> Findings:
    """The same instance on smaller and smaller samples of its train split, each product seen equally often.

    The batch follows the recipe's rule, so smaller samples have smaller batches. Epochs and members are
    chosen on the whole of *select*, and so are the weights of a release, whose bank and heads know no more of the
    train split than its members, and learn nothing from *select*, which would outnumber the smallest samples.
    """
    num_products = int(np.sum(material.allowed(Split.TRAIN)))
    systems, facts = {}, {}
    for share, training in zip(SHARES, trainings(material.setting, material.world.number), strict=True):
        epochs = material.lab.train(training)[1:]
        best, (members, weights) = best_of(epochs), _ensemble(material, epochs)
        systems[named(BEST, share)] = material.ap(material.scores(best))
        systems[named(ENSEMBLE, share)] = material.ap(material.weighted(members, weights))
        systems[named(RELEASE, share)] = _released(material, share, members, weights)
        facts[f"{share:.0%} of train"] = _facts(epochs, best, max(2, round(share * num_products)))
    return Findings(systems, facts)


def _ensemble(material: Material, epochs: Sequence[Epoch]) -> tuple[list[Epoch], list[float]]:
    return material.greedy(epochs[-material.setting.offered :], most=material.setting.release.max_members)


def _released(material: Material, share: float, members: Sequence[Epoch], weights: Sequence[float]) -> Values:
    little = Material(material.lab, material.setting, material.world.number, share=share)
    fitted = little.lab.heads(members, weights, views=[little.views(member) for member in members])
    release = little.tuned(members, weights, heads=fitted.judged if fitted else None).searcher
    return little.searched(release, members)


def _facts(epochs: Sequence[Epoch], best: Epoch, num_products: int) -> Fact:
    return {
        "products": num_products,
        "batch": round(best.figures["batch_size"]),
        "best epoch": best.epoch,
        "its mAP@10 on select": best.quality,
        "training, s": sum(epoch.seconds for epoch in epochs),
    }
