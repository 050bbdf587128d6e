import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from enclip.models.loss import Batch, contrastive_loss, similarities, target
from enclip.models.mixing import Mixture

from .loss_in_ranks import loss_and_gradients, make_batch, make_mixture


def _slow_softmax(batch: Batch, scale: float) -> float:
    """By the definition, pair by pair."""
    logits = scale * batch.image_BD.double().numpy() @ batch.text_CD.double().numpy().T
    true = target(batch.key_BT, batch.template_C, batch.key_C).numpy()

    def half(logits: np.ndarray, true: np.ndarray) -> float:
        losses = []
        for row in range(len(logits)):
            total = np.log(np.exp(logits[row]).sum())
            positives = np.flatnonzero(true[row])
            losses.append(np.mean([total - logits[row, column] for column in positives]))
        return float(np.mean(losses))

    return (half(logits, true) + half(logits.T, true.T)) / 2


def _slow_sigmoid(batch: Batch, scale: float, bias: float) -> float:
    logits = scale * batch.image_BD.double().numpy() @ batch.text_CD.double().numpy().T + bias
    true = target(batch.key_BT, batch.template_C, batch.key_C).numpy()
    total = 0.0
    for row in range(len(logits)):
        for column in range(logits.shape[1]):
            sign = 1 if true[row, column] else -1
            total += np.log1p(np.exp(-sign * logits[row, column]))
    return total / len(logits)


