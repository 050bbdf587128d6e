"""The training loop: a base and products in, one checkpoint per epoch out."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize

from enclip.errors import DeviceError, TrainingError
from enclip.models.architecture import Preprocessing
from enclip.models.batches import Batches, HostBatch, TrainingData
from enclip.models.checkpoint import save_checkpoint
from enclip.models.clip import ClipModel
from enclip.models.device import autocast, is_out_of_memory, short_attention
from enclip.models.distributed import current, from_first, together
from enclip.models.ema import moving_average
from enclip.models.hard_negatives import picture_clusters
from enclip.models.lora import attach
from enclip.models.loss import Batch, contrastive_loss, similarities
from enclip.models.mixing import is_mixed, mix
from enclip.models.optimizer import make_optimizer
from enclip.models.pixels import Augmentation, augment, framed, normalise, prepare, to_unit
from enclip.models.progress import EpochResult, Progress, fingerprint, load_state, save_state
from enclip.models.schedule import learning_rate, peak_learning_rate
from enclip.models.texts import distinct, encode_texts
from enclip.recipes import TrainRecipe

__all__ = ["EpochResult", "Progress", "TrainingData", "fit"]

log = logging.getLogger(__name__)

MAX_GRADIENT_NORM = 1.0
MAX_LOGIT_SCALE = math.log(100)  # CLIP's bound, without which training diverges
SAMPLE = 512  # products behind the similarities of an epoch
SMALLER, SIDE_STEP, LEAST_SIDE = 0.6, 8, 32  # of the side, in steps of so many px, not below so many

Validate = Callable[[ClipModel], Mapping[str, float]]


def fit(
    model: ClipModel,
    data: TrainingData,
    recipe: TrainRecipe,
    *,
    instance: int,
    device: torch.device,
    state_dir: Path,
    validate: Validate,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[EpochResult]:
    """Fine-tune one instance; yields each epoch when its checkpoint is written, the base first.

    A training that was cut off goes on after its last finished epoch, whose results are yielded
    again, and ends with the very weights of an unbroken one: all that is random follows from seed,
    epoch and process. Under torchrun (`distributed.joined`) every process iterates and gets the same
    results; the first one validates and writes.

    With `ema`, what is validated and written is the moving average; `model` goes on with its own weights.
    With `lora_rank`, epochs after the base are written as what they change of it (`checkpoint.py`).

    Where the device has no memory for a batch, a process that trains alone goes on from the last
    finished epoch with batches half as large, and twice as many of them in a step.

    Args:
        model: the base; its weights are trained in place, or get their updates there.
        state_dir: of this instance alone: `state.pt` and `epoch-NN/`.
        validate: figures of a model in eval mode; early stopping reads `val_map_at_10` of them.

    Raises:
        TrainingError: the loss is not a number, there is nothing to train on, `state_dir` holds
            another training, low-rank updates are asked for of random weights, or smaller pictures of a tower
            that takes one side alone.
        DeviceError: the device has no memory left, not even for a batch of two products.
    """
    name = fingerprint(model, data, recipe, instance=instance)
    if recipe.lora_rank:
        if model.is_untrained:
            raise TrainingError(
                f"lora_rank={recipe.lora_rank} trains small changes of a base, and this one starts from nothing.",
                remedy="Use lora_rank=0, or a pretrained base.",
            )
        attach(model.module, recipe.lora_rank, seed=recipe.seed + instance)
    if recipe.progressive_resizing:
        _check_takes_smaller(model)
    attempt = partial(
        _fit,
        model,
        data,
        name=name,
        instance=instance,
        device=device,
        state_dir=state_dir,
        validate=validate,
        on_progress=on_progress,
    )
    last_epoch = -1
    while True:
        try:
            for result in attempt(recipe):
                if result.epoch > last_epoch:
                    last_epoch = result.epoch
                    yield result
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if current().world_size > 1 or recipe.batch_size < 4:
                raise DeviceError(
                    f"{device} has no memory left for a batch of {recipe.batch_size} at {model.side} px.",
                    remedy="Use a smaller batch_size and a larger accumulate, or a smaller base.",
                ) from error
        half = recipe.batch_size // 2
        log.warning(
            "%s has no memory for a batch of %d: instance %d goes on with %d.", device, 2 * half, instance, half
        )
        recipe = recipe.model_copy(update={"batch_size": half, "accumulate": 2 * recipe.accumulate})
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _fit(
    model: ClipModel,
    data: TrainingData,
    recipe: TrainRecipe,
    *,
    name: str,
    instance: int,
    device: torch.device,
    state_dir: Path,
    validate: Validate,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[EpochResult]:
    """One attempt of `fit`, with batches of one size."""
    ranks = current()
    seed = recipe.seed + instance
    batches = Batches(
        data,
        model.tokenize,
        batch_size=recipe.batch_size,
        seed=seed,
        ranks=ranks,
        attribute_dropout=recipe.attribute_dropout,
        hard_negatives=recipe.hard_negatives,
        by_clusters=recipe.hard_negatives_by == "cluster",
    )
    model.to(device)
    towers = Towers(model, recipe).to(device)
    optimizer = make_optimizer(towers, recipe)
    # Read here: the state of a training that began before layers had shares knows of none.
    shares = [group["share"] for group in optimizer.param_groups]
    optimizer.zero_grad(set_to_none=True)  # a batch that did not fit has left gradients behind
    peak = peak_learning_rate(recipe, model)
    steps_per_epoch = math.ceil(batches.per_epoch / recipe.accumulate)
    steps = steps_per_epoch * recipe.epochs

    results, saved = load_state(state_dir, name=name, device=device)
    together()  # or a process that starts late reads what the first one has written since
    if saved:
        towers.load_state_dict(saved["towers"])
        optimizer.load_state_dict(saved["optimizer"])
    elif towers.bias is not None and not model.is_untrained:
        _level(towers, towers.bias, batches.sample(recipe.batch_size), device)
    # What an epoch keeps is written by the first process alone.
    average = moving_average(towers, recipe.ema) if recipe.ema and ranks.first else None
    kept: Towers = average.module if average else towers  # type: ignore[assignment]
    if saved:
        if average:
            average.load_state_dict(saved["average"])
        saved.clear()  # a second copy on the device
        log.info("Instance %d resumes after epoch %d.", instance, results[-1].epoch)
    yield from results

    def finish(epoch: int, figures: dict[str, float], began: float) -> EpochResult:
        """Measure, write and remember the epoch that has just been trained."""
        result: EpochResult | None = None
        if ranks.first:
            kept.eval()
            trained = replace(kept.model, epochs_trained=model.epochs_trained + epoch)
            figures = {**_figures(kept, batches.sample(SAMPLE), recipe, device), **figures, **validate(trained)}
            folder = state_dir / f"epoch-{epoch:02d}"
            result = EpochResult(
                instance=instance,
                epoch=epoch,
                folder=folder,
                weights_sha256=save_checkpoint(
                    folder,
                    trained,
                    pixel_side=data.pixels.shape[1],
                    base=results[0].folder if recipe.lora_rank and results else None,
                ),
                metrics=figures,
                seconds=time.monotonic() - began,
            )
            tensors = {"towers": towers.state_dict(), "optimizer": optimizer.state_dict()}
            if average:
                tensors["average"] = average.state_dict()
            save_state(state_dir, name=name, results=[*results, result], tensors=tensors)
        result = from_first(result)
        results.append(result)
        return result

    if not results:
        yield finish(0, {}, time.monotonic())
    parallel = DistributedDataParallel(towers) if ranks.world_size > 1 else None

    for epoch in range(results[-1].epoch + 1, recipe.epochs + 1):
        if _has_stopped_improving(results, recipe.patience):
            log.info("Instance %d stops after epoch %d: no better for %d epochs.", instance, epoch - 1, recipe.patience)
            return
        began = time.monotonic()
        cluster_N = None
        if recipe.hard_negatives and recipe.hard_negatives_by == "cluster":
            cluster_N = from_first(
                picture_clusters(model, data.pixels, batches.rows, seed=seed, device=device) if ranks.first else None
            )
        towers.train()
        generator = _seeded(seed, epoch, ranks.rank, device)
        chance = np.random.default_rng([seed, epoch, ranks.rank, 1])  # the batches' own ends before the 1
        mixes = recipe.mix > 0 and is_mixed(epoch, recipe.epochs)
        preprocessing = model.architecture.preprocessing
        if epoch <= recipe.progressive_resizing * recipe.epochs:
            preprocessing = smaller(preprocessing)
        step = (epoch - 1) * steps_per_epoch
        rate, total_loss, num_images = 0.0, 0.0, 0
        for number, host in enumerate(batches.epoch(epoch, cluster_N)):
            first_of_step = number % recipe.accumulate == 0
            last_of_step = (number + 1) % recipe.accumulate == 0 or number + 1 == batches.per_epoch
            if first_of_step:
                rate = learning_rate(recipe, peak, step=step, steps=steps)
                for group, share in zip(optimizer.param_groups, shares, strict=True):
                    group["lr"] = rate * share
                in_step = min(recipe.accumulate, batches.per_epoch - number)
            pixels = host.pixels_BHWC.to(device, non_blocking=True)
            images_BCHW = _vary(pixels, preprocessing, recipe, generator)
            # Processes mix each by itself, but tell each other how: all of them must have a mixture or none.
            images_BCHW, mixture = mix(images_BCHW, recipe.mix, chance) if mixes else (images_BCHW, None)
            # Gradients are averaged over processes once per step.
            with nullcontext() if parallel is None or last_of_step else parallel.no_sync():
                batch, scale, bias = _encode(parallel or towers, model.module, images_BCHW, host, device)
                loss = contrastive_loss(replace(batch, mixture=mixture), scale=scale, bias=bias, kind=recipe.loss)
                (loss / in_step).backward()  # type: ignore[no-untyped-call]
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"The loss of instance {instance} became {value} in epoch {epoch}, batch {number + 1}.",
                    remedy=f"Use a learning rate below {rate:.1e}.",
                )
            total_loss += value
            num_images += len(images_BCHW) * ranks.world_size
            if last_of_step:
                nn.utils.clip_grad_norm_(towers.parameters(), MAX_GRADIENT_NORM)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                with torch.no_grad():
                    towers.log_scale.clamp_(0, MAX_LOGIT_SCALE)
                if average:
                    average.update_parameters(towers)
                step += 1
            if on_progress and ranks.first:
                speed = num_images / (time.monotonic() - began)
                on_progress(Progress(instance, epoch, step, steps, value, speed))
        figures = {
            "train_loss": total_loss / batches.per_epoch,
            "learning_rate": rate,
            "batch_size": float(recipe.batch_size),
            "images_per_s": num_images / (time.monotonic() - began),
        }
        yield finish(epoch, figures, began)


def smaller(preprocessing: Preprocessing) -> Preprocessing:
    """What early epochs of progressive resizing look at (EfficientNetV2's, arXiv 2104.00298): 0.6 of the side.

    Not below 32 px, where the last map of most towers is one pixel, and training beyond it diverges.
    """
    side = max(LEAST_SIDE, round(SMALLER * preprocessing.side / SIDE_STEP) * SIDE_STEP)
    return preprocessing.at(min(side, preprocessing.side))


def _check_takes_smaller(model: ClipModel) -> None:
    """Raises TrainingError for an image tower whose weights are for one side alone, as vision transformers' are."""
    preprocessing = smaller(model.architecture.preprocessing)
    shape = preprocessing.frame or (preprocessing.side, preprocessing.side)
    try:
        with torch.inference_mode():
            model.module.eval().encode_image(torch.zeros(1, 3, *shape, device=model.device))  # type: ignore[operator]
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(
            f"progressive_resizing needs an image tower that takes pictures of {max(shape)} px as well as of "
            f"{model.side} px, and this one does not.",
            remedy="Use progressive_resizing=0, or a base whose image tower is convolutional.",
        ) from error


class Towers(nn.Module):
    """The CLIP as the loss wants it, and the sigmoid's bias where the CLIP has none of its own."""

    def __init__(self, model: ClipModel, recipe: TrainRecipe) -> None:
        super().__init__()
        self.model = model
        self.clip = model.module
        own: nn.Parameter | None = getattr(self.clip, "logit_bias", None)
        self.bias: nn.Parameter | None = None
        if recipe.loss == "sigmoid":
            if own is None:
                self.bias = nn.Parameter(torch.tensor(-10.0))  # SigLIP's start, and so is the scale of 10
                if model.is_untrained:
                    nn.init.constant_(self.log_scale, math.log(10))
        elif own is not None:
            own.requires_grad_(False)  # the softmax ignores it, and DDP minds an unused parameter

    @property
    def log_scale(self) -> nn.Parameter:
        """Logarithm of what multiplies the cosines."""
        scale: nn.Parameter = self.clip.logit_scale  # type: ignore[assignment]
        return scale

    def forward(self, images_BCHW: Tensor, part_ULs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """`image_BD` and `text_UD` of unit norm in float32, the texts' parts one behind the other, scale and bias."""
        with parametrize.cached():  # low-rank updates are added once, not for each part of the texts
            image_BD = self.clip.encode_image(images_BCHW)  # type: ignore[operator]
            with short_attention(images_BCHW.device):
                text_UD = torch.cat([encode_texts(self.clip, token_UL) for token_UL in part_ULs])
        bias = self.bias if self.bias is not None else getattr(self.clip, "logit_bias", None)
        return _unit(image_BD), _unit(text_UD), self.log_scale.exp(), bias


def _unit(features: Tensor) -> Tensor:
    return nn.functional.normalize(features.float(), dim=-1)


def _vary(pixels_BHWC: Tensor, preprocessing: Preprocessing, recipe: TrainRecipe, generator: torch.Generator) -> Tensor:
    """uint8 canvases → augmented input of the tower, at its resolution throughout."""
    images_BCHW = framed(to_unit(pixels_BHWC), preprocessing)
    return normalise(augment(images_BCHW, Augmentation(low_quality=recipe.low_quality), generator), preprocessing)


def _encode(
    towers: nn.Module, clip: nn.Module, images_BCHW: Tensor, host: HostBatch, device: torch.device
) -> tuple[Batch, Tensor, Tensor | None]:
    """Both towers on one batch, with scale and bias; the loss is then computed in float32.

    `towers` are those around `clip`, wrapped for several processes or not.
    """
    part_ULs, text_C = distinct(clip, host.token_CL)
    with autocast(device):
        image_BD, text_UD, scale, bias = towers(images_BCHW, [part.to(device, non_blocking=True) for part in part_ULs])
    batch = Batch(
        image_BD=image_BD,
        text_CD=text_UD[text_C.to(device)],
        key_BT=host.key_BT.to(device),
        template_C=host.template_C.to(device),
        key_C=host.key_C.to(device),
    )
    return batch, scale, bias


def _level(towers: Towers, bias: nn.Parameter, host: HostBatch, device: torch.device) -> None:
    """Start the sigmoid's bias where a mean pair of a trained base has even odds.

    By SigLIP's own start the scale of a softmax, up to 100, would have nearly every pair true, and the first steps
    would tear the towers apart.
    """
    towers.eval()
    with torch.inference_mode():
        images_BCHW = prepare(host.pixels_BHWC.to(device), towers.model.architecture.preprocessing)
        batch, scale, _ = _encode(towers, towers.clip, images_BCHW, host, device)
        start = -float(scale * (batch.image_BD @ batch.text_CD.T).mean())
    nn.init.constant_(bias, start)


@torch.inference_mode()
def _figures(towers: Towers, host: HostBatch, recipe: TrainRecipe, device: torch.device) -> dict[str, float]:
    """Figures of a fixed sample in eval mode, comparable over epochs, on this process alone.

    Its loss stands in for epoch 0's, which has no training.
    """
    size = recipe.batch_size
    images_BD, texts_CD, losses = [], [], []
    for start in range(0, len(host.key_BT), size):
        part = host.rows(start, start + size)
        images_BCHW = prepare(part.pixels_BHWC.to(device), towers.model.architecture.preprocessing)
        batch, scale, bias = _encode(towers, towers.clip, images_BCHW, part, device)
        losses.append(contrastive_loss(batch, scale=scale, bias=bias, kind=recipe.loss, alone=True))
        images_BD.append(batch.image_BD)
        texts_CD.append(batch.text_CD)
    whole = Batch(
        image_BD=torch.cat(images_BD),
        text_CD=torch.cat(texts_CD),
        key_BT=host.key_BT.to(device),
        template_C=host.template_C.to(device),
        key_C=host.key_C.to(device),
    )
    matching, nonmatching = similarities(whole)
    return {
        "train_loss": float(torch.stack(losses).mean()),
        "matching_similarity": matching,
        "nonmatching_similarity": nonmatching,
        "logit_scale": float(towers.log_scale.exp()),
    }


def _seeded(seed: int, epoch: int, rank: int, device: torch.device) -> torch.Generator:
    """The device's generator of an epoch; dropout's global one is set along with it."""
    mixed = int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0] >> 1)
    torch.manual_seed(mixed)
    return torch.Generator(device=device).manual_seed(mixed)


def _has_stopped_improving(results: list[EpochResult], patience: int) -> bool:
    values = [result.metrics.get("val_map_at_10", 0.0) for result in results]
    if not any(values):  # nothing can be measured of this catalog, or nothing has been learned yet
        return False
    best = max(range(len(values)), key=lambda row: values[row])
    return patience > 0 and len(values) - 1 - best >= patience
