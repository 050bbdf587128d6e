"""Which weights are decayed, and how quickly each layer learns."""

import re
from typing import Any

import torch
from torch import nn

from enclip.recipes import TrainRecipe

BETAS = (0.9, 0.98)  # CLIP's: the second moment follows the loss more quickly than Adam's default

# How open_clip, timm and Hugging Face number their blocks: resblocks.3, layer2.0, stages.1.blocks.0, layers.7.
_BLOCK = re.compile(r"(?:^|\.)(?:resblocks|blocks|block|stages|layers|layer)\.?(\d+)(?:\.(?:blocks\.)?(\d+))?(?=\.)")
_HEAD = re.compile(r"attn_?pool|head|proj$|projection")
_STEM = re.compile(r"embed|token|stem|cls_|ln_pre|norm_pre|(?:^|\.)(?:conv|bn)\d")


def make_optimizer(towers: nn.Module, recipe: TrainRecipe) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels alone, as CLIP has it.

    Both halves of a low-rank update are matrices: their decay pulls back to the base, not to zero. Each group's
    `share` is its part of the learning rate.
    """
    shares = layer_shares(towers, recipe.layer_decay)
    trained = [(shares[name], value) for name, value in towers.named_parameters() if value.requires_grad]
    groups: list[dict[str, Any]] = []
    for share in sorted({share for share, _ in trained}, reverse=True):
        here = [value for own, value in trained if own == share]
        matrices, others = [value for value in here if value.ndim >= 2], [value for value in here if value.ndim < 2]
        groups.append({"params": matrices, "weight_decay": recipe.weight_decay, "share": share})
        groups.append({"params": others, "weight_decay": 0.0, "share": share})
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=1e-6, fused=True)


def layer_shares(towers: nn.Module, decay: float) -> dict[str, float]:
    """Name of each parameter → its part of the learning rate: `decay` to the power of the blocks above, its own too.

    The head of a tower has 1, what lies below its blocks that of one more block. As BEiT is fine-tuned (Bao et
    al., arXiv 2106.08254); each tower is counted by itself.
    """
    names = [name for name, _ in towers.named_parameters()]
    blocks = {name: _block(name) for name in names}
    ladders = {
        is_image: sorted({block for name in names if _is_image(name) == is_image and (block := blocks[name])})
        for is_image in (True, False)
    }

    def blocks_above(name: str) -> int:
        ladder, block = ladders[_is_image(name)], blocks[name]
        if block:
            return len(ladder) - ladder.index(block)
        return len(ladder) + 1 if _STEM.search(name) and not _HEAD.search(name) else 0

    return {name: decay ** blocks_above(name) for name in names}


def _is_image(name: str) -> bool:
    return "visual." in name


def _block(name: str) -> tuple[int, int] | None:
    """A block's stage and number, or its number and 0; those of a hybrid tower's stem do not count."""
    found = None if "patch_embed." in name else _BLOCK.search(name)
    return (int(found[1]), int(found[2] or 0)) if found else None
