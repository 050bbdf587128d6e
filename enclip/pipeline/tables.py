"""Tables for people's spreadsheets: CSV whose cells are never formulas."""

import csv
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path

from enclip.blobs import write_whole

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a CSV file, whole; the path. Text that a spreadsheet would run gets a leading apostrophe.

    Names and categories come from the shop's feed, and so from whoever writes there (CWE-1236). Figures stay
    figures; floats have six decimals.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    write_whole(path, text.getvalue().encode("utf-8", "replace"))
    return path


def inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula, whatever spaces it begins with."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text


def _cell(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    return inert(value) if isinstance(value, str) else value
