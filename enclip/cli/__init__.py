"""The command line: a table from command to step. Each command parses, calls one function, renders."""

import io
import logging
import os
import sys
from collections.abc import Callable

import typer
from rich.console import Console

from enclip.cli import audit, catalog, judgements, platform, releases, render, search, steps, study
from enclip.errors import EnclipError

app = typer.Typer(
    name="enclip",
    help="A product search that retrains itself: ingest a catalog, fine-tune, ensemble, gate, promote, search.",
    epilog="Start with `enclip demo`, or: enclip ingest PATH, enclip retrain, enclip search 'navy blue shirt'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)

PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Catalog": (catalog.ingest, catalog.draw, audit.audit),
    "Search": (search.search, search.serve, search.status),
    "Retraining, whole": (steps.retrain, steps.refresh),
    "Retraining, step by step": (steps.snapshot, steps.train, steps.choose, steps.distil, steps.embed, steps.cluster),
    "Releases": (
        releases.evaluate,
        releases.gate,
        releases.promote,
        releases.rollback,
        releases.report,
        judgements.judgements,
    ),
    "Research": (study.study,),
    "Platform": (platform.up, platform.demo, platform.prune),
}
for _panel, _commands in PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)


def main() -> None:
    """Entry point: an EnclipError, or a file that cannot be written, becomes one message and exit status 1."""
    # Small matrices and several request threads: more BLAS threads only wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # On a machine that others use too, threads that spin while they wait halve everybody's speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding does not have is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except EnclipError as error:
        _tell(error.what, error.remedy)
        raise SystemExit(1) from None
    except OSError as error:  # a file or folder that this command was told to write, or a disk that is full
        _tell(
            f"{error.filename or 'Input or output'}: {error.strerror or error}.",
            "Check the path, its rights and space.",
        )
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _tell(what: str, remedy: str) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    console.print("[bold red]error:[/] ", end="")
    console.print(render.plain(what), markup=False)
    if remedy:
        console.print("  [dim]try:[/] ", end="")
        console.print(render.plain(remedy), markup=False)
