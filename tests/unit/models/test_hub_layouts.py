"""Bases in the layouts that hubs have besides CLIP's own: SigLIP's, as Marqo's models are, and a text tower of BERT's.

Small ones, written here as open_clip publishes large ones: configuration, weights, the tokenizer's files.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from enclip.models.bases import load_base
from enclip.models.checkpoint import load_checkpoint, save_checkpoint
from enclip.models.clip import ClipEncoder
from enclip.recipes import TrainRecipe
from tests.conftest import unavailable

from .small_models import CPU, draw_shapes, epochs_trained

try:
    import transformers
except ImportError:
    transformers = None
SIDE, TEXTS = 32, ["Red Boxes!", "green  rings"]
SIGLIP: dict[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": SIDE,
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 32,
        "hf_tokenizer_name": "nobody/SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 64,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}


@pytest.fixture(autouse=True)
def _with_transformers() -> None:
    if transformers is None:
        unavailable("hf", "the optional extra is not installed")


def siglip(folder: Path) -> dict[str, Any]:
    return SIGLIP


def with_text_tower(folder: Path) -> dict[str, Any]:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertConfig(vocab_size=32, max_position_embeddings=16, **small).save_pretrained(folder / "tower")
    text_cfg = {
        "context_length": 16,
        "hf_model_name": str(folder / "tower"),
        "hf_tokenizer_name": "nobody/BERT",
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "mlp",
    }
    return {key: value for key, value in SIGLIP.items() if key != "init_logit_bias"} | {"text_cfg": text_cfg}


@pytest.fixture(params=[siglip, with_text_tower], ids=["SigLIP", "a text tower of BERT's"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / "base"
    layout: Callable[[Path], dict[str, Any]] = request.param
    _save_tokenizer(made)
    config = {
        "model_cfg": layout(made),
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    }
    (made / "open_clip_config.json").write_text(json.dumps(config))
    module = open_clip.create_model(f"local-dir:{made}", load_weights=False, pretrained_hf=False)
    save_file(
        {name: value.contiguous() for name, value in module.state_dict().items()}, made / "open_clip_model.safetensors"
    )
    return made


def test_it_answers_as_open_clip_s_own(folder: Path) -> None:
    model = load_base(f"local-dir:{folder}", seed=0, device=CPU)
    assert not model.from_scratch and model.side == SIDE
    theirs, _, look = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    theirs.eval()
    pixels = np.random.default_rng(0).integers(0, 255, (2, SIDE, SIDE, 3), np.uint8)
    with torch.no_grad():
        text_BD = theirs.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS), normalize=True)
        images = torch.stack([look(Image.fromarray(picture)) for picture in pixels])
        image_BD = theirs.encode_image(images, normalize=True)
    encoder = ClipEncoder(model)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), text_BD.numpy(), atol=1e-5)
    # Ours is computed in bfloat16 where the processor has it.
    np.testing.assert_allclose(encoder.encode_images(pixels), image_BD.numpy(), atol=2e-2)


def test_what_was_fine_tuned_opens_without_its_folder(folder: Path, tmp_path: Path) -> None:
    model = load_base(f"local-dir:{folder}", seed=0, device=CPU)
    recipe = TrainRecipe(epochs=1, batch_size=24, device="cpu", loss="sigmoid", learning_rate=1e-3)
    before = ClipEncoder(model).encode_texts(TEXTS)
    *_, last = epochs_trained(
        model, draw_shapes(48), recipe, tmp_path / "state", instance=0, validate=lambda _: {}, stop_after=1
    )
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    trained = load_checkpoint(last.folder, device=CPU)
    after = ClipEncoder(trained).encode_texts(TEXTS)
    assert after.shape == before.shape and not np.allclose(after, before, atol=1e-3)
    save_checkpoint(tmp_path / "again", trained, pixel_side=SIDE)
    again = ClipEncoder(load_checkpoint(tmp_path / "again", device=CPU)).encode_texts(TEXTS)
    np.testing.assert_allclose(again, after, atol=1e-6)


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(
        ["red green blue black bars boxes rings"],
        trainers.WordLevelTrainer(special_tokens=["<pad>", "</s>", "<unk>"]),
    )
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    saved = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    saved.save_pretrained(folder)
