import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from enclip.errors import DeviceError, TrainingError
from enclip.models import training
from enclip.models.bases import load_base
from enclip.models.checkpoint import WEIGHTS, digest_of, load_checkpoint, read_card
from enclip.models.clip import ClipEncoder, ClipModel
from enclip.models.loss import Batch, contrastive_loss
from enclip.models.mixing import Mixture
from enclip.models.progress import fingerprint
from enclip.models.training import EpochResult, Progress, TrainingData, fit
from enclip.recipes import ADDED_LATER, TrainRecipe

from .small_models import CPU, SMALL, TRANSFORMER, draw_shapes, epochs_trained, small_clip

RECIPE = TrainRecipe(epochs=2, batch_size=24, device="cpu")


def _accuracy(data: TrainingData, model: ClipModel) -> float:
    """Share of products whose "Colour Type" is nearest to their picture."""
    texts = [
        f"{colour} {kind}" for colour, kind in zip(data.products.base_colour, data.products.article_type, strict=True)
    ]
    choices = sorted(set(texts))
    encoder = ClipEncoder(model)
    nearest = np.argmax(encoder.encode_images(data.pixels) @ encoder.encode_texts(choices).T, axis=1)
    return float(np.mean([choices[row] == text for row, text in zip(nearest, texts, strict=True)]))


def _fit(
    data: TrainingData,
    state_dir: Path,
    recipe: TrainRecipe = RECIPE,
    *,
    instance: int = 0,
    model: ClipModel | None = None,
    scores: Mapping[int, float] | None = None,
    stop_after: int = 99,
    progress: list[Progress] | None = None,
) -> list[EpochResult]:
    calls = iter(range(99))

    def validate(model: ClipModel) -> Mapping[str, float]:
        assert not model.module.training
        return {"val_map_at_10": (scores or {}).get(next(calls), 0.0)}

    return epochs_trained(
        model or small_clip(recipe.seed + instance),
        data,
        recipe,
        state_dir,
        instance=instance,
        validate=validate,
        stop_after=stop_after,
        on_progress=None if progress is None else progress.append,
    )


def test_it_learns_colours_and_shapes_of_products_that_it_has_not_seen(tmp_path: Path):
    data, unseen = draw_shapes(192), draw_shapes(300)
    unseen = TrainingData(unseen.products, unseen.pixels, np.arange(192, 300))
    held_out = TrainingData(unseen.products.take(unseen.rows), unseen.pixels[unseen.rows], np.arange(len(unseen.rows)))
    recipe = TrainRecipe(epochs=8, batch_size=24, learning_rate=3e-3, low_quality=0.0)
    results = _fit(data, tmp_path, recipe)
    assert [result.epoch for result in results] == list(range(9))
    before = _accuracy(held_out, load_checkpoint(results[0].folder, device=CPU))
    after = _accuracy(held_out, load_checkpoint(results[-1].folder, device=CPU))
    assert before < 0.3  # a twelfth by chance
    assert after > 0.8
    assert results[-1].metrics["train_loss"] < results[1].metrics["train_loss"]
    gap = [result.metrics["matching_similarity"] - result.metrics["nonmatching_similarity"] for result in results]
    assert gap[-1] > gap[0] + 0.3


def test_each_epoch_is_a_checkpoint_with_its_figures_and_the_first_is_the_base(shapes: TrainingData, tmp_path: Path):
    base = small_clip()
    texts = ["red bars"]
    untouched = ClipEncoder(small_clip()).encode_texts(texts)
    results = _fit(shapes, tmp_path, model=base)
    np.testing.assert_allclose(
        ClipEncoder(load_checkpoint(results[0].folder, device=CPU)).encode_texts(texts), untouched, atol=1e-6
    )
    for result in results:
        card = read_card(result.folder)
        assert card.weights_sha256 == result.weights_sha256
        assert card.init_id == base.init_id
        assert card.epochs_trained == result.epoch
        assert card.pixel_side == shapes.pixels.shape[1]
        assert {"train_loss", "matching_similarity", "nonmatching_similarity", "logit_scale", "val_map_at_10"} <= set(
            result.metrics
        )
        assert all(np.isfinite(value) for value in result.metrics.values())
    assert len({result.weights_sha256 for result in results}) == 3
    assert "images_per_s" in results[1].metrics


