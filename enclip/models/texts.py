"""Tokens → text features, without the work that cannot change them.

A query of four words fills 6 of the 77 positions that a CLIP has, and captions of attributes come back
all the time: neither padding nor a second copy of a caption is sent through the tower.
"""

from typing import Any

import torch
from torch import Tensor, nn

# oneDNN keeps a program for each shape that it has met: without rounding, a training grew by 1 GB.
LENGTH_STEP, TEXTS_STEP = 8, 32


def distinct(module: nn.Module, token_CL: Tensor) -> tuple[list[Tensor], Tensor]:
    """Each text once, in parts `token_UL` by length, and `text_C` that brings the order back.

    `torch.cat(features_of_parts)[text_C]` are the features of `token_CL`. A part is cut as `without_padding` cuts
    it, so that a short caption does not wait for a long name; the last one is rounded up, by texts that `text_C`
    does not name, so that a training has few shapes. On the host, as `without_padding`.
    """
    token_UL, text_C = torch.unique(token_CL, dim=0, return_inverse=True)
    used_U = token_UL.shape[1] - token_UL.ne(0).flip(1).byte().argmax(dim=1)
    length_U = -(-used_U // LENGTH_STEP) if _ignores_padding(module) else torch.zeros_like(used_U)
    left = torch.argsort(length_U, stable=True)
    longest = length_U[left]
    parts = []
    for length in longest.unique().tolist()[:-1]:
        # The few that fill no step go along with longer ones.
        size = int((longest <= length).sum()) // TEXTS_STEP * TEXTS_STEP
        parts.append(left[:size])
        left, longest = left[size:], longest[size:]
    spare = torch.arange(-len(left) % TEXTS_STEP) % max(1, len(left))
    parts.append(torch.cat([left, left[spare]]))
    place_U = torch.empty(len(token_UL), dtype=torch.int64)
    order = torch.cat(parts)
    place_U[order.flip(0)] = torch.arange(len(order)).flip(0)  # of a text's places the first
    return [without_padding(module, token_UL[part]) for part in parts if len(part)], place_U[text_C]


def without_padding(module: nn.Module, token_BL: Tensor) -> Tensor:
    """The texts up to the end of the longest, rounded up; unchanged for a tower that reads its padding.

    On the host, before the tokens go to a device: their length is needed here.
    """
    if not _ignores_padding(module) or not len(token_BL):
        return token_BL
    is_used_L = token_BL.ne(0).any(dim=0).nonzero()
    longest = int(is_used_L.max()) + 1 if len(is_used_L) else 1
    return token_BL[:, : -(-longest // LENGTH_STEP) * LENGTH_STEP]


def encode_texts(module: nn.Module, token_BL: Tensor) -> Tensor:
    """`feature_BD` as `module.encode_text` has it, for texts cut by `without_padding` too."""
    tower: Any = module
    features: Tensor
    if not _ignores_padding(module) or token_BL.shape[1] == len(tower.positional_embedding):
        features = tower.encode_text(token_BL)
        return features
    # open_clip's own tower takes full length only; the steps are those of CLIP.encode_text.
    from open_clip.transformer import text_global_pool

    length = token_BL.shape[1]
    x_BLD = tower.token_embedding(token_BL) + tower.positional_embedding[:length]
    x_BLD = tower.transformer(x_BLD, attn_mask=tower.attn_mask[:length, :length])
    features = text_global_pool(tower.ln_final(x_BLD), token_BL, tower.text_pool_type, eos_token_id=tower.text_eos_id)
    projection = tower.text_projection
    if isinstance(projection, nn.Linear):
        features = projection(features)
    elif projection is not None:
        features = features @ projection
    return features


def _ignores_padding(module: nn.Module) -> bool:
    """A causal tower that pools at the end of the text: no position before it sees what comes after."""
    from open_clip.model import CLIP

    return isinstance(module, CLIP) and module.attn_mask is not None and module.text_pool_type in ("argmax", "eos")
