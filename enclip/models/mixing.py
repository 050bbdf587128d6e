"""Pictures mixed in pairs, and what is then true of them: mixup and CutMix for contrastive batches.

mixup: Zhang et al., arXiv 1710.09412. CutMix: Yun et al., arXiv 1905.04899.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

UNTIL = 0.85  # of the epochs: what is searched is not mixed
CONCENTRATION = 0.6  # of the beta distribution of shares: mostly near 0 or 1, with a middle


@dataclass(frozen=True, slots=True)
class Mixture:
    """What B pictures are made of: `share_B` of the own product, and the rest of product `partner_B`.

    Every product is a partner once.
    """

    partner_B: Tensor
    share_B: Tensor


def is_mixed(epoch: int, epochs: int) -> bool:
    """Whether an epoch, the first being 1, is one of those that mix."""
    return epoch <= UNTIL * epochs


def mix(image_BCHW: Tensor, share: float, random: np.random.Generator) -> tuple[Tensor, Mixture]:
    """With a chance of `share` the batch mixed, by mixup or CutMix, half and half; otherwise as it is."""
    size, device = len(image_BCHW), image_BCHW.device
    if random.random() >= share:
        return image_BCHW, Mixture(torch.arange(size, device=device), torch.ones(size, device=device))
    own = float(random.beta(CONCENTRATION, CONCENTRATION))
    partner_B = torch.from_numpy(random.permutation(size)).to(device)
    if random.random() < 0.5:
        result = torch.lerp(image_BCHW[partner_B], image_BCHW, own)
    else:
        height, width = image_BCHW.shape[-2:]
        top, bottom = _side(height, own, random)
        left, right = _side(width, own, random)
        result = image_BCHW.clone()
        result[:, :, top:bottom, left:right] = image_BCHW[partner_B, :, top:bottom, left:right]
        own = 1 - (bottom - top) * (right - left) / (height * width)  # the box may reach beyond the picture
    return result, Mixture(partner_B, torch.full((size,), own, device=device))


def mixed(target_BC: Tensor, mixture: Mixture | None) -> Tensor:
    """How true each caption is of the mixed pictures; the target itself where nothing was mixed."""
    if mixture is None:
        return target_BC
    return torch.lerp(target_BC[mixture.partner_B], target_BC, mixture.share_B[:, None])


def _side(length: int, own: float, random: np.random.Generator) -> tuple[int, int]:
    """From where to where the partner's box goes: centred anywhere, its area 1 - own of the picture's."""
    half = length * (1 - own) ** 0.5 / 2
    centre = random.uniform(0, length)
    return max(0, round(centre - half)), min(length, round(centre + half))