def test_the_sigmoid_goes_on_from_what_a_softmax_has_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A CLIP's scale is near 100: with SigLIP's bias of -10 nearly every wrong pair would begin as true."""
    data = draw_shapes(96)
    learnt = _fit(data, tmp_path / "softmax", RECIPE.model_copy(update={"epochs": 12}))[-1].folder
    recipe = RECIPE.model_copy(update={"loss": "sigmoid", "epochs": 1, "learning_rate": 1e-3})

    def trained(folder: Path) -> tuple[float, float]:
        """Its loss before the first epoch, and what it knows after it."""
        model = load_checkpoint(learnt, device=CPU)
        torch.nn.init.constant_(model.module.logit_scale, float(np.log(90)))
        before, after = _fit(data, folder, recipe, model=model)
        return before.metrics["train_loss"], _accuracy(data, load_checkpoint(after.folder, device=CPU))

    loss, knows = trained(tmp_path / "level")
    assert knows > 0.8 and loss < 350
    monkeypatch.setattr(training, "_level", lambda *_: None)
    loss_of_siglips, knew = trained(tmp_path / "siglip")
    assert loss < 0.8 * loss_of_siglips and knows >= knew


@pytest.mark.parametrize(
    "technique",
    [
        {"loss": "softmax"},
        {"loss": "sigmoid"},
        {"ema": 0.9},
        {"mix": 0.7},
        {"mix": 1.0, "loss": "sigmoid"},
        {"attribute_dropout": 0.5},
        {"hard_negatives": 0.5},
        {"hard_negatives": 0.5, "hard_negatives_by": "cluster"},
        {"layer_decay": 0.6},
    ],
    ids=str,
)
def test_a_resumed_training_ends_with_the_weights_of_an_unbroken_one(
    shapes: TrainingData, tmp_path: Path, technique: Mapping[str, object]
):
    recipe = RECIPE.model_copy(update={"epochs": 3, "accumulate": 2, **technique})
    unbroken = _fit(shapes, tmp_path / "a", recipe)
    cut = _fit(shapes, tmp_path / "b", recipe, stop_after=1)
    resumed = _fit(shapes, tmp_path / "b", recipe)
    assert [result.epoch for result in cut] == [0, 1]
    assert [result.epoch for result in resumed] == [0, 1, 2, 3]
    assert [result.weights_sha256 for result in resumed] == [result.weights_sha256 for result in unbroken]
    assert resumed[1].metrics == cut[1].metrics


@pytest.mark.parametrize(
    "technique",
    [
        {"ema": 0.9},
        {"mix": 1.0},
        {"attribute_dropout": 0.5},
        {"hard_negatives": 1.0},
        {"hard_negatives": 1.0, "hard_negatives_by": "cluster"},
        {"layer_decay": 0.6},
    ],
    ids=str,
)
def test_a_technique_changes_what_is_trained(shapes: TrainingData, tmp_path: Path, technique: Mapping[str, object]):
    plain = _fit(shapes, tmp_path / "plain", stop_after=1)
    changed = _fit(shapes, tmp_path / "changed", RECIPE.model_copy(update=technique), stop_after=1)
    assert plain[0].weights_sha256 == changed[0].weights_sha256
    assert plain[1].weights_sha256 != changed[1].weights_sha256


def test_the_targets_are_mixed_as_the_pictures_are_but_not_in_the_last_epochs(
    shapes: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Pictures of one colour each: their means, as the tower sees them, follow from the mixture of the loss."""
    shown: list[torch.Tensor] = []
    mixtures: list[Mixture | None] = []

    def watched(batch: Batch, **more: object) -> torch.Tensor:
        mixtures.append(batch.mixture)
        return contrastive_loss(batch, **more)

    def plain(images: torch.Tensor, *_: object) -> torch.Tensor:
        """In augmentation's place: picture b is b throughout."""
        return torch.arange(len(images)).view(-1, 1, 1, 1).expand_as(images) / len(images)

    clip = small_clip()
    clip.module.visual.register_forward_pre_hook(lambda module, given: shown.append(given[0].mean(dim=(1, 2, 3))))
    monkeypatch.setattr(training, "contrastive_loss", watched)
    monkeypatch.setattr(training, "augment", plain)
    _fit(shapes, tmp_path, RECIPE.model_copy(update={"mix": 1.0}), model=clip)
    mixed = [(means, mixture) for means, mixture in zip(shown, mixtures, strict=True) if mixture is not None]
    assert len(mixed) == 4, "the first of two epochs"
    value = (torch.arange(24) / 24 - 0.5) / 0.5
    for means, mixture in mixed:
        expected = mixture.share_B * value + (1 - mixture.share_B) * value[mixture.partner_B]
        torch.testing.assert_close(means, expected, atol=1e-4, rtol=1e-4)


