"""`enclip study`."""

from pathlib import Path
from typing import Annotated

import typer

from enclip.cli.options import platform


def study(
    name: Annotated[
        str,
        typer.Argument(
            help="ensemble, clusters, size, ablation, fusion, members, low-quality, little-data, bases, recipe or cost."
        ),
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each instance; one plain run has all of them.")] = 48,
    instances: Annotated[int, typer.Option(min=1, max=16, help="Instances of the release.")] = 1,
    base: Annotated[str, typer.Option(help="Base weights of all trainings; local-dir:PATH for a folder.")] = "tiny",
    fold: Annotated[list[int] | None, typer.Option(min=0, help="Only this fold; may be repeated.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("docs/reports"),
) -> None:
    """Answer a question about the method on the catalog that is ingested, over folds and seeds.

    Writes NAME.md, NAME.json, NAME.per_query.csv and NAME.png, and logs them to MLflow. Trainings are cached
    by recipe, fold and seed and shared by all studies; what was cut off goes on. A report keeps the folds
    that it has, so that folds can be run one at a time: `enclip study ensemble --fold 1`.
    """
    from enclip.cli import render
    from enclip.studies.definition import Setting
    from enclip.studies.run import run_study

    setting = Setting(base=base, epochs=epochs, instances=instances)
    paths = run_study(platform(), name, setting, folds=fold or setting.folds, folder=folder, tell=render.note)
    for path in paths:
        typer.echo(path)
