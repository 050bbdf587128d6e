import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from enclip.errors import WeightsError
from enclip.models.architecture import Architecture
from enclip.models.bases import at_frame, at_side, load_base
from enclip.models.checkpoint import load_checkpoint, save_checkpoint
from enclip.models.clip import ClipEncoder

from .small_models import CPU, SMALL, TRANSFORMER, small_clip


def test_tiny_needs_no_download_and_follows_its_seed():
    first, again, other = (load_base("tiny", seed=seed, device=CPU) for seed in (3, 3, 4))
    assert first.init_id == again.init_id != other.init_id
    assert first.from_scratch
    assert first.epochs_trained == 0
    assert ClipEncoder(first).encode_texts(["red shoes"]).shape == (1, first.dim)


def test_a_local_open_clip_folder_is_a_base(tmp_path: Path):
    folder = _open_clip_folder(tmp_path)
    model = load_base(f"local-dir:{folder}", seed=0, device=CPU)
    assert not model.from_scratch
    assert model.side == 32
    assert model.architecture.preprocessing.mean == (0.1, 0.2, 0.3)
    reference = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens_BL = open_clip.get_tokenizer(f"local-dir:{folder}")(["green boxes"])
    with torch.no_grad():
        expected = reference.encode_text(tokens_BL, normalize=True).numpy()
    np.testing.assert_allclose(ClipEncoder(model).encode_texts(["green boxes"]), expected, atol=1e-6)


def test_pretrained_weights_do_not_depend_on_the_seed_and_survive_without_their_folder(tmp_path: Path):
    folder = _open_clip_folder(tmp_path / "base")
    first, other = (load_base(f"local-dir:{folder}", seed=seed, device=CPU) for seed in (0, 1))
    assert first.init_id == other.init_id
    save_checkpoint(tmp_path / "checkpoint", first, pixel_side=16)
    for path in folder.iterdir():
        path.unlink()
    again = load_checkpoint(tmp_path / "checkpoint", device=CPU)
    texts = ["blue rings"]
    np.testing.assert_allclose(
        ClipEncoder(again).encode_texts(texts), ClipEncoder(first).encode_texts(texts), atol=1e-6
    )


def test_a_checkpoint_folder_is_a_base_that_keeps_its_init_id(tmp_path: Path):
    model = small_clip(7)
    save_checkpoint(tmp_path, model, pixel_side=16)
    assert load_base(f"local-dir:{tmp_path}", seed=0, device=CPU).init_id == model.init_id


def test_a_folder_without_weights_is_refused_rather_than_random(tmp_path: Path):
    folder = _open_clip_folder(tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=str(folder)):
        load_base(f"local-dir:{folder}", seed=0, device=CPU)


def test_weights_that_do_not_fit_their_configuration_are_refused(tmp_path: Path):
    folder = _open_clip_folder(tmp_path)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 24
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"do not fit its configuration: .*size mismatch for .*same model"):
        load_base(f"local-dir:{folder}", seed=0, device=CPU)


@pytest.mark.parametrize(("part", "value"), [("mean", [0.5]), ("mean", 0.5), ("std", "none")])
def test_a_preprocessing_that_cannot_be_used_is_one_clear_error(tmp_path: Path, part: str, value: object):
    folder = _open_clip_folder(tmp_path)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"][part] = value
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=str(folder)):
        load_base(f"local-dir:{folder}", seed=0, device=CPU)


def test_a_base_that_looks_at_oblongs_is_refused(tmp_path: Path):
    folder = _open_clip_folder(tmp_path)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = [32, 48]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="squares"):
        load_base(f"local-dir:{folder}", seed=0, device=CPU)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoSuchNet:laion2b", "no base weights 'NoSuchNet:laion2b'"),
        ("ViT-B-32", "no pretrained tag ''"),
        ("ViT-B-32:nonsense", "no pretrained tag 'nonsense'.*laion2b_s34b_b79k"),
        ("local-dir:/nowhere/at/all", "/nowhere/at/all"),
        ("", "no base weights ''"),
    ],
)
def test_a_name_that_means_nothing_says_what_would(name: str, message: str):
    with pytest.raises(WeightsError, match=message):
        load_base(name, seed=0, device=CPU)


def test_convolutions_take_pictures_of_another_side():
    model = small_clip()
    smaller = at_side(model, 24)
    assert (smaller.side, smaller.dim, model.side) == (24, model.dim, 32)
    for name, value in model.module.state_dict().items():
        assert torch.equal(smaller.module.state_dict()[name], value)
    assert smaller.init_id != model.init_id, "averaging refuses them by their architectures"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    small, large = (ClipEncoder(each).encode_images(pixels) for each in (smaller, model))
    assert small.shape == large.shape and not np.allclose(small, large, atol=1e-3)


def test_the_side_that_a_model_has_changes_nothing():
    model = small_clip(architecture=TRANSFORMER)
    assert at_side(model, 0) is at_side(model, 32) is model


def test_a_transformer_does_not():
    with pytest.raises(WeightsError, match="for pictures of 32 px and cannot take 24 px"):
        at_side(small_clip(architecture=TRANSFORMER), 24)


@pytest.mark.parametrize(
    ("aspect", "frame"), [(0.75, (32, 24)), (2.0, (16, 32)), (0.7, (32, 24)), (0.95, None), (1.0, None)]
)
def test_convolutions_from_nothing_look_at_the_shape_that_pictures_have(
    aspect: float, frame: tuple[int, int] | None
) -> None:
    model = small_clip()
    framed = at_frame(model, aspect)
    assert framed.architecture.preprocessing.frame == frame
    assert (framed.init_id == model.init_id) == (frame is None), "averaging refuses another shape"
    if frame:
        assert at_side(framed, 16).architecture.preprocessing.frame == (frame[0] // 2, frame[1] // 2)
    trained = replace(model, epochs_trained=3)
    assert at_frame(trained, aspect) is trained, "what it looks at it has learnt"


def test_a_transformer_keeps_its_square() -> None:
    model = small_clip(architecture=TRANSFORMER)
    assert at_frame(model, 0.75) is model


def test_a_square_has_the_digest_it_had_before_there_were_frames() -> None:
    asked = SMALL.model_dump(mode="json")
    assert set(asked["preprocessing"]) == {"side", "mean", "std", "interpolation"}, "what an older enclip reads"
    assert Architecture.model_validate(asked) == SMALL
    framed = at_frame(small_clip(), 0.75).architecture
    assert Architecture.model_validate_json(framed.model_dump_json()) == framed
    model, digest = small_clip(), hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    for name, value in sorted(model.module.state_dict().items()):
        digest.update(name.encode() + value.reshape(-1).view(torch.uint8).numpy().tobytes())
    assert model.init_id == digest.hexdigest()[:16]


def _open_clip_folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    # open_clip's own tokenizer has 49,408 tokens.
    model_cfg = {**SMALL.model_cfg, "text_cfg": {**SMALL.model_cfg["text_cfg"], "vocab_size": 49408}}
    preprocess_cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    module = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(module.state_dict(), folder / "open_clip_model.safetensors")
    return folder
