"""A training keeps its name when recipes gain fields: what was cached is found, what was cut off goes on."""

import json

import pytest

from enclip.recipes import ADDED_LATER, TrainRecipe

BEFORE = (
    '{"base":"tiny","epochs":24,"instances":1,"seed":0,"batch_size":0,"accumulate":1,"learning_rate":0.0,'
    '"weight_decay":0.1,"warmup":0.1,"schedule":"cosine","cycles":3,"loss":"softmax","low_quality":0.3,'
    '"pixel_side":0,"patience":0,"focus":[],"replay":0.3}'
)
ON = {
    "ema": 0.998,
    "mix": 0.5,
    "attribute_dropout": 0.3,
    "hard_negatives": 0.5,
    "hard_negatives_by": "cluster",
    "progressive_resizing": 0.6,
    "image_side": 64,
    "layer_decay": 0.75,
    "lora_rank": 8,
}


def _digested(recipe: TrainRecipe) -> str:
    return recipe.model_dump_json(exclude=set(recipe.left_out_of_digests))


def test_a_recipe_without_the_later_techniques_says_what_it_said_before() -> None:
    assert _digested(TrainRecipe()) == BEFORE
    assert _digested(TrainRecipe(device="cpu")) == BEFORE
    assert _digested(TrainRecipe.model_validate(json.loads(BEFORE))) == BEFORE


@pytest.mark.parametrize("name", ADDED_LATER)
def test_each_technique_that_is_on_is_said(name: str) -> None:
    changed = TrainRecipe(**{name: ON[name]})
    assert json.loads(_digested(changed)) == {**json.loads(BEFORE), name: ON[name]}


def test_techniques_are_off_unless_asked_for() -> None:
    assert TrainRecipe().left_out_of_digests == {"device", *ADDED_LATER}
    assert ON.keys() == ADDED_LATER.keys()
