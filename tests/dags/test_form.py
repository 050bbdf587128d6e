"""The form of `retrain`: what it offers, what it refuses, and the recipe that it means."""

import copy
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

from enclip.recipes import GatePolicy, RetrainRecipe, TrainRecipe


def filled_in(retrain: ModuleType, **values: Any) -> dict[str, Any]:
    """The form with these values; raises what Airflow raises for a value that the schema refuses."""
    return {name: param.resolve(values[name]) if name in values else param.resolve() for name, param in form(retrain)}


def form(retrain: ModuleType) -> list[tuple[str, Any]]:
    # Copies: resolving a value writes it into the Param.
    return [(name, copy.copy(retrain.dag.params.get_param(name))) for name in retrain.PARAMS]


def test_it_offers_what_a_person_may_want_to_change(dag_files: Mapping[str, ModuleType]) -> None:
    names = {name for name, _ in form(dag_files["retrain"])}
    wanted = {"categories", "base", "epochs", "instances", "max_members", "strictness", "device", "require_approval"}
    assert wanted <= names
    assert all(param.description for _, param in form(dag_files["retrain"]))


def test_left_as_it_is_it_means_the_default_recipe(dag_files: Mapping[str, ModuleType]) -> None:
    retrain = dag_files["retrain"]
    assert retrain.recipe_of(filled_in(retrain)) == RetrainRecipe()


def test_a_run_on_categories_starts_from_the_champion(dag_files: Mapping[str, ModuleType]) -> None:
    retrain = dag_files["retrain"]
    recipe = retrain.recipe_of(filled_in(retrain, categories=["Shoes", "Jet Packs"]))
    assert recipe.train.base == "champion"
    assert recipe.train.focus == ("Shoes", "Jet Packs")
    assert recipe.train.replay > 0


def test_base_weights_that_are_named_are_taken(dag_files: Mapping[str, ModuleType]) -> None:
    retrain = dag_files["retrain"]
    for base in ("ViT-B-32:laion2b_s34b_b79k", "hf-hub:Marqo/marqo-fashionSigLIP", "local-dir:/weights/mine"):
        assert retrain.recipe_of(filled_in(retrain, base=base, categories=["Shoes"])).train.base == base


def test_every_field_reaches_the_recipe(dag_files: Mapping[str, ModuleType]) -> None:
    retrain = dag_files["retrain"]
    recipe = retrain.recipe_of(
        filled_in(
            retrain,
            epochs=9,
            instances=3,
            mix=0.5,
            lora_rank=8,
            max_members=1,
            strictness="strict",
            device="cuda",
            require_approval=True,
            min_shadow_queries=500,
            min_shadow_overlap=0.4,
            max_shadow_ratio=1.5,
        )
    )
    assert (recipe.train.epochs, recipe.train.instances, recipe.train.device) == (9, 3, "cuda")
    assert (recipe.train.mix, recipe.train.lora_rank) == (0.5, 8)
    assert recipe.release.max_members == 1
    shadow = {"min_shadow_queries": 500, "min_shadow_overlap": 0.4, "max_shadow_ratio": 1.5}
    assert recipe.gate == GatePolicy.named("strict", require_approval=True, **shadow)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 201),
        ("epochs", "six"),
        ("instances", 17),
        ("mix", 1.5),
        ("lora_rank", -1),
        ("device", "tpu"),
        ("strictness", "none"),
        ("categories", [""]),
        ("categories", "Shoes"),
        ("processes", 0),
    ],
)
def test_what_the_recipe_would_refuse_the_form_refuses(
    dag_files: Mapping[str, ModuleType], field: str, value: object
) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        filled_in(dag_files["retrain"], **{field: value})


def test_bounds_and_sentences_are_the_recipes_own(dag_files: Mapping[str, ModuleType]) -> None:
    param = dict(form(dag_files["retrain"]))["epochs"]
    own = TrainRecipe.model_json_schema()["properties"]["epochs"]
    assert (param.value, param.description) == (own["default"], own["description"])
    assert (param.schema["minimum"], param.schema["maximum"]) == (own["minimum"], own["maximum"])


def test_training_is_one_command_and_a_run_id_cannot_break_out_of_it(dag_files: Mapping[str, ModuleType]) -> None:
    command = dag_files["retrain"].train_command
    assert command("retrain-x", processes=1) == "exec enclip train --run retrain-x --json"
    assert command("a; rm -rf b", processes=1) == "exec enclip train --run 'a; rm -rf b' --json"


def test_several_processes_are_started_by_torchrun_through_the_same_command(
    dag_files: Mapping[str, ModuleType],
) -> None:
    command = dag_files["retrain"].train_command("retrain-x", processes=4)
    assert command == "exec torchrun --standalone --nproc-per-node=4 -m enclip train --run retrain-x --json"


def test_of_the_training_record_later_tasks_get_the_essentials(dag_files: Mapping[str, ModuleType]) -> None:
    from enclip.pipeline.runs import TrainStep
    from enclip.records import EpochVersion

    epochs = tuple(
        EpochVersion(number, f"models:/m-{number}", "r", 0, number, "w", "i", 128, value)
        for number, value in enumerate((0.1, 0.5, 0.4))
    )
    step = TrainStep(epochs=epochs, pixel_side=80, device="cpu", batch_size=64, images_per_s=123.4)
    assert dag_files["retrain"].summary_of(step.model_dump_json()) == {
        "num_epochs": 3,
        "best": {"version": 1, "instance": 0, "epoch": 1, "map_at_10": 0.5},
        "device": "cpu",
        "images_per_s": 123.4,
    }


def test_ingest_takes_a_source_categories_and_column_names(dag_files: Mapping[str, ModuleType]) -> None:
    ingest = dag_files["ingest_catalog"]
    params = {name: copy.copy(ingest.dag.params.get_param(name)) for name in ingest.PARAMS}
    assert params["source"].resolve("s3://shop/feed") == "s3://shop/feed"
    assert params["categories"].resolve(["Shoes"]) == ["Shoes"]
    assert params["mapping"].resolve({"name": "title"}) == {"name": "title"}
    assert params["mode"].resolve() == "upsert"
