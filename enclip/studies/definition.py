"""What a study is: its question, what it trains, and over how many folds. One typed definition, saved in its report."""

import hashlib
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from enclip.recipes import TINY, Recipe, ReleaseRecipe, TrainRecipe
from enclip.studies.lab import Training


class Setting(Recipe):
    """The trainings that studies share: a release's instances, and one plain run of the same total."""

    base: str = Field(TINY, description="Base weights of all trainings.")
    epochs: int = Field(48, ge=1, description="Epochs of each instance of the release.")
    instances: int = Field(1, ge=1, le=16, description="Instances (seeds) of the release, wholly distinct.")
    plain_epochs: int = Field(0, ge=0, description="Epochs of the one plain run; 0: all of the release's together.")
    side: int | None = Field(None, gt=0, description="Side of the release's pictures in px, where not the base's.")
    varied: dict[str, bool | int | float | str] = Field(
        {}, description="Fields of TrainRecipe in which the release's instances differ from the plain run."
    )
    offered: int = Field(5, ge=1, description="Last epochs of each instance that may become members.")
    folds: tuple[Annotated[int, Field(ge=0, le=4)], ...] = Field(
        (0, 1, 2), min_length=1, description="Assignments of groups to splits, with seeds."
    )
    release: ReleaseRecipe = Field(ReleaseRecipe(), description="How the release is chosen on select.")

    @field_validator("varied")
    @classmethod
    def _are_a_recipes(cls, varied: dict[str, Any]) -> dict[str, Any]:
        try:
            asked = TrainRecipe.model_validate(varied).model_dump(include=set(varied))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{first['loc'][0]}: {first['msg']}") from error
        if taken := {"base", "epochs", "instances", "seed", "image_side", "pixel_side", "device"} & set(varied):
            raise ValueError(f"{', '.join(sorted(taken))}: fixed by the study")
        return asked

    def baseline(self, fold: int) -> Training:
        """One plain cosine run, with all of the release's epochs where its own are not said."""
        return self._training(fold, seed=fold * 100, epochs=self.plain_epochs or self.epochs * self.instances)

    def instance(self, fold: int, number: int) -> Training:
        """One instance of the release."""
        plain = self._training(fold, seed=fold * 100 + number, epochs=self.epochs)
        return plain.varied(image_side=self.side or 0, **self.varied)

    def instances_of(self, fold: int) -> list[Training]:
        """All instances of the release."""
        return [self.instance(fold, number) for number in range(self.instances)]

    def all_of(self, fold: int) -> list[Training]:
        """The plain run, the longest, and all instances."""
        return [self.baseline(fold), *self.instances_of(fold)]

    def said(self) -> str:
        """What is trained, in a line."""
        side = f" at {self.side} px" if self.side else ""
        how = "".join(f", {name} {value}" for name, value in self.varied.items())
        plain = self.plain_epochs or self.epochs * self.instances
        instances = "one instance" if self.instances == 1 else f"{self.instances} instances"
        release = f"{instances} of {self.epochs} epochs{side}{how}"
        return f"Base `{self.base}`, {release}, against one plain cosine run of {plain}"

    def options(self) -> str:
        """What `enclip study NAME` is called with for it, where that is not the default."""
        own = self.model_dump(include={"base", "epochs", "instances", "plain_epochs", "side"}, exclude_defaults=True)
        named = [f" --{name.replace('_', '-')} {value}" for name, value in own.items()]
        return "".join([*named, *(f" --vary {name}={value}" for name, value in self.varied.items())])

    def digest(self) -> str:
        """8 hex digits of all but the folds."""
        return hashlib.sha256(self.model_dump_json(exclude={"folds"}).encode()).hexdigest()[:8]

    def little(self, fold: int, share: float) -> Training:
        """One instance on a share of the train split."""
        return self.instance(fold, 0).model_copy(update={"share": share})

    def _training(self, fold: int, *, seed: int, epochs: int) -> Training:
        return Training(recipe=TrainRecipe(base=self.base, epochs=epochs, instances=1, seed=seed), fold=fold)
