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


@dataclass(frozen=True, slots=True)
class Batch:
    """Embeddings of B products and their C captions, with what is true.

    `image_BD` and `text_CD` are of unit norm. `key_BT` holds the products' keys by template, and
    caption c is true of product b where `key_BT[b, template_C[c]] == key_C[c]`.
    """

    image_BD: Tensor
    text_CD: Tensor
    key_BT: Tensor
    template_C: Tensor
    key_C: Tensor


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
        signs = true_here * 2 - 1
        logits = logits_here if bias is None else logits_here + bias
        return -functional.logsigmoid(signs * logits).sum(dim=1).mean()
    true_captions = target(everyone.key_BT, batch.template_C, batch.key_C).T  # [C, all B]
    logits_captions = scale * batch.text_CD @ everyone.image_BD.T
    return (_soft_cross_entropy(logits_here, true_here) + _soft_cross_entropy(logits_captions, true_captions)) / 2


def target(key_BT: Tensor, template_C: Tensor, key_C: Tensor) -> Tensor:
    """`target_BC`, float: 1 where caption c is true of product b. The twin of `captions.truth`."""
    return (key_BT[:, template_C] == key_C[None, :]).float()


def similarities(batch: Batch) -> tuple[float, float]:
    """Mean cosine of the pairs that are true, and of those that are not; NaN where there are none."""
    true = target(batch.key_BT, batch.template_C, batch.key_C).bool()
    cosine_BC = batch.image_BD @ batch.text_CD.T
    return float(cosine_BC[true].mean()), float(cosine_BC[~true].mean())


def _soft_cross_entropy(logits: Tensor, true: Tensor) -> Tensor:
    return functional.cross_entropy(logits, true / true.sum(dim=1, keepdim=True))


def gathered(batch: Batch) -> Batch:
    """The batch of all ranks, in rank order, with gradients to each rank's own embeddings."""
    return Batch(
        image_BD=_Gather.apply(batch.image_BD),
        text_CD=_Gather.apply(batch.text_CD),
        key_BT=_all_gather(batch.key_BT),
        template_C=_all_gather(batch.template_C),
        key_C=_all_gather(batch.key_C),
    )


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
