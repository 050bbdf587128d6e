"""Options that several commands share; their help stands in one place."""

from typing import Annotated

import typer

from enclip.config import Settings
from enclip.errors import ConfigError
from enclip.pipeline.platform import Platform, open_platform
from enclip.pipeline.runs import last_run_id

Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document on stdout.")]
Run = Annotated[str, typer.Option("--run", help="Run to act on; default: the one planned last.")]
Release = Annotated[str, typer.Option("--release", help="A version of `enclip`, or an alias such as champion.")]
Colour = Annotated[list[str] | None, typer.Option("--colour", help="Only products of this colour; may be repeated.")]
Gender = Annotated[list[str] | None, typer.Option("--gender", help="Only products for this gender; may be repeated.")]
Category = Annotated[list[str] | None, typer.Option("--category", help="Only this category; may be repeated.")]
PriceMin = Annotated[float | None, typer.Option("--price-min", help="Only products of this price or more.")]
PriceMax = Annotated[float | None, typer.Option("--price-max", help="Only products of this price or less.")]


def platform() -> Platform:
    """The platform of this process's environment."""
    return open_platform(Settings())


def run_of(opened: Platform, run: str) -> str:
    """The run named, else the last one planned."""
    return run or last_run_id(opened.blobs)


def mapping_of(text: str) -> dict[str, str]:
    """`name=title,image=file` as field → column. Raises ConfigError for anything else."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if any(not field.strip() or not equals or not column.strip() for field, equals, column in pairs):
        raise ConfigError(f"--map {text!r} is not understood.", remedy="Write --map name=title,image=file.")
    return {field.strip(): column.strip() for field, _, column in pairs}
