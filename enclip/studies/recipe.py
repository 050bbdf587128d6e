"""(k) Which training recipe makes the most of the data?"""

from collections.abc import Mapping
from typing import Any

import torch

from enclip.errors import TrainingError
from enclip.models.bases import load_base
from enclip.studies.definition import Setting
from enclip.studies.findings import Fact, Findings
from enclip.studies.lab import Epoch, Training, best_of
from enclip.studies.material import Material, Values

Variant = Mapping[str, Any]  # fields of the recipe that differ from the default

DEFAULT, CHOSEN = "default", "the variant that select chose"
BEST, RELEASE = "best epoch", "as a release"

VARIANTS: Mapping[str, Variant] = {
    DEFAULT: {},
    "EMA 0.998": {"ema": 0.998},
    "half of the batches mixed": {"mix": 0.5},
    "attribute dropout 0.3": {"attribute_dropout": 0.3},
    "half of the batches look-alikes": {"hard_negatives": 0.5},
    "half of the batches of few clusters": {"hard_negatives": 0.5, "hard_negatives_by": "cluster"},
    "60% of the epochs on smaller pictures": {"progressive_resizing": 0.6},
    "weight decay 0.5": {"weight_decay": 0.5},
    "sigmoid loss": {"loss": "sigmoid"},
    "no picture made poor": {"low_quality": 0.0},
    "60% of pictures made poor": {"low_quality": 0.6},
}
FROM_NOTHING: Mapping[str, Variant] = {"learning rate 2e-3": {"learning_rate": 2e-3}}  # twice the default
PRETRAINED: Mapping[str, Variant] = {
    "updates of rank 16": {"lora_rank": 16},
    "layer decay 0.75": {"layer_decay": 0.75},
}


def named(system: str, variant: str) -> str:
    """A system that was trained by a variant."""
    return f"{variant}, {system}"


def variants(*, untrained: bool) -> Mapping[str, Variant]:
    """The default, and one technique at a time: those that such a base can be trained with."""
    return {**VARIANTS, **(FROM_NOTHING if untrained else PRETRAINED)}


def trainings(setting: Setting, fold: int) -> list[Training]:
    """One instance by each variant."""
    base = load_base(setting.base, seed=0, device=torch.device("cpu"))
    tried = variants(untrained=base.is_untrained)
    return [setting.instance(fold, 0).varied(**changes) for changes in tried.values()]


def run(material: Material) -> Findings:
    """One instance by each variant, of the same epochs and seed; what *select* likes best stands beside them.

    The best epoch is measured by plain cosines, so that it shows the training alone. A variant that the
    catalog cannot be trained with stands in the facts with the reason.
    """
    setting, fold = material.setting, material.world.number
    base = load_base(setting.base, seed=0, device=material.lab.device)
    systems: dict[str, Values] = {}
    facts: dict[str, Fact] = {}
    quality: dict[str, float] = {}
    for variant, changes in variants(untrained=base.is_untrained).items():
        try:
            epochs = material.lab.train(setting.instance(fold, 0).varied(**changes))[1:]
        except TrainingError as error:
            if variant == DEFAULT:
                raise
            facts[variant] = {"left out, because": error.what.splitlines()[0]}
            continue
        best = best_of(epochs)
        members, weights = material.greedy(epochs[-setting.offered :], most=setting.release.max_members)
        systems[named(BEST, variant)] = material.ap(material.scores(best))
        systems[named(RELEASE, variant)] = material.searched(material.tuned(members, weights).searcher, members)
        quality[variant], facts[variant] = best.quality, _facts(epochs, best)
    chosen = max(quality, key=lambda variant: quality[variant])
    for system in (BEST, RELEASE):
        systems[named(system, CHOSEN)] = systems[named(system, chosen)]
    facts[CHOSEN] = {**facts[chosen], "is": chosen}
    return Findings(systems, facts)


def _facts(epochs: list[Epoch], best: Epoch) -> Fact:
    return {
        "best epoch": best.epoch,
        "its mAP@10 on select": best.quality,
        "its loss in training": best.figures["train_loss"],
        "training, s": sum(epoch.seconds for epoch in epochs),
    }
