"""Low-rank updates: what they train, what an epoch stores of them, and what comes back."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from enclip.errors import TrainingError, WeightsError
from enclip.models.architecture import Architecture
from enclip.models.checkpoint import (
    BASE,
    CARD,
    WEIGHTS,
    load_checkpoint,
    read_card,
    read_weights,
    save_checkpoint,
    state_of,
)
from enclip.models.clip import ClipEncoder, ClipModel
from enclip.models.ema import moving_average
from enclip.models.lora import ALPHA, LowRank, attach, changes, compose, composed, updated
from enclip.models.optimizer import layer_shares, make_optimizer
from enclip.models.schedule import peak_learning_rate
from enclip.models.soup import average_checkpoints
from enclip.models.training import EpochResult, Towers, TrainingData
from enclip.recipes import TrainRecipe
from enclip.release import file_sha256

from .small_models import CPU, SMALL, TRANSFORMER, epochs_trained, small_clip

RANK = 2
RECIPE = TrainRecipe(epochs=2, batch_size=24, learning_rate=1e-2, lora_rank=RANK, device="cpu")
TEXTS = ["red bars", "a photo of blue rings"]
BOTH = pytest.mark.parametrize("architecture", [TRANSFORMER, SMALL], ids=["transformer", "ResNet"])


def pretrained(architecture: Architecture = TRANSFORMER, seed: int = 0) -> ClipModel:
    return replace(small_clip(seed, architecture), from_scratch=False)


def train(
    data: TrainingData,
    state_dir: Path,
    recipe: TrainRecipe = RECIPE,
    *,
    model: ClipModel | None = None,
    instance: int = 0,
    stop_after: int = 99,
    validated: list[list[np.ndarray]] | None = None,
) -> list[EpochResult]:
    def validate(model: ClipModel) -> Mapping[str, float]:
        if validated is not None:
            validated.append(embeddings(model, data))
        return {}

    return epochs_trained(
        model or pretrained(),
        data,
        recipe,
        state_dir,
        instance=instance,
        validate=validate,
        stop_after=stop_after,
    )


def embeddings(model: ClipModel, data: TrainingData) -> list[np.ndarray]:
    encoder = ClipEncoder(model)
    return [encoder.encode_texts(TEXTS), encoder.encode_images(data.pixels[:20])]


@pytest.fixture(scope="module")
def trained(shapes: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> list[EpochResult]:
    """Epochs 0 to 2 of the small transformer; copy them to change them."""
    return train(shapes, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def folder(trained: list[EpochResult], tmp_path: Path) -> Path:
    """The last epoch, with a base of its own."""
    return Path(shutil.copytree(trained[-1].folder, tmp_path / "delta"))


@BOTH
def test_the_start_is_the_base(architecture: Architecture, shapes: TrainingData) -> None:
    base, model = pretrained(architecture), pretrained(architecture)
    with torch.no_grad():
        next(iter(base.module.visual.parameters())).view(-1)[0] = -0.0
        next(iter(model.module.visual.parameters())).view(-1)[0] = -0.0
    attach(model.module, RANK, seed=0)
    for ours, theirs in zip(embeddings(model, shapes), embeddings(base, shapes), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)  # torch has another kernel for layers of plain matrices
    found, expected = state_of(model.module), state_of(base.module)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.numpy().tobytes() == expected[name].numpy().tobytes(), name


def test_an_update_by_hand() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 3.0]])
    expected = torch.tensor([[1.0 + 4 * 1, 2.0 + 4 * 2], [3.0, 4.0 + 4 * 6]])  # alpha over a rank of two
    assert torch.equal(updated(weight, a, b, alpha=8.0), expected)
    layer = torch.nn.Linear(20, 20)
    before = layer.weight.detach().clone()
    attach(layer, 4, seed=0)
    with torch.no_grad():
        layer.parametrizations.weight[0].B.fill_(0.5)
    (update,) = layer.parametrizations.weight
    torch.testing.assert_close(layer.weight, before + ALPHA / 4 * update.B @ update.A)


@BOTH
def test_matrices_have_updates_vectors_are_trained_and_embeddings_are_not(architecture: Architecture) -> None:
    model = pretrained(architecture)
    shape_of = {name: value.shape for name, value in model.module.named_parameters()}
    attach(model.module, RANK, seed=0)
    kept = changes(model.module)
    updates = {name.removesuffix(".lora_A") for name in kept if name.endswith(".lora_A")}
    frozen = {name for name, value in shape_of.items() if len(value) > 1 and ("embed" in name)}
    vectors = {name for name, value in shape_of.items() if len(value) < 2}
    assert {"token_embedding.weight", "positional_embedding"} <= frozen
    assert {"logit_scale", "ln_final.bias"} <= vectors
    assert {"text_projection", "transformer.resblocks.0.attn.in_proj_weight"} <= updates
    if architecture is TRANSFORMER:
        assert {"visual.proj", "visual.conv1.weight", "visual.transformer.resblocks.0.attn.out_proj.weight"} <= updates
        assert "visual.class_embedding" in vectors
    else:
        assert "visual.trunk.bn1.running_mean" in kept
    assert updates == shape_of.keys() - frozen - vectors
    assert vectors <= kept.keys() and not frozen & kept.keys()
    learns = [name for name, value in model.module.named_parameters() if value.requires_grad]
    assert len(learns) == 2 * len(updates) + len(vectors)


def test_a_matrix_that_an_update_would_not_make_smaller_is_trained_whole() -> None:
    model = pretrained()
    attach(model.module, 11, seed=0)  # 32 × 16: 11 · 48 numbers are more than 512
    kept = changes(model.module)
    assert kept["text_projection"].requires_grad is False and kept["text_projection"].shape == (32, 16)
    assert "transformer.resblocks.0.attn.in_proj_weight.lora_A" in kept
    plain = pretrained()
    attach(plain.module, 512, seed=0)
    assert not any(isinstance(part, LowRank) for part in plain.module.modules())
    frozen = {name for name, value in plain.module.named_parameters() if not value.requires_grad}
    assert frozen == {"token_embedding.weight", "positional_embedding", "visual.positional_embedding"}


def test_a_matrix_that_two_layers_share_is_trained_whole() -> None:
    one, other = torch.nn.Linear(20, 20), torch.nn.Linear(20, 20)
    other.weight = one.weight
    both = torch.nn.Sequential(one, other)
    attach(both, 2, seed=0)
    assert set(changes(both)) == {"0.weight", "1.weight", "0.bias", "1.bias"}


def test_a_layer_with_a_parametrization_of_its_own_is_stored_as_ever() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(20, 20))
    before = layer.state_dict()
    assert composed(layer).keys() == before.keys()
    attach(layer, 2, seed=0)
    found = composed(layer)
    assert found.keys() == before.keys() and all(torch.equal(found[name], value) for name, value in before.items())


def test_the_random_halves_follow_from_the_seed() -> None:
    first, again, other = (pretrained() for _ in range(3))
    for model, seed in ((first, 3), (again, 3), (other, 4)):
        attach(model.module, RANK, seed=seed)
    name = "visual.proj.lora_A"
    assert torch.equal(changes(first.module)[name], changes(again.module)[name])
    assert not torch.equal(changes(first.module)[name], changes(other.module)[name])


@BOTH
def test_an_epoch_stores_what_it_changes_and_comes_back_whole(
    architecture: Architecture, shapes: TrainingData, tmp_path: Path
) -> None:
    validated: list[list[np.ndarray]] = []
    results = train(shapes, tmp_path / "state", model=pretrained(architecture), validated=validated)
    whole = save_checkpoint(tmp_path / "base", pretrained(architecture), pixel_side=16)
    assert results[0].weights_sha256 == whole
    assert read_card(results[0].folder).delta is None and "delta" not in (results[0].folder / CARD).read_text()
    sizes = [(result.folder / WEIGHTS).stat().st_size for result in results]
    assert max(sizes[1:]) < sizes[0] / 10
    for result, seen in zip(results, validated, strict=True):
        card = read_card(result.folder)
        assert card.weights_sha256 == result.weights_sha256 == file_sha256(result.folder / WEIGHTS)
        assert card.epochs_trained == result.epoch
        model = load_checkpoint(result.folder, device=CPU)
        for ours, theirs in zip(embeddings(model, shapes), seen, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert read_card(results[2].folder).delta.base_sha256 == whole
    assert results[2].metrics["train_loss"] < results[1].metrics["train_loss"]


@BOTH
def test_matrices_change_by_a_low_rank_and_embeddings_not_at_all(
    architecture: Architecture, shapes: TrainingData, tmp_path: Path
) -> None:
    results = train(shapes, tmp_path, model=pretrained(architecture))
    base, last = (read_weights(result.folder, read_card(result.folder)) for result in (results[0], results[2]))
    assert base.keys() == last.keys()
    for name, value in last.items():
        change = (value - base[name]).float()
        if "embed" in name and value.ndim > 1:
            assert not change.any(), name
        elif value.ndim > 1:
            assert 1 <= torch.linalg.matrix_rank(change.flatten(1), rtol=1e-3) <= RANK, name
    moved = {name for name, value in last.items() if not torch.equal(value, base[name])}
    assert {"logit_scale", "ln_final.bias", "text_projection"} <= moved
    if architecture is SMALL:
        assert {"visual.trunk.bn1.running_mean", "visual.trunk.bn1.num_batches_tracked"} <= moved


@pytest.mark.parametrize(
    "technique",
    [{}, {"ema": 0.9}, {"loss": "sigmoid"}, {"mix": 0.7, "layer_decay": 0.6}, {"lora_rank": 11}],
    ids=str,
)
def test_a_resumed_training_ends_with_the_weights_of_an_unbroken_one(
    shapes: TrainingData, tmp_path: Path, technique: Mapping[str, object]
) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 3, "accumulate": 2, **technique})
    unbroken = train(shapes, tmp_path / "a", recipe)
    train(shapes, tmp_path / "b", recipe, stop_after=1)
    resumed = train(shapes, tmp_path / "b", recipe)
    assert [result.weights_sha256 for result in resumed] == [result.weights_sha256 for result in unbroken]
    assert len({result.weights_sha256 for result in unbroken}) == 4


def test_instances_differ_and_each_can_be_repeated(shapes: TrainingData, tmp_path: Path) -> None:
    hashes = [
        train(shapes, tmp_path / name, stop_after=1, instance=instance)[-1].weights_sha256
        for name, instance in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_without_memory_for_a_batch_it_goes_on_with_half_of_it(shapes: TrainingData, tmp_path: Path) -> None:
    model = pretrained()

    def hold(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if module.training and len(inputs[0]) > 12:
            raise torch.OutOfMemoryError("the device is full")

    model.module.visual.register_forward_pre_hook(hold)
    results = train(shapes, tmp_path / "held", model=model)
    halved = RECIPE.model_copy(update={"batch_size": 12, "accumulate": 2})
    by_hand = train(shapes, tmp_path / "by hand", halved)
    assert [result.weights_sha256 for result in results] == [result.weights_sha256 for result in by_hand]


def test_the_moving_average_is_of_the_halves_and_has_the_base_itself() -> None:
    model = pretrained()
    attach(model.module, RANK, seed=0)
    towers = Towers(model, RECIPE)
    average = moving_average(towers, 0.5)
    frozen = [value for value in average.module.parameters() if not value.requires_grad]
    assert {value.data_ptr() for value in frozen} <= {value.data_ptr() for value in towers.parameters()}
    before = {name: value.clone() for name, value in composed(model.module).items()}
    update = model.module.parametrizations.text_projection[0]
    seen = []
    for step in range(1, 4):
        with torch.no_grad():
            update.B.fill_(step)
            model.module.ln_final.bias.fill_(step)
        average.update_parameters(towers)
        seen.append(float(step))
    second = 2 / 11 * seen[0] + 9 / 11 * seen[1]
    third = 3 / 12 * second + 9 / 12 * seen[2]
    kept = changes(average.module.clip)
    torch.testing.assert_close(kept["text_projection.lora_B"], torch.full_like(update.B, third))
    torch.testing.assert_close(kept["ln_final.bias"], torch.full((32,), third))
    original = average.module.clip.parametrizations.text_projection.original
    assert torch.equal(original, before["text_projection"])
    assert torch.equal(average.module.clip.token_embedding.weight, before["token_embedding.weight"])


def test_a_soup_of_deltas_is_the_mean_of_whole_weights(trained: list[EpochResult], shapes: TrainingData) -> None:
    folders = [result.folder for result in trained[1:]]
    soup = average_checkpoints(folders, pixels=shapes.pixels, device=CPU)
    parts = [read_weights(folder, read_card(folder)) for folder in folders]
    for name, value in state_of(soup.module).items():
        torch.testing.assert_close(value, (parts[0][name] + parts[1][name]) / 2, msg=name)


def test_a_further_training_starts_from_whole_weights(
    trained: list[EpochResult], shapes: TrainingData, tmp_path: Path
) -> None:
    start = load_checkpoint(trained[-1].folder, device=CPU)
    expected = state_of(start.module)
    results = train(shapes, tmp_path, model=start)
    assert read_card(results[0].folder).delta is None
    base, card = load_file(results[0].folder / WEIGHTS), read_card(results[1].folder)
    assert base.keys() == expected.keys() and all(torch.equal(base[name], value) for name, value in expected.items())
    assert card.delta.base_sha256 == results[0].weights_sha256
    assert (card.init_id, card.epochs_trained) == (start.init_id, 3)


def test_random_weights_are_refused_with_a_remedy_and_own_ones_are_not(shapes: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"lora_rank=2 .*starts from nothing.*lora_rank=0, or a pretrained base"):
        train(shapes, tmp_path / "a", model=small_clip())
    own = replace(small_clip(), epochs_trained=24)
    assert len(train(shapes, tmp_path / "b", model=own, stop_after=1)) == 2


def test_updates_learn_ten_times_as_fast_by_default() -> None:
    whole, low = TrainRecipe(), TrainRecipe(lora_rank=8)
    for model in (pretrained(), replace(small_clip(), epochs_trained=3)):
        assert peak_learning_rate(low, model) == pytest.approx(10 * peak_learning_rate(whole, model))
    assert peak_learning_rate(TrainRecipe(lora_rank=8, learning_rate=3e-4), pretrained()) == 3e-4


def test_an_update_learns_as_its_layer_does_and_is_decayed_as_a_matrix() -> None:
    recipe = TrainRecipe(layer_decay=0.5, lora_rank=RANK)
    plain, model = pretrained(SMALL), pretrained(SMALL)
    attach(model.module, RANK, seed=0)
    towers = Towers(model, recipe)
    expected, shares = layer_shares(Towers(plain, recipe), 0.5), layer_shares(towers, 0.5)
    group_of = {id(value): group for group in make_optimizer(towers, recipe).param_groups for value in group["params"]}
    for name, value in towers.named_parameters():
        whole = name.replace("parametrizations.", "").removesuffix(".0.A").removesuffix(".0.B")
        if value.requires_grad:
            assert shares[name] == expected[whole] == group_of[id(value)]["share"], name
            assert group_of[id(value)]["weight_decay"] == (recipe.weight_decay if value.ndim > 1 else 0)
        else:
            assert id(value) not in group_of


def test_a_state_folder_can_be_moved(trained: list[EpochResult], tmp_path: Path) -> None:
    moved = shutil.copytree(trained[0].folder.parent, tmp_path / "elsewhere", symlinks=True)
    assert (moved / "epoch-02" / BASE).is_symlink()
    state = read_weights(moved / "epoch-02", read_card(moved / "epoch-02"))
    assert all(torch.equal(value, state[name]) for name, value in _state(trained[2].folder).items())


def test_a_copy_of_the_base_in_a_links_place_is_as_good(
    trained: list[EpochResult], shapes: TrainingData, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(trained[0].folder.parent, tmp_path / "copied"))
    assert not (copied / "epoch-02" / BASE).is_symlink()
    (copied / "state.pt").unlink()
    again = train(shapes, copied)
    assert [result.weights_sha256 for result in again] == [result.weights_sha256 for result in trained]
    assert _state(copied / "epoch-02").keys() == _state(trained[2].folder).keys()


def _state(folder: Path) -> dict[str, torch.Tensor]:
    return read_weights(folder, read_card(folder))


def test_a_missing_base_is_one_clear_error(trained: list[EpochResult], folder: Path) -> None:
    shutil.rmtree(folder / BASE)
    wanted = trained[0].weights_sha256[:12]
    with pytest.raises(WeightsError, match=f"only what changed from the base weights {wanted}.* there is no .*/{BASE}"):
        load_checkpoint(folder, device=CPU)
    (folder / BASE).symlink_to("gone")
    with pytest.raises(WeightsError, match=r"Put the checkpoint with these weights at .*epoch 0"):
        load_checkpoint(folder, device=CPU)
    (folder / BASE).unlink()
    (folder / BASE).symlink_to(trained[0].folder)
    assert load_checkpoint(folder, device=CPU).epochs_trained == 2


def test_another_base_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / BASE)
    other = save_checkpoint(folder / BASE, pretrained(seed=1), pixel_side=16)
    with pytest.raises(WeightsError, match=f"and .*{BASE} has {other[:12]}"):
        load_checkpoint(folder, device=CPU)


def test_a_damaged_base_or_delta_is_found(folder: Path) -> None:
    for path in (folder / BASE / WEIGHTS, folder / WEIGHTS):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(WeightsError, match=f"{path} is damaged"):
            load_checkpoint(folder, device=CPU)
        path.write_bytes(data)
    (folder / BASE / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match=rf"Cannot read .*{BASE}/{WEIGHTS}: No such file"):
        load_checkpoint(folder, device=CPU)


@pytest.mark.parametrize("key", ["text_projection.lora_A", "no_such_matrix.lora_A", "no_such_bias"])
def test_a_delta_that_does_not_fit_its_base_is_refused(folder: Path, key: str) -> None:
    state = load_file(folder / WEIGHTS)
    state[key] = torch.zeros(RANK, 7)
    save_file(state, folder / WEIGHTS)
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "weights_sha256": file_sha256(folder / WEIGHTS)}))
    with pytest.raises(WeightsError, match="does not fit"):
        load_checkpoint(folder, device=CPU)


def test_equal_changes_of_different_bases_have_different_hashes(tmp_path: Path) -> None:
    model = pretrained()
    hashes = []
    for seed in (0, 1):
        save_checkpoint(tmp_path / f"base-{seed}", pretrained(seed=seed), pixel_side=16)
    attach(model.module, RANK, seed=0)
    for seed in (0, 1, 1):
        hashes.append(save_checkpoint(tmp_path / "delta", model, pixel_side=16, base=tmp_path / f"base-{seed}"))
    assert hashes[0] != hashes[1] == hashes[2]
    assert read_card(tmp_path / "delta" / BASE).weights_sha256 == read_card(tmp_path / "base-1").weights_sha256


def test_composing_leaves_the_base_as_it_was() -> None:
    base = {"w": torch.zeros(3, 3), "b": torch.zeros(3)}
    changed = {"w.lora_A": torch.ones(1, 3), "w.lora_B": torch.ones(3, 1), "b": torch.ones(3)}
    made = compose(base, changed, alpha=2.0)
    assert torch.equal(made["w"], torch.full((3, 3), 2.0)) and torch.equal(made["b"], torch.ones(3))
    assert not base["w"].any() and not base["b"].any()
