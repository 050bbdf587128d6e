"""The learning rate over a training."""

import math

from enclip.models.clip import ClipModel
from enclip.recipes import TrainRecipe

FROM_NOTHING = 1e-3
FROM_OWN_WEIGHTS = 3e-4  # a small network trained from nothing, taken up again
FROM_PRETRAINED = 1e-5  # FLYP, Goyal et al., arXiv 2212.00638

LOW_RANK = 10  # times as much for low-rank updates (Schulman et al., LoRA Without Regret, 2025)
LAST = 0.01  # of the peak, at the end of each cosine


def peak_learning_rate(recipe: TrainRecipe, model: ClipModel) -> float:
    """The recipe's, or what the weights at the start want."""
    if recipe.learning_rate:
        return recipe.learning_rate
    whole = FROM_PRETRAINED
    if model.from_scratch:
        whole = FROM_OWN_WEIGHTS if model.epochs_trained else FROM_NOTHING
    return whole * LOW_RANK if recipe.lora_rank else whole


def learning_rate(recipe: TrainRecipe, peak: float, *, step: int, steps: int) -> float:
    """The rate of one step: a linear warm-up, then one cosine, or equal cosine cycles.

    The cyclic form is that of snapshot ensembles (Huang et al., arXiv 1704.00109).
    """
    warmup = math.ceil(recipe.warmup * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if recipe.schedule == "cyclic":
        done = (done * recipe.cycles) % 1.0
    return peak * (LAST + (1 - LAST) * (1 + math.cos(math.pi * done)) / 2)
