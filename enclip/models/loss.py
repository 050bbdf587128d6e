"""Contrastive losses with shared targets: 1 wherever a caption is true of a product, across ranks too.

softmax: cross-entropy of each row and each column against the uniform distribution over what is true,
as in UniCL (Yang et al., arXiv 2204.03610); with one true caption per product it is CLIP's loss.
sigmoid: log-sigmoid of every pair, as in SigLIP (Zhai et al., arXiv 2303.15343).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from enclip.models.mixing import Mixture, mixed


@dataclass(frozen=True, slots=True)
class Batch:
    """Embeddings of B products and their C captions, with what is true.

    `image_BD` and `text_CD` are of unit norm. `key_BT` holds the products' keys by template, and
    caption c is true of product b where `key_BT[b, template_C[c]] == key_C[c]`. Of a mixed picture it is
    as true as the products that it is true of have a share in it.
    """

    image_BD: Tensor
    text_CD: Tensor
    key_BT: Tensor
    template_C: Tensor
    key_C: Tensor
    mixture: Mixture | None = None


def contrastive_loss(
    batch: Batch,
    *,
    scale: Tensor,
    bias: Tensor | None,
    kind: Literal["softmax", "sigmoid"],
    alone: bool = False,
) -> Tensor:
    """Mean loss of this rank's products and captions against those of all ranks.

    The mean over ranks equals the loss of the union as one batch, and so do the gradients that DDP
    averages, as long as ranks hold equally many.

    Args:
        scale: multiplies the cosines. bias: is added to them (sigmoid only).
        alone: leave the other ranks out of it.
    """
    everyone = batch if alone or _world_size() == 1 else gathered(batch)
    texts, templates, keys = everyone.text_CD, everyone.template_C, everyone.key_C
    true_here = target(batch.key_BT, templates, keys)  # [B, all C]
    logits_here = scale * batch.image_BD @ texts.T
    if kind == "sigmoid":
        likely = mixed(true_here, batch.mixture)
        logits = logits_here if bias is None else logits_here + bias
        losses = likely * functional.logsigmoid(logits) + (1 - likely) * functional.logsigmoid(-logits)
        return -losses.sum(dim=1).mean()
    # Each product's captions share its part of the picture, however many it has.
    goal_here = mixed(_distribution(true_here), batch.mixture)
    true_captions = mixed(target(everyone.key_BT, batch.template_C, batch.key_C), everyone.mixture).T  # [C, all B]
    logits_captions = scale * batch.text_CD @ everyone.image_BD.T
    to_captions = functional.cross_entropy(logits_here, goal_here)
    to_products = functional.cross_entropy(logits_captions, _distribution(true_captions))
    return (to_captions + to_products) / 2


def target(key_BT: Tensor, template_C: Tensor, key_C: Tensor) -> Tensor:
    """`target_BC`, float: 1 where caption c is true of product b. The twin of `captions.truth`."""
    return (key_BT[:, template_C] == key_C[None, :]).float()


def similarities(batch: Batch) -> tuple[float, float]:
    """Mean cosine of the pairs that are true, and of those that are not; NaN where there are none."""
    true = target(batch.key_BT, batch.template_C, batch.key_C).bool()
    cosine_BC = batch.image_BD @ batch.text_CD.T
    return float(cosine_BC[true].mean()), float(cosine_BC[~true].mean())


def _distribution(true: Tensor) -> Tensor:
    """Rows that sum to 1."""
    return true / true.sum(dim=1, keepdim=True)


def gathered(batch: Batch) -> Batch:
    """The batch of all ranks, in rank order, with gradients to each rank's own embeddings."""
    return Batch(
        image_BD=_Gather.apply(batch.image_BD),
        text_CD=_Gather.apply(batch.text_CD),
        key_BT=_all_gather(batch.key_BT),
        template_C=_all_gather(batch.template_C),
        key_C=_all_gather(batch.key_C),
        mixture=None if batch.mixture is None else _gathered_mixture(batch.mixture),
    )


def _gathered_mixture(mixture: Mixture) -> Mixture:
    """Partners by their place in the batch of all ranks."""
    size = len(mixture.partner_B)
    first_B = torch.arange(_world_size(), device=mixture.partner_B.device).repeat_interleave(size) * size
    return Mixture(partner_B=_all_gather(mixture.partner_B) + first_B, share_B=_all_gather(mixture.share_B))


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _all_gather(tensor: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor) for _ in range(_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """all_gather with a gradient; torch's own is deprecated, its successor private."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        return _all_gather(tensor)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(_world_size())[dist.get_rank()]
