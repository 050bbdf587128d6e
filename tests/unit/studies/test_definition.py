"""What a setting trains, and what it says of it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from enclip.cli.study import study
from enclip.errors import ConfigError
from enclip.studies.definition import Setting


def test_a_release_may_be_trained_otherwise_than_the_plain_run() -> None:
    setting = Setting(epochs=6, instances=2, plain_epochs=9, side=64, varied={"mix": 0.5})
    plain, second = setting.baseline(1), setting.instance(1, 1)
    assert (plain.recipe.epochs, plain.recipe.mix, plain.recipe.image_side, plain.recipe.seed) == (9, 0, 0, 100)
    assert (second.recipe.epochs, second.recipe.mix, second.recipe.image_side, second.recipe.seed) == (6, 0.5, 64, 101)
    assert setting.little(1, 0.5) == setting.instance(1, 0).model_copy(update={"share": 0.5})
    said = "Base `tiny`, 2 instances of 6 epochs at 64 px, mix 0.5, against one plain cosine run of 9"
    assert setting.said() == said


def test_a_plain_run_has_all_of_the_release_s_epochs_where_none_are_said() -> None:
    assert Setting(epochs=6, instances=2).baseline(0).recipe.epochs == 12


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        ({"mix": 2}, "less than or equal to 1"),
        ({"mixt": 1}, "Extra inputs"),
        ({"seed": 1}, "seed: fixed by the study"),
        ({"pixel_side": 96}, "pixel_side: fixed"),
        ({"image_side": 64}, "image_side: fixed"),
    ],
)
def test_what_is_no_technique_of_a_training_is_refused(varied: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Setting(varied=varied)


@pytest.mark.parametrize("vary", ["mix", "mix=much", "mixt=1", "epochs=3"])
def test_the_command_says_what_is_wrong_with_it(vary: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"--vary {vary}: [^\n]+\.$") as error:
        study("ensemble", vary=[vary], folder=tmp_path)
    assert "mix=0.5" in (error.value.remedy or "")
