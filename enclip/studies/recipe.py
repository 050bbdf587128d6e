"""(k) Which training recipe makes the most of the data?"""

from collections.abc import Mapping
from typing import Any

import torch

from enclip.errors import TrainingError
from enclip.models.bases import load_base
from enclip.models.schedule import LOW_RANK
from enclip.recipes import TrainRecipe
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


def named(system: str, variant: str) -> str:
    """A system that was trained by a variant."""
    return f"{variant}, {system}"


def variants(default: TrainRecipe, *, untrained: bool) -> Mapping[str, Variant]:
    """The default, and one technique at a time: those that such a base can be trained with.

    Low-rank updates get ten times the rate of whole matrices, as where the recipe names none.
    """
    if untrained:
        return {**VARIANTS, **FROM_NOTHING}
    rate = {"learning_rate": default.learning_rate * LOW_RANK} if default.learning_rate else {}
    return {**VARIANTS, "updates of rank 16": {"lora_rank": 16, **rate}, "layer decay 0.75": {"layer_decay": 0.75}}


def trainings(setting: Setting, fold: int) -> list[Training]:
    """One instance by each variant."""
    base = load_base(setting.base, seed=0, device=torch.device("cpu"))
    plain = setting.instance(fold, 0)
    return [plain.varied(**changes) for changes in variants(plain.recipe, untrained=base.is_untrained).values()]


def run(material: Material) -> Findings:
    """One instance by each variant, of the same epochs and seed; what *select* likes best stands beside them.

    The best epoch is measured by plain cosines, so that it shows the training alone. A variant that the
    catalog cannot be trained with stands in the facts with the reason.
    """
    setting, plain = material.setting, material.setting.instance(material.world.number, 0)
    base = load_base(setting.base, seed=0, device=material.lab.device)
    systems: dict[str, Values] = {}
    facts: dict[str, Fact] = {}
    quality: dict[str, float] = {}
    for variant, changes in variants(plain.recipe, untrained=base.is_untrained).items():
        try:
            epochs = material.lab.train(plain.varied(**changes))[1:]
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
