"""Pictures side by side with a line or two below each: a list that people would rather look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from enclip.evaluation.plots import DPI, GRID, INK, PALE, save_figure

COLUMNS = 6
LINE = 26  # characters that fit below a picture


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture, uint8 RGB `[H, W, 3]` of any size or None, and what stands below it."""

    picture: NDArray[np.uint8] | None
    title: str
    note: str


def contact_sheet(path: Path, frames: Sequence[Frame], *, title: str) -> Path:
    """Write the frames, six a row in reading order, as a PNG below 300 kB."""
    columns = min(COLUMNS, max(2, len(frames)))
    rows = -(-len(frames) // columns)
    figure = Figure(figsize=(1.75 * columns, 2.3 * rows + 0.5), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontweight="bold")
    for number in range(rows * columns):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(GRID)
        if number >= len(frames):
            axes.set_axis_off()
            continue
        frame = frames[number]
        if frame.picture is None:
            axes.text(0.5, 0.5, "no picture", ha="center", va="center", color=PALE, transform=axes.transAxes)
        else:
            axes.imshow(frame.picture, interpolation="lanczos")
        # parse_math: a `$` in a shop's label is a price, not a formula.
        axes.set_xlabel(_short(frame.title), color=INK, fontsize=8, parse_math=False)
        axes.set_title(_short(frame.note), color=PALE, fontsize=7, parse_math=False, pad=3)
    return save_figure(figure, path)


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LINE else words[: LINE - 1] + "…"