def test_early_epochs_see_smaller_pictures_and_all_are_measured_on_whole_ones(shapes: TrainingData, tmp_path: Path):
    wide = SMALL.model_copy(update={"preprocessing": SMALL.preprocessing.at(64)})
    recipe = RECIPE.model_copy(update={"epochs": 3, "progressive_resizing": 0.7})
    learnt: list[int] = []
    measured: list[int] = []

    def note(module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        (learnt if module.training else measured).append(given[0].shape[-1])

    clip = small_clip(architecture=wide)
    clip.module.visual.register_forward_pre_hook(note)
    unbroken = _fit(shapes, tmp_path / "a", recipe, model=clip)
    assert learnt == [40] * 8 + [64] * 4
    assert set(measured[1:]) == {64}, "but for a look at whether the tower takes smaller ones"
    assert read_card(unbroken[-1].folder).architecture == wide
    _fit(shapes, tmp_path / "b", recipe, model=small_clip(architecture=wide), stop_after=1)
    resumed = _fit(shapes, tmp_path / "b", recipe, model=small_clip(architecture=wide))
    assert [result.weights_sha256 for result in resumed] == [result.weights_sha256 for result in unbroken]


@pytest.mark.parametrize(("side", "smaller"), [(224, 136), (80, 48), (48, 32), (32, 32), (24, 24)])
def test_smaller_pictures_are_not_too_small(side: int, smaller: int):
    assert training.smaller(SMALL.preprocessing.at(side)).side == smaller


def test_a_tower_that_takes_one_side_alone_is_not_given_smaller_pictures(shapes: TrainingData, tmp_path: Path):
    recipe = RECIPE.model_copy(update={"progressive_resizing": 0.5})
    vision = {**TRANSFORMER.model_cfg["vision_cfg"], "image_size": 64}
    wide = TRANSFORMER.model_copy(
        update={
            "model_cfg": {**TRANSFORMER.model_cfg, "vision_cfg": vision},
            "preprocessing": TRANSFORMER.preprocessing.at(64),
        }
    )
    with pytest.raises(TrainingError, match=r"takes pictures of 40 px as well as of 64 px.*progressive_resizing=0"):
        _fit(shapes, tmp_path, recipe, model=small_clip(architecture=wide))
    assert not any(tmp_path.iterdir())


def test_what_is_validated_and_kept_is_the_moving_average(shapes: TrainingData, tmp_path: Path):
    """One step of two batches an epoch: epoch 1 keeps the weights of its step, epoch 2 what follows by hand."""
    steps = RECIPE.model_copy(update={"batch_size": 48, "accumulate": 2, "learning_rate": 1e-2, "warmup": 0.0})
    plain = [_state(result) for result in _fit(shapes, tmp_path / "plain", steps)]
    validated: list[dict[str, torch.Tensor]] = []

    def validate(trained: ClipModel) -> Mapping[str, float]:
        validated.append({name: value.clone() for name, value in trained.module.state_dict().items()})
        assert np.isfinite(ClipEncoder(trained).encode_texts(["red bars"])).all()
        return {}

    averages = fit(
        small_clip(),
        shapes,
        steps.model_copy(update={"ema": 0.15}),
        instance=0,
        device=CPU,
        state_dir=tmp_path / "average",
        validate=validate,
    )
    for number, result in enumerate(averages):
        kept = _state(result)
        assert kept.keys() == plain[0].keys() <= validated[number].keys()
        for name, value in kept.items():
            expected = plain[number][name]
            if number == 2 and value.is_floating_point():  # (1 + 1) / (10 + 1) is more than 0.15
                expected = 0.15 * plain[1][name] + 0.85 * plain[2][name]
            torch.testing.assert_close(value, expected, msg=name)
            assert torch.equal(validated[number][name], value)


def test_a_state_from_before_layers_had_shares_goes_on(shapes: TrainingData, tmp_path: Path):
    unbroken = _fit(shapes, tmp_path / "a")
    _fit(shapes, tmp_path / "b", stop_after=1)
    state = torch.load(tmp_path / "b" / "state.pt", weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        del group["share"]
    torch.save(state, tmp_path / "b" / "state.pt")
    assert _fit(shapes, tmp_path / "b")[-1].weights_sha256 == unbroken[-1].weights_sha256


def test_a_training_is_named_as_it_was_before_recipes_had_later_techniques(shapes: TrainingData):
    before = RECIPE.model_dump(exclude={"device", *ADDED_LATER})
    digest = hashlib.sha256(json.dumps(before, separators=(",", ":")).encode())
    base = small_clip()
    digest.update(f"1 {shapes.pixels.shape} {digest_of(base.module, base.architecture)}".encode())
    for row in shapes.rows:
        digest.update(f"{shapes.products.product_id[row]} {shapes.products.image_sha256[row]}\n".encode())
    assert fingerprint(base, shapes, RECIPE, instance=1) == digest.hexdigest()
    for name in ADDED_LATER:
        changed = RECIPE.model_copy(update={name: 8 if name in ("lora_rank", "image_side") else 0.5})
        assert fingerprint(base, shapes, changed, instance=1) != digest.hexdigest()


def test_look_alikes_need_a_kind(shapes: TrainingData, tmp_path: Path):
    bare = replace(shapes.products, article_type=np.full(len(shapes.products), "", dtype=object))
    with pytest.raises(TrainingError, match=r"look alike.*hard_negatives=0"):
        _fit(replace(shapes, products=bare), tmp_path, RECIPE.model_copy(update={"hard_negatives": 0.5}))
    by_clusters = RECIPE.model_copy(update={"epochs": 1, "hard_negatives": 0.5, "hard_negatives_by": "cluster"})
    assert len(_fit(replace(shapes, products=bare), tmp_path, by_clusters)) == 2, "clusters need no attributes"


def _state(result: EpochResult) -> dict[str, torch.Tensor]:
    return load_file(result.folder / WEIGHTS)


def test_a_finished_training_yields_its_results_again_without_training(shapes: TrainingData, tmp_path: Path):
    first = _fit(shapes, tmp_path)
    stamps = [(result.folder / WEIGHTS).stat().st_mtime_ns for result in first]
    again = _fit(shapes, tmp_path)
    assert again == first
    assert [(result.folder / WEIGHTS).stat().st_mtime_ns for result in again] == stamps


def test_the_state_of_another_training_is_not_resumed(shapes: TrainingData, tmp_path: Path):
    _fit(shapes, tmp_path, stop_after=1)
    with pytest.raises(TrainingError, match="another recipe"):
        _fit(shapes, tmp_path, RECIPE.model_copy(update={"learning_rate": 0.5}))
    fewer = TrainingData(shapes.products, shapes.pixels, shapes.rows[:50])
    with pytest.raises(TrainingError, match="another recipe"):
        _fit(fewer, tmp_path)


@pytest.mark.parametrize("damaged", [b"half of a file", b"", bytes(100)], ids=["half", "empty", "zeros"])
def test_a_damaged_state_is_one_clear_error(shapes: TrainingData, tmp_path: Path, damaged: bytes):
    _fit(shapes, tmp_path, stop_after=0)
    (tmp_path / "state.pt").write_bytes(damaged)
    with pytest.raises(TrainingError, match="cannot be read"):
        _fit(shapes, tmp_path)


def test_instances_differ_and_each_can_be_repeated(shapes: TrainingData, tmp_path: Path):
    hashes = [
        _fit(shapes, tmp_path / name, stop_after=1, instance=instance)[-1].weights_sha256
        for name, instance in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_it_stops_when_select_gets_no_better(shapes: TrainingData, tmp_path: Path):
    recipe = RECIPE.model_copy(update={"epochs": 6, "patience": 2})
    scores = {0: 0.1, 1: 0.5, 2: 0.4, 3: 0.45, 4: 0.9}
    results = _fit(shapes, tmp_path, recipe, scores=scores)
    assert [result.epoch for result in results] == [0, 1, 2, 3]
    assert [result.epoch for result in _fit(shapes, tmp_path, recipe, scores=scores)] == [0, 1, 2, 3]


def test_it_goes_on_where_nothing_can_be_measured(shapes: TrainingData, tmp_path: Path):
    recipe = RECIPE.model_copy(update={"epochs": 4, "patience": 2})
    results = _fit(shapes, tmp_path, recipe, scores=dict.fromkeys(range(5), 0.0))
    assert [result.epoch for result in results] == [0, 1, 2, 3, 4]


def test_a_loss_that_is_not_a_number_ends_it_with_a_remedy(shapes: TrainingData, tmp_path: Path):
    model = small_clip()
    with torch.no_grad():
        model.module.visual.head.proj.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"became nan in epoch 1, batch 1.*learning rate"):
        _fit(shapes, tmp_path, model=model)


def test_progress_counts_steps_over_all_epochs(shapes: TrainingData, tmp_path: Path):
    progress: list[Progress] = []
    _fit(shapes, tmp_path, RECIPE.model_copy(update={"accumulate": 3}), progress=progress)
    assert len(progress) == 2 * 4  # 96 products in batches of 24
    assert [now.step for now in progress] == [0, 0, 1, 2, 2, 2, 3, 4]
    assert progress[-1].steps == 4
    assert all(now.images_per_s > 0 for now in progress)


def test_products_that_say_nothing_are_left_out(shapes: TrainingData, tmp_path: Path):
    silent = shapes.products.take(np.arange(96))
    for column in ("name", "article_type", "base_colour"):
        getattr(silent, column)[3:] = ""
    few = TrainingData(silent, shapes.pixels, shapes.rows)
    progress: list[Progress] = []
    _fit(few, tmp_path / "a", progress=progress)
    assert progress[-1].steps == 2  # one batch of three products, twice
    with pytest.raises(TrainingError, match="1 of 94 products have a name or attributes"):
        _fit(TrainingData(silent, shapes.pixels, shapes.rows[2:]), tmp_path / "b")


def test_a_batch_needs_two_products(shapes: TrainingData, tmp_path: Path):
    with pytest.raises(TrainingError, match="batch of 0"):
        _fit(shapes, tmp_path, RECIPE.model_copy(update={"batch_size": 0}))


def test_products_with_one_caption_for_all_are_one_clear_error(shapes: TrainingData, tmp_path: Path):
    size = len(shapes.products)
    same = {"name": "Shirt", "base_colour": "", "article_type": "Shirts", "gender": ""}
    columns = {column: np.full(size, value, dtype=object) for column, value in same.items()}
    alike = replace(shapes, products=replace(shapes.products, **columns))
    with pytest.raises(TrainingError, match=r"same captions.*Take in names"):
        _fit(alike, tmp_path)


def test_a_batch_larger_than_the_catalog_is_the_catalog(shapes: TrainingData, tmp_path: Path):
    results = _fit(shapes, tmp_path, RECIPE.model_copy(update={"batch_size": 10 * len(shapes.products), "epochs": 1}))
    assert [result.epoch for result in results] == [0, 1]


def test_without_memory_for_a_batch_it_goes_on_with_half_of_it(
    shapes: TrainingData, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    clip = small_clip()
    sizes = _with_memory_for(clip, 20)
    results = _fit(shapes, tmp_path, RECIPE.model_copy(update={"batch_size": 48}), model=clip)
    assert [result.epoch for result in results] == [0, 1, 2]
    assert "no memory for a batch of 48: instance 0 goes on with 24" in caplog.text
    assert "goes on with 12" in caplog.text
    assert max(sizes) <= 20
    halved = _fit(shapes, tmp_path / "by hand", RECIPE.model_copy(update={"batch_size": 12, "accumulate": 4}))
    assert [result.weights_sha256 for result in results] == [result.weights_sha256 for result in halved]


def test_a_batch_that_did_not_fit_leaves_no_gradient_behind(shapes: TrainingData, tmp_path: Path):
    clip = small_clip()
    seen: list[int] = []

    def fail_once(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if module.training:
            seen.append(len(inputs[0]))
            if len(seen) == 2:  # the first half of the step is through, and has left its gradients
                raise torch.OutOfMemoryError("the device is full")

    clip.module.visual.register_forward_pre_hook(fail_once)
    recipe = RECIPE.model_copy(update={"accumulate": 2, "epochs": 1})
    results = _fit(shapes, tmp_path, recipe, model=clip)
    halved = recipe.model_copy(update={"batch_size": 12, "accumulate": 4})
    assert results[-1].weights_sha256 == _fit(shapes, tmp_path / "by hand", halved)[-1].weights_sha256
    assert results[-1].metrics["batch_size"] == 12


def test_without_memory_for_two_products_it_ends_with_a_remedy(shapes: TrainingData, tmp_path: Path):
    clip = small_clip()
    _with_memory_for(clip, 1)
    with pytest.raises(DeviceError, match="smaller base"):
        _fit(shapes, tmp_path, model=clip)


def _with_memory_for(clip: ClipModel, most: int) -> list[int]:
    """Make training run out of memory beyond so many pictures; the sizes of the batches that were held."""
    sizes: list[int] = []

    def hold(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if module.training:
            if len(inputs[0]) > most:
                raise torch.OutOfMemoryError("the device is full")
            sizes.append(len(inputs[0]))

    clip.module.visual.register_forward_pre_hook(hold)
    return sizes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_full_gpu_halves_the_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    data = draw_shapes(2048)
    torch.cuda.set_per_process_memory_fraction(0.5 * 2**30 / torch.cuda.get_device_properties(0).total_memory)
    recipe = TrainRecipe(epochs=1, batch_size=2048, device="cuda")
    clip = load_base("tiny", seed=0, device=torch.device("cuda"))
    fitted = fit(
        clip, data, recipe, instance=0, device=clip.device, state_dir=tmp_path, validate=lambda _: {}, on_progress=None
    )
    assert [result.epoch for result in fitted] == [0, 1]
    assert "goes on with" in caplog.text


@pytest.mark.parametrize(
    "techniques",
    [
        {},
        {
            "ema": 0.5,
            "mix": 0.5,
            "attribute_dropout": 0.3,
            "hard_negatives": 0.5,
            "layer_decay": 0.8,
        },
        {"hard_negatives": 1.0, "hard_negatives_by": "cluster"},
        {"lora_rank": 2, "ema": 0.5, "loss": "sigmoid"},
    ],
    ids=["plain", "all techniques", "batches of few clusters", "low-rank updates"],
)
def test_torchrun_trains_one_model_in_two_processes(tmp_path: Path, techniques: Mapping[str, object]):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"),
        str(Path(__file__).parent / "train_in_ranks.py"),
        str(tmp_path),
        json.dumps(techniques),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert ranks[0]["hashes"] == ranks[1]["hashes"]
    assert len(ranks[0]["hashes"]) == 3
    assert torch.equal(ranks[0]["weights"], ranks[1]["weights"])
    assert ranks[0]["validated"] == 3
    assert ranks[1]["validated"] == 0
    assert ranks[0]["losses"][2] < ranks[0]["losses"][1]
