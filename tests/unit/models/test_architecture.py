import numpy as np
import open_clip
import pytest
import torch

from enclip.errors import WeightsError
from enclip.models.architecture import Architecture, TokenizerSpec, build_module, build_tokenizer
from enclip.models.bases import packaged
from enclip.recipes import TINY

from .small_models import SMALL


def test_the_seed_makes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (build_module(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["visual.head.proj.weight"], other["visual.head.proj.weight"])


def test_an_architecture_survives_json():
    assert Architecture.model_validate_json(packaged(TINY).model_dump_json()) == packaged(TINY)


def test_a_configuration_that_open_clip_cannot_build_is_one_clear_error():
    broken = SMALL.model_copy(
        update={"model_cfg": {**SMALL.model_cfg, "vision_cfg": {"timm_model_name": "no_such_net", "image_size": 32}}}
    )
    with pytest.raises(WeightsError, match="no_such_net"):
        build_module(broken)


def test_without_a_bound_on_merges_it_is_open_clips_tokenizer():
    texts = ["Turtle Check Men Navy Blue Shirt", "", "Größe 42 – naïve café", "a" * 400]
    ours = build_tokenizer(TokenizerSpec(kind="bpe", context_length=77))
    assert torch.equal(ours(texts), open_clip.get_tokenizer("ViT-B-32")(texts))


def test_fewer_merges_cut_words_finer_into_a_smaller_vocabulary_and_lose_nothing():
    from enclip.models.architecture import _bpe

    spec = TokenizerSpec(kind="bpe", context_length=24, num_merges=510)
    tokens_BL = build_tokenizer(spec)(["Titan Women Silver Watch", "naïve café"])
    assert tokens_BL.shape == (2, 24)
    assert int(tokens_BL.max()) == 512 + 510 + 1  # the end of text has the highest id: open_clip pools there
    inner = [int(token) for token in tokens_BL[0] if 0 < token < 512 + 510]
    assert _bpe(spec).decode(inner).strip() == "titan women silver watch"


def test_a_text_beyond_the_context_is_cut_and_still_ends():
    tokens_BL = build_tokenizer(SMALL.tokenizer)(["word " * 100])
    assert tokens_BL.shape == (1, 12)
    assert int(tokens_BL[0, -1]) == int(tokens_BL.max())


def test_no_texts_give_no_tokens():
    assert build_tokenizer(SMALL.tokenizer)([]).shape == (0, 12)


def test_tiny_fits_its_tokenizer():
    tiny = packaged(TINY)
    text_cfg = tiny.model_cfg["text_cfg"]
    assert text_cfg["vocab_size"] == 512 + tiny.tokenizer.num_merges + 2
    assert text_cfg["context_length"] == tiny.tokenizer.context_length
    assert tiny.model_cfg["vision_cfg"]["image_size"] == tiny.preprocessing.side
    tokens_BL = build_tokenizer(tiny.tokenizer)(["Men Navy Blue Casual Shoes", "x" * 1000])
    assert int(tokens_BL.max()) < text_cfg["vocab_size"]
    assert np.all(tokens_BL.numpy() >= 0)
