"""Low-rank updates in the place of whole matrices, so that an epoch can be stored as what it changes.

Of W the trained network has W + alpha / rank · B A (Hu et al., LoRA, arXiv 2106.09685). W stays as it is; B starts at
zero, so that the start is the base. Every matrix of both towers has an update, convolutions' kernels seen as
`[out, rest]`, but for those that two rows of numbers would not make smaller: they are trained whole, as are vectors
(biases, norms, temperature), and BatchNorm's statistics follow. Embeddings, of tokens and of positions, are frozen.
"""

import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# Held fixed while the rank varies: one learning rate then suits all ranks (Schulman et al., LoRA Without Regret, 2025).
ALPHA = 32.0
DOWN, UP = "lora_A", "lora_B"  # what a matrix's name ends in where its update is stored

# What open_clip and timm call positions, which are parameters of the towers there.
_POSITIONS = re.compile(r"embed|pos")


class LowRank(nn.Module):
    """The update of one matrix, as `parametrize` wants it: W in, W + alpha / rank · B A out."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = _shape(weight)
        bound = columns**-0.5
        self.A = nn.Parameter(torch.empty(rank, columns).uniform_(-bound, bound, generator=generator).to(weight))
        self.B = nn.Parameter(torch.zeros(rows, rank).to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """In the weights' own precision, as whoever loads the epoch computes it."""
        with torch.autocast(weight.device.type, enabled=False):
            return updated(weight, self.A, self.B, ALPHA)


def updated(weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """W + alpha / rank · B A in the shape of W. Raises RuntimeError where the shapes do not fit."""
    return weight + ((b * (alpha / len(a))) @ a).view(weight.shape)


def attach(module: nn.Module, rank: int, *, seed: int) -> None:
    """Freeze a CLIP's matrices and embeddings, and give the matrices updates to train, in place.

    Args:
        rank: of every update; a matrix that it would not make smaller is left to be trained whole.
        seed: of the updates' random halves; equal seeds make equal ones on all devices.
    """
    generator = torch.Generator().manual_seed(seed)
    uses = Counter(id(value) for _, value in module.named_parameters(remove_duplicate=False))
    found = [
        (owner, name, value) for owner in module.modules() for name, value in owner.named_parameters(recurse=False)
    ]
    for owner, name, value in found:
        if value.ndim > 1 and (isinstance(owner, nn.Embedding) or _POSITIONS.search(name)):
            value.requires_grad_(False)
        elif _pays(value, rank) and value.requires_grad and uses[id(value)] == 1:  # a shared matrix is one for all
            value.requires_grad_(False)
            parametrize.register_parametrization(owner, name, LowRank(value, rank, generator))


def composed(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and statistics under the names that they have without updates, these added; of any module.

    A matrix whose update is still zero is the original bit for bit, its negative zeros too.
    """
    state, updates = _apart(module)
    for name, weight, update in updates:
        state[name] = update(weight) if update.B.any() else weight
    return state


def changes(module: nn.Module) -> dict[str, Tensor]:
    """What training may have changed since `attach`: the updates' halves, what is trained whole, and statistics."""
    frozen = {name for name, value in module.named_parameters(remove_duplicate=False) if not value.requires_grad}
    state, updates = _apart(module)
    kept = {name: value for name, value in state.items() if name not in frozen}
    for name, _, update in updates:
        kept |= {f"{name}.{DOWN}": update.A, f"{name}.{UP}": update.B}
    return kept


def compose(base: Mapping[str, Tensor], changed: Mapping[str, Tensor], *, alpha: float) -> dict[str, Tensor]:
    """The weights of which `changed` is all that differs from the base.

    Raises:
        KeyError, RuntimeError: an update of a matrix that the base lacks, or has in another shape.
    """
    state = dict(base)
    for key, value in changed.items():
        name, _, part = key.rpartition(".")
        if part == DOWN:
            state[name] = updated(base[name], value, changed[f"{name}.{UP}"], alpha)
        elif part != UP:
            state[key] = value
    return state


def _apart(module: nn.Module) -> tuple[dict[str, Tensor], list[tuple[str, Tensor, LowRank]]]:
    """Parameters and statistics that have no update, by name; and of those that have one name, original and update."""
    state, updates = dict(module.state_dict()), []
    for path, owner in module.named_modules():
        if parametrize.is_parametrized(owner):
            for attribute, behind in owner.parametrizations.items():
                if isinstance(update := behind[0], LowRank):  # a tower may have parametrizations of its own
                    for part in ("original", "0.A", "0.B"):
                        del state[f"{path}.parametrizations.{attribute}.{part}".removeprefix(".")]
                    updates.append((f"{path}.{attribute}".removeprefix("."), behind.original, update))
    return state, updates


def _shape(weight: Tensor) -> tuple[int, int]:
    """Rows and columns of a matrix, or of a kernel seen as one."""
    return len(weight), weight[0].numel()


def _pays(value: Tensor, rank: int) -> bool:
    """Whether an update is smaller than what it updates; never of a vector."""
    if value.ndim < 2:
        return False
    rows, columns = _shape(value)
    return rank * (rows + columns) < rows * columns
