"""`enclip study`."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from enclip.cli.options import platform
from enclip.errors import ConfigError


def study(
    name: Annotated[
        str,
        typer.Argument(
            help="ensemble, clusters, size, ablation, fusion, members, heads, low-quality, little-data, bases, recipe "
            "or cost."
        ),
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each instance; one plain run has all of them.")] = 48,
    instances: Annotated[int, typer.Option(min=1, max=16, help="Instances of the release.")] = 1,
    plain_epochs: Annotated[int, typer.Option(min=0, help="Epochs of the plain run, where not the release's.")] = 0,
    side: Annotated[int | None, typer.Option(min=8, help="Side of the release's pictures in px.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=VALUE", help="The release's training differs in it from the plain run's."),
    ] = None,
    base: Annotated[str, typer.Option(help="Base weights of all trainings; local-dir:PATH for a folder.")] = "tiny",
    fold: Annotated[list[int] | None, typer.Option(min=0, max=4, help="Only this fold; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Trainings at once, each with its part of the cores.")] = 1,
    folder: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("docs/reports"),
) -> None:
    """Answer a question about the method on the catalog that is ingested, over folds and seeds.

    Writes NAME.md, NAME.json, NAME.per_query.csv and NAME.png, and logs them to MLflow. Trainings are cached
    by recipe, fold and seed and shared by all studies; what was cut off goes on. A report keeps the folds
    that it has, so that folds can be run one at a time: `enclip study ensemble --fold 1`.

    A release that is trained otherwise than the plain run: `enclip study ensemble --instances 2 --vary
    mix=0.5 --folder reports-of-mix`. A report of another setting in the same folder is replaced.
    """
    from enclip.cli import render
    from enclip.studies.definition import Setting
    from enclip.studies.run import run_study

    try:
        setting = Setting(
            base=base,
            epochs=epochs,
            instances=instances,
            plain_epochs=plain_epochs,
            side=side,
            varied=dict(pair.split("=", 1) for pair in vary or ()),
        )
    except ValueError as error:
        told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it takes FIELD=VALUE"
        raise ConfigError(
            f"--vary {' '.join(vary or ())}: {told}.",
            remedy="Name fields as `enclip retrain --help` has them: mix=0.5.",
        ) from error
    paths = run_study(
        platform(), name, setting, folds=fold or setting.folds, folder=folder, tell=render.note, jobs=jobs
    )
    for path in paths:
        typer.echo(path)
