from collections.abc import Iterator

import pytest
import torch
from torch import nn

from enclip.models.architecture import Architecture
from enclip.models.optimizer import layer_shares, make_optimizer
from enclip.models.training import Towers
from enclip.recipes import TrainRecipe

from .small_models import SMALL, small_clip

TRANSFORMERS = SMALL.model_copy(
    update={
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 3},
            "text_cfg": {"context_length": 12, "vocab_size": 1024, "width": 32, "heads": 2, "layers": 2},
        }
    }
)
TEXT = {
    "clip.token_embedding.weight": 3,
    "clip.positional_embedding": 3,
    "clip.transformer.resblocks.0.attn.in_proj_weight": 2,
    "clip.transformer.resblocks.1.mlp.c_proj.bias": 1,
    "clip.ln_final.weight": 0,
    "clip.text_projection": 0,
    "clip.logit_scale": 0,
}


@pytest.mark.parametrize(
    ("architecture", "blocks_above"),
    [
        (
            SMALL,  # a ResNet of timm's, and a text tower with one block
            {
                "clip.visual.trunk.conv1.0.weight": 5,
                "clip.visual.trunk.bn1.bias": 5,
                "clip.visual.trunk.layer1.0.conv1.weight": 4,
                "clip.visual.trunk.layer2.0.downsample.1.weight": 3,
                "clip.visual.trunk.layer4.0.bn2.weight": 1,
                "clip.visual.head.proj.weight": 0,
                "clip.token_embedding.weight": 2,
                "clip.transformer.resblocks.0.ln_1.weight": 1,
                "bias": 0,
            },
        ),
        (
            TRANSFORMERS,
            {
                "clip.visual.class_embedding": 4,
                "clip.visual.positional_embedding": 4,
                "clip.visual.conv1.weight": 4,
                "clip.visual.ln_pre.bias": 4,
                "clip.visual.transformer.resblocks.0.ln_1.weight": 3,
                "clip.visual.transformer.resblocks.2.attn.out_proj.weight": 1,
                "clip.visual.ln_post.weight": 0,
                "clip.visual.proj": 0,
                **TEXT,
            },
        ),
    ],
    ids=["ResNet", "transformers"],
)
def test_a_layer_learns_the_slower_the_more_blocks_are_above_it(
    architecture: Architecture, blocks_above: dict[str, int]
) -> None:
    recipe = TrainRecipe(layer_decay=0.5, loss="sigmoid")
    towers = Towers(small_clip(architecture=architecture), recipe)
    shares = layer_shares(towers, 0.5)
    assert {name: shares[name] for name in blocks_above} == {name: 0.5**above for name, above in blocks_above.items()}
    optimizer = make_optimizer(towers, recipe)
    grouped = {id(value): group for group in optimizer.param_groups for value in group["params"]}
    for name, value in towers.named_parameters():
        group = grouped[id(value)]
        assert group["share"] == shares[name]
        assert group["weight_decay"] == (recipe.weight_decay if value.ndim >= 2 else 0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(towers.parameters()))


def test_the_blocks_of_a_hybrid_s_stem_are_no_blocks_of_its_tower() -> None:
    """ViTamin's names: convolutions in stages below a transformer."""

    class Named(nn.Module):
        def named_parameters(self, *_: object, **__: object) -> Iterator[tuple[str, nn.Parameter]]:
            names = [
                "patch_embed.backbone.stages.1.blocks.3.conv.weight",
                "blocks.0.attn.weight",
                "blocks.1.attn.weight",
            ]
            return ((f"clip.visual.trunk.{name}", nn.Parameter()) for name in names)

    assert list(layer_shares(Named(), 0.5).values()) == [0.5**3, 0.5**2, 0.5]


def test_the_blocks_of_t5_are_rungs_and_their_sublayers_are_not() -> None:
    blocks = [nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])}) for _ in range(3)]
    shares = layer_shares(nn.ModuleDict({"text": nn.ModuleDict({"block": nn.ModuleList(blocks)})}), 0.5)
    for block, expected in enumerate((0.125, 0.25, 0.5)):
        assert {shares[f"text.block.{block}.layer.{layer}.weight"] for layer in (0, 1)} == {expected}


def test_without_a_decay_there_are_two_groups_as_ever() -> None:
    towers = Towers(small_clip(), TrainRecipe())
    matrices, others = make_optimizer(towers, TrainRecipe()).param_groups
    assert [group["share"] for group in (matrices, others)] == [1, 1]
    parameters = list(towers.parameters())
    assert list(map(id, matrices["params"])) == [id(value) for value in parameters if value.ndim >= 2]
    assert list(map(id, others["params"])) == [id(value) for value in parameters if value.ndim < 2]


def test_what_learns_slower_moves_less() -> None:
    recipe = TrainRecipe(layer_decay=0.1, weight_decay=0.0)
    towers = Towers(small_clip(), recipe)
    before = {name: value.detach().clone() for name, value in towers.named_parameters()}
    optimizer = make_optimizer(towers, recipe)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group["share"]
    for value in towers.parameters():
        value.grad = torch.ones_like(value)
    optimizer.step()  # Adam's first step is the rate, whatever the gradient
    moved = {name: float((before[name] - value.detach()).abs().mean()) for name, value in towers.named_parameters()}
    assert moved["clip.visual.head.proj.weight"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["clip.visual.trunk.layer4.0.conv1.weight"] == pytest.approx(1e-4, rel=1e-2)
    assert moved["clip.visual.trunk.layer1.0.conv1.weight"] == pytest.approx(1e-7, rel=0.1)
