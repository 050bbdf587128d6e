"""Recipe fields as options: each belief's name, bounds and sentence come from `enclip.recipes`."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, get_args

import typer
from pydantic import ValidationError

from enclip.errors import ConfigError
from enclip.recipes import SHADOW_FIELDS, GatePolicy, Recipe, ReleaseRecipe, RetrainRecipe, Strictness, TrainRecipe

TRAIN_FIELDS = tuple(TrainRecipe.model_fields)
RELEASE_FIELDS = (
    "min_members",
    "max_members",
    "max_text_ms",
    "max_memory_mb",
    "exact_up_to",
    "max_search_ms",
    "min_recall",
    "soup_epochs",
    "use_champion",
    "gallery",
    "views",
    "shards",
)


def with_recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each field of the training recipe, the main ones of the release, and the gate."""
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    options = [_option(TrainRecipe, name) for name in TRAIN_FIELDS]
    options += [_option(ReleaseRecipe, name) for name in RELEASE_FIELDS]
    options.append(
        _parameter("strictness", Strictness, "normal", "How much a challenger may lose: strict, normal, lenient.")
    )
    options.append(_parameter("require_approval", bool, False, "Ask a person before a promotion."))
    options += [_option(GatePolicy, name) for name in SHADOW_FIELDS]
    command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *options]}
    return command


def recipe_from(beliefs: Mapping[str, Any]) -> RetrainRecipe:
    """The recipe of these options. Raises ConfigError naming the option that is out of range."""
    with naming_options():
        return RetrainRecipe(
            train=TrainRecipe(**{name: beliefs[name] for name in TRAIN_FIELDS if name in beliefs}),
            release=ReleaseRecipe(**{name: beliefs[name] for name in RELEASE_FIELDS if name in beliefs}),
            gate=GatePolicy.named(
                beliefs.get("strictness", "normal"),
                require_approval=beliefs.get("require_approval", False),
                **{name: beliefs[name] for name in SHADOW_FIELDS if name in beliefs},
            ),
        )


@contextmanager
def naming_options() -> Iterator[None]:
    """A recipe's complaint about a value becomes a ConfigError that names the option."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][-1]).replace("_", "-")
        raise ConfigError(f"--{field} {first['input']!r}: {first['msg']}.") from error


def _option(recipe: type[Recipe], name: str) -> inspect.Parameter:
    field = recipe.model_fields[name]
    annotation: Any = field.annotation
    if get_args(annotation) and annotation == tuple[str, ...]:
        annotation = list[str]
        return _parameter(name, annotation, [], field.description or "")
    return _parameter(name, annotation, field.default, field.description or "")


def _parameter(name: str, annotation: Any, default: Any, description: str) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    if annotation is bool:
        flag = f"{flag}/--no-{name.replace('_', '-')}"
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[annotation, typer.Option(flag, help=description, rich_help_panel="Recipe")],
    )
