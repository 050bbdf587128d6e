"""The learning rate over a training."""

import math

from enclip.models.clip import ClipModel
from enclip.recipes import TrainRecipe

FROM_NOTHING = 1e-3
FROM_OWN_WEIGHTS = 3e-4  # a small network trained from nothing, taken up again
FROM_PRETRAINED = 1e-5  # FLYP, Goyal et al., arXiv 2212.00638
GROWTH = ((0.5, 0.0), (0.8, 0.5), (1.0, 1.0))  # up to this share of the epochs, this much of the way to the full side
SIDE_STEP = 16  # px: what a convolutional tower's strides divide

LAST = 0.01  # of the peak, at the end of each cosine


def peak_learning_rate(recipe: TrainRecipe, model: ClipModel) -> float:
    """The recipe's, or what the weights at the start want."""
    if recipe.learning_rate:
        return recipe.learning_rate
    if not model.from_scratch:
        return FROM_PRETRAINED
    return FROM_OWN_WEIGHTS if model.epochs_trained else FROM_NOTHING


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


def side_of(recipe: TrainRecipe, full: int, *, epoch: int) -> int:
    """Side in px of the pictures of an epoch, from 1: small first, which is cheap, and whole at the end.

    Convolutions cost by the area. What small pictures teach holds for large ones but for the last
    epochs, which also set BatchNorm's statistics (progressive resizing, as in Tan & Le, arXiv 2104.00298).
    """
    if recipe.first_side == 1:
        return full
    grown = next(way for until, way in GROWTH if epoch <= until * recipe.epochs)
    wanted = full * (recipe.first_side + (1 - recipe.first_side) * grown)
    return min(full, max(SIDE_STEP, round(wanted / SIDE_STEP) * SIDE_STEP)) if grown < 1 else full
