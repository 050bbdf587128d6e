"""What a study is: its question, what it trains, and over how many folds. One typed definition, saved in its report."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from enclip.recipes import Recipe, ReleaseRecipe, TrainRecipe
from enclip.studies.lab import Training


class Setting(Recipe):
    """The trainings that studies share: a release's instances, and one plain run of the same total."""

    base: str = Field("tiny", description="Base weights of all trainings.")
    epochs: int = Field(48, ge=1, description="Epochs of each instance of the release.")
    instances: int = Field(1, ge=1, le=16, description="Instances (seeds) of the release, wholly distinct.")
    offered: int = Field(5, ge=1, description="Last epochs of each instance that may become members.")
    folds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="Assignments of groups to splits, with seeds.")
    release: ReleaseRecipe = Field(ReleaseRecipe(), description="How the release is chosen on select.")

    def baseline(self, fold: int) -> Training:
        """One plain cosine run with all of the release's epochs."""
        return self._training(fold, seed=fold * 100, epochs=self.epochs * self.instances)

    def instance(self, fold: int, number: int) -> Training:
        """One instance of the release."""
        return self._training(fold, seed=fold * 100 + number, epochs=self.epochs)

    def little(self, fold: int, share: float) -> Training:
        """One instance on a share of the train split."""
        return self.instance(fold, 0).model_copy(update={"share": share})

    def varied(self, fold: int, changes: Mapping[str, Any]) -> Training:
        """One instance by a recipe with these fields changed."""
        plain = self.instance(fold, 0)
        recipe = TrainRecipe.model_validate({**plain.recipe.model_dump(), **changes})
        return plain.model_copy(update={"recipe": recipe})

    def _training(self, fold: int, *, seed: int, epochs: int) -> Training:
        return Training(recipe=TrainRecipe(base=self.base, epochs=epochs, instances=1, seed=seed), fold=fold)