@given(st.integers(2, 8), st.integers(1, 2), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_both_losses_equal_their_definition(size: int, captions: int, seed: int):
    batch = make_batch(size, captions, seed=seed)
    scale, bias = torch.tensor(7.0), torch.tensor(-2.0)
    softmax = contrastive_loss(batch, scale=scale, bias=bias, kind="softmax")
    assert float(softmax) == pytest.approx(_slow_softmax(batch, 7.0), rel=1e-4)
    sigmoid = contrastive_loss(batch, scale=scale, bias=bias, kind="sigmoid")
    assert float(sigmoid) == pytest.approx(_slow_sigmoid(batch, 7.0, -2.0), rel=1e-4)


def test_with_one_true_caption_each_softmax_is_clips_loss():
    from open_clip.loss import ClipLoss

    batch = _distinct(make_batch(6, 1, seed=1))
    scale = torch.tensor(10.0)
    ours = contrastive_loss(batch, scale=scale, bias=None, kind="softmax")
    theirs = ClipLoss()(batch.image_BD, batch.text_CD, scale)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_with_one_true_caption_each_sigmoid_is_siglips_loss():
    from open_clip.loss import SigLipLoss

    batch = _distinct(make_batch(6, 1, seed=1))
    scale, bias = torch.tensor(10.0), torch.tensor(-10.0)
    ours = contrastive_loss(batch, scale=scale, bias=bias, kind="sigmoid")
    theirs = SigLipLoss()(batch.image_BD, batch.text_CD, scale, bias)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_a_true_caption_of_another_product_is_no_negative():
    """Two products that share every claim: pulling both together must not cost anything."""
    image_BD = functional.normalize(torch.ones(2, 4), dim=1)
    shared = Batch(
        image_BD=image_BD,
        text_CD=image_BD,
        key_BT=torch.tensor([[5], [5]]),
        template_C=torch.tensor([0, 0]),
        key_C=torch.tensor([5, 5]),
    )
    distinct = Batch(
        image_BD=image_BD,
        text_CD=image_BD,
        key_BT=torch.tensor([[5], [6]]),
        template_C=torch.tensor([0, 0]),
        key_C=torch.tensor([5, 6]),
    )
    scale, bias = torch.tensor(20.0, requires_grad=True), torch.tensor(0.0)
    for kind in ("softmax", "sigmoid"):
        assert (
            contrastive_loss(shared, scale=scale, bias=bias, kind=kind)
            < contrastive_loss(distinct, scale=scale, bias=bias, kind=kind)
            or kind == "softmax"
        )
    # In the softmax form the uniform distribution over both is the optimum: no gradient is left.
    (slope,) = torch.autograd.grad(contrastive_loss(shared, scale=scale, bias=None, kind="softmax"), scale)
    assert float(slope) == pytest.approx(0, abs=1e-6)


def test_a_caption_is_true_of_the_products_with_its_key():
    batch = make_batch(7, 2, seed=4)
    expected = batch.key_BT.numpy()[:, batch.template_C.numpy()] == batch.key_C.numpy()[None, :]
    assert np.array_equal(target(batch.key_BT, batch.template_C, batch.key_C).numpy(), expected)


def test_similarities_are_means_over_true_and_untrue_pairs():
    batch = make_batch(5, 2, seed=2)
    cosine = (batch.image_BD @ batch.text_CD.T).numpy()
    true = target(batch.key_BT, batch.template_C, batch.key_C).numpy().astype(bool)
    assert similarities(batch) == pytest.approx((cosine[true].mean(), cosine[~true].mean()), abs=1e-6)


@given(st.integers(2, 8), st.integers(1, 2), st.integers(0, 99), st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_both_losses_of_mixed_pictures_equal_their_definition(size: int, captions: int, seed: int, own: float):
    batch, order = make_batch(size, captions, seed=seed), torch.randperm(size)
    batch = replace(batch, mixture=Mixture(order, torch.full((size,), own)))
    logits = 7.0 * batch.image_BD.double() @ batch.text_CD.double().T
    true = target(batch.key_BT, batch.template_C, batch.key_C).double()

    fair = true / true.sum(dim=1, keepdim=True)
    to_captions = own * fair + (1 - own) * fair[order]
    to_products = (own * true + (1 - own) * true[order]).T
    to_products = to_products / to_products.sum(dim=1, keepdim=True)
    halves = [
        -(goal * torch.log_softmax(rows, dim=1)).sum(dim=1).mean()
        for goal, rows in ((to_captions, logits), (to_products, logits.T))
    ]
    softmax = contrastive_loss(batch, scale=torch.tensor(7.0), bias=None, kind="softmax")
    assert float(softmax) == pytest.approx(float(sum(halves) / 2), rel=1e-4)

    likely = own * true + (1 - own) * true[order]
    entropy = functional.binary_cross_entropy_with_logits(logits - 2, likely, reduction="none").sum(dim=1).mean()
    sigmoid = contrastive_loss(batch, scale=torch.tensor(7.0), bias=torch.tensor(-2.0), kind="sigmoid")
    assert float(sigmoid) == pytest.approx(float(entropy), rel=1e-4)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("pictures", ["whole", "mixed"])
def test_two_processes_compute_the_loss_and_the_gradients_of_one(tmp_path: Path, kind: str, pictures: str):
    whole = make_batch(8, 2, seed=3, mixture=make_mixture() if pictures == "mixed" else None)
    loss, gradients = loss_and_gradients(whole, kind)
    script = Path(__file__).parent / "loss_in_ranks.py"
    workers = [subprocess.Popen([sys.executable, script, tmp_path, str(rank), kind, pictures]) for rank in range(2)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert float(torch.stack([part["loss"] for part in parts]).mean()) == pytest.approx(float(loss), rel=1e-5)
    for name in ("image", "text"):
        # DDP averages over ranks, so each rank's own rows carry world_size times their share.
        ours = torch.cat([part[name] for part in parts]) / 2
        torch.testing.assert_close(ours, gradients[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        torch.stack([part["scale"] for part in parts]).mean(), gradients["scale"], rtol=1e-4, atol=1e-6
    )


def _distinct(batch: Batch) -> Batch:
    size = len(batch.image_BD)
    return Batch(
        image_BD=batch.image_BD,
        text_CD=batch.text_CD,
        key_BT=torch.arange(size)[:, None],
        template_C=torch.zeros(size, dtype=torch.int64),
        key_C=torch.arange(size),
    )
