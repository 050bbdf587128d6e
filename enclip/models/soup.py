"""Several checkpoints → one, by averaging their weights (model soups, Wortsman et al., arXiv 2203.05482)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from enclip.errors import WeightsError
from enclip.models.architecture import build_module, build_tokenizer
from enclip.models.checkpoint import Card, fill, read_card, read_weights
from enclip.models.clip import ClipModel
from enclip.models.device import autocast
from enclip.models.pixels import prepare

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def average_checkpoints(
    folders: Sequence[Path],
    *,
    pixels: NDArray[np.uint8],
    device: torch.device,
    weights: Sequence[float] | None = None,
) -> ClipModel:
    """The weighted mean of checkpoints, in eval mode; uniform without weights.

    Args:
        pixels: uint8 `[N, S, S, 3]` of training products: BatchNorm statistics of a mean network are
            not the mean of the statistics, so they are estimated again from these.

    Raises:
        WeightsError: checkpoints of different initialisations or architectures, weights that do not
            match, or a damaged checkpoint.
    """
    shares = list(weights) if weights is not None else [1.0] * len(folders)
    if not folders or len(shares) != len(folders) or min(shares) < 0 or sum(shares) <= 0:
        raise WeightsError(f"{len(folders)} checkpoints cannot be averaged with weights {shares}.")
    cards = [read_card(folder) for folder in folders]
    for folder, card in zip(folders, cards, strict=True):
        if card.init_id != cards[0].init_id or card.architecture != cards[0].architecture:
            raise WeightsError(
                f"{folder} has initialisation {card.init_id}, {folders[0]} has {cards[0].init_id}: "
                "their weights cannot be averaged.",
                remedy="Average checkpoints of one instance, or of instances with the same pretrained base.",
            )
    module = build_module(cards[0].architecture)
    mean = _mean_state(folders, cards, [share / sum(shares) for share in shares])
    fill(module, mean, where=folders[0])
    model = ClipModel(
        module=module,
        tokenize=build_tokenizer(cards[0].architecture.tokenizer),
        architecture=cards[0].architecture,
        init_id=cards[0].init_id,
        from_scratch=cards[0].from_scratch,
        epochs_trained=max(card.epochs_trained for card in cards),
    ).to(device)
    estimate_batch_norm(model, pixels, device)
    return model


def _mean_state(folders: Sequence[Path], cards: Sequence[Card], shares: Sequence[float]) -> dict[str, Tensor]:
    """Summed in float64, one checkpoint in memory at a time; integer buffers are the first one's."""
    state = read_weights(folders[0], cards[0])
    kept = {name: value for name, value in state.items() if not value.is_floating_point()}
    total = {name: value.double() * shares[0] for name, value in state.items() if value.is_floating_point()}
    kinds = {name: value.dtype for name, value in state.items()}
    for folder, card, share in zip(folders[1:], cards[1:], shares[1:], strict=True):
        for name, value in read_weights(folder, card).items():
            if name in total:
                total[name] += value.double() * share
    return {**kept, **{name: value.to(kinds[name]) for name, value in total.items()}}


@torch.no_grad()
def estimate_batch_norm(model: ClipModel, pixels: NDArray[np.uint8], device: torch.device, *, batch: int = 256) -> None:
    """Set the BatchNorm statistics of the image tower to those of these pictures, in place.

    Batches are drawn: neighbours are often of one kind, and what differs between batches would be lost. All batches
    count the same, so pictures beyond the last full batch are left out where there is a full one.
    """
    layers = [layer for layer in model.module.modules() if isinstance(layer, _BATCH_NORMS)]
    if not layers or len(pixels) < 2:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
        layer.train()
    size = min(batch, len(pixels))
    drawn = np.random.default_rng(0).permutation(len(pixels))
    for start in range(0, len(pixels) - size + 1, size):
        part = torch.from_numpy(np.array(pixels[np.sort(drawn[start : start + size])])).to(device)
        with autocast(device):
            model.module.encode_image(prepare(part, model.architecture.preprocessing))  # type: ignore[operator]
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.module.eval()
