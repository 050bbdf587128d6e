"""How results look in a terminal: tables that fit, figures with their counts, progress on stderr."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

# Neither markup nor emoji codes: `[/b]` and `:star:` in a product's name are its own.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)
_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON document on stdout, on one line, so that the last line of a log is the answer."""
    print(json.dumps(value, ensure_ascii=False, default=str))


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table on stdout; figures are aligned right."""
    drawn = Table(
        title=plain(title), title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False
    )
    materialised = [[_cell(value) for value in row] for row in rows]
    for index, name in enumerate(columns):
        is_figure = bool(materialised) and all(_is_figure(row[index]) for row in materialised)
        drawn.add_column(name, justify="right" if is_figure else "left", overflow="fold")
    for row in materialised:
        drawn.add_row(*row)
    out.print(drawn)


@contextmanager
def progress(description: str, total: float | None = None) -> Iterator[Any]:
    """A bar on stderr; yields `advance(completed, total=None, note="")`. Silent where stderr is no terminal."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as bars:
        task = bars.add_task(description, total=total, note="")

        def advance(completed: float, total: float | None = None, note: str = "") -> None:
            bars.update(task, completed=completed, total=total, note=note)

        yield advance


def note(text: str) -> None:
    """A line on stderr about what is going on."""
    err.print(plain(text))


def plain(text: str) -> str:
    """Text with escapes for what would steer a terminal (control and direction characters) or cannot be written."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else plain(str(value))


def _is_figure(cell: str) -> bool:
    return not cell or cell.lstrip("+-−").replace(".", "", 1).replace(",", "").isdigit()
