"""What test_loss.py starts twice: one of two ranks, each with half of the same batch."""

import sys

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from enclip.models.loss import Batch, contrastive_loss
from enclip.models.mixing import Mixture


def make_batch(
    size: int, captions: int, *, seed: int, values: int = 3, dim: int = 6, mixture: Mixture | None = None
) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    key_BT = torch.randint(0, values, (size, 4), generator=generator)
    template_C = torch.randint(0, 4, (size * captions,), generator=generator)
    return Batch(
        image_BD=functional.normalize(torch.randn(size, dim, generator=generator), dim=1),
        text_CD=functional.normalize(torch.randn(size * captions, dim, generator=generator), dim=1),
        key_BT=key_BT,
        template_C=template_C,
        key_C=key_BT.repeat_interleave(captions, 0)[torch.arange(size * captions), template_C],
        mixture=mixture,
    )


def make_mixture() -> Mixture:
    """Of eight products, whose partners are of the same four: a process mixes its own pictures alone."""
    return Mixture(
        partner_B=torch.tensor([1, 0, 3, 2, 5, 6, 7, 4]),
        share_B=torch.tensor([0.7, 0.7, 0.7, 0.7, 1.0, 0.2, 0.2, 0.2]),
    )


def loss_and_gradients(batch: Batch, kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    image_BD, text_CD = batch.image_BD.requires_grad_(), batch.text_CD.requires_grad_()
    scale = torch.tensor(5.0, requires_grad=True)
    loss = contrastive_loss(batch, scale=scale, bias=torch.tensor(-1.0), kind=kind)
    loss.backward()
    return loss.detach(), {"image": image_BD.grad, "text": text_CD.grad, "scale": scale.grad}


def main(folder: str, rank: int, kind: str, pictures: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    whole = make_batch(8, 2, seed=3)
    own, captions = slice(rank * 4, rank * 4 + 4), slice(rank * 8, rank * 8 + 8)
    mixture = make_mixture()
    part = Batch(
        image_BD=whole.image_BD[own].clone(),
        text_CD=whole.text_CD[captions].clone(),
        key_BT=whole.key_BT[own],
        template_C=whole.template_C[captions],
        key_C=whole.key_C[captions],
        mixture=Mixture(mixture.partner_B[own] - 4 * rank, mixture.share_B[own]) if pictures == "mixed" else None,
    )
    loss, gradients = loss_and_gradients(part, kind)
    alone = contrastive_loss(part, scale=torch.tensor(5.0), bias=torch.tensor(-1.0), kind=kind, alone=True)
    assert not torch.allclose(alone, loss)
    torch.save({"loss": loss, **gradients}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
