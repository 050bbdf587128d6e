"""What is left out of the text tower's work must not change its features."""

import open_clip
import pytest
import torch

from enclip.models.texts import distinct, encode_texts, without_padding

from .small_models import small_clip

TEXTS = ["red shirt", "blue bag", "red shirt", "!"]


def test_padding_does_not_reach_the_features_of_a_causal_tower() -> None:
    model = small_clip()
    token_BL = model.tokenize(TEXTS)
    short_BL = without_padding(model.module, token_BL)
    assert short_BL.shape[1] < token_BL.shape[1]
    torch.testing.assert_close(
        encode_texts(model.module, short_BL), model.module.encode_text(token_BL), rtol=1e-5, atol=1e-6
    )


def test_gradients_are_those_of_the_whole_text() -> None:
    model = small_clip()
    model.module.double()  # in float32 kernels for other lengths differ in the last digits, by CPU
    token_BL = model.tokenize(TEXTS)
    found = []
    for tokens in (token_BL, without_padding(model.module, token_BL)):
        model.module.zero_grad()
        encode_texts(model.module, tokens).square().sum().backward()
        found.append(model.module.positional_embedding.grad.clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("text_cfg", [{"no_causal_mask": True, "pool_type": "last"}, {"pool_type": "last"}])
def test_a_tower_that_reads_its_padding_gets_it(text_cfg: dict[str, object]) -> None:
    clip = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
        text_cfg={"context_length": 12, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1, **text_cfg},
    ).eval()
    token_BL = torch.tensor([[62, 5, 63, *[0] * 9]])
    assert without_padding(clip, token_BL) is token_BL
    torch.testing.assert_close(encode_texts(clip, token_BL), clip.encode_text(token_BL))


def test_each_text_is_encoded_once_and_comes_back_in_order() -> None:
    model = small_clip()
    token_CL = model.tokenize(TEXTS)
    parts, text_C = distinct(model.module, token_CL)
    assert [part.shape for part in parts] == [(32, 8)]  # rounded up
    assert len(set(text_C.tolist())) == 3
    assert torch.equal(parts[0][text_C], token_CL[:, :8])


def test_short_texts_do_not_wait_for_long_ones() -> None:
    model = small_clip()
    short = [f"red bag {number}" for number in range(40)]
    long = [f"{number} very large red bags with two long handles" for number in range(30)]
    token_CL = model.tokenize([*long, *short, *long])
    parts, text_C = distinct(model.module, token_CL)
    lengths = [part.shape[1] for part in parts]
    assert [len(part) for part in parts] == [32, 64] and lengths[0] == 8 < lengths[1]
    features_UD = torch.cat([encode_texts(model.module, part) for part in parts])
    torch.testing.assert_close(features_UD[text_C], model.module.encode_text(token_CL), rtol=1e-5, atol=1e-6)


def test_a_training_meets_few_shapes() -> None:
    model = small_clip()
    for size in (40, 50, 64):
        token_CL = model.tokenize([f"red bag {number}" for number in range(size)] + ["red bag 1"] * 64)
        parts, text_C = distinct(model.module, token_CL)
        assert sum(len(part) for part in parts) == 64
        assert torch.equal(torch.cat(parts)[text_C], token_CL[:, :8])


def test_no_text_is_no_error() -> None:
    module = small_clip().module
    assert without_padding(module, torch.zeros(0, 24, dtype=torch.int64)).shape == (0, 24)
