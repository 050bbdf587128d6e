"""CSV bytes → cells, one bad row at a time: damage costs the row it is in, never the file.

Exports in the wild hold unquoted commas in the last column, stray quotes, two encodings in one file and
cells without end. Reading is streaming: memory does not grow with the file.
"""

import csv
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from enclip.errors import CatalogError

MAX_LINE_BYTES = 1_000_000
BEGINNING_BYTES = 1000  # kept of a longer row, so that it can be named
MAX_QUOTED_LINES = 20  # a quoted cell may span this many lines; a stray quote must not swallow the file
DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True, slots=True)
class Cells:
    """One data row; `row` counts data rows from 1. Of a damaged one `cells` are those of its beginning."""

    row: int
    cells: list[str]
    damage: str = ""  # why the row cannot be used


class CsvTable:
    """A CSV file opened for one pass: its header, then its rows."""

    def __init__(self, file: IO[bytes], *, where: str) -> None:
        """Read the header.

        Args:
            file: positioned at its start; read once.
            where: what errors call the file.

        Raises:
            CatalogError: empty, not text in UTF-8 or Windows-1252, or without line ends.
        """
        self._lines = _Lines(file)
        first = next((line for line in self._lines if line.strip()), None)
        if first is None:
            raise CatalogError(f"{where} is empty.", remedy="It needs a header row and products below it.")
        if "\r" in first or isinstance(first, _Beginning):
            raise CatalogError(
                f"{where} has no line ends, or a header row of more than {MAX_LINE_BYTES} bytes.",
                remedy="Save it as UTF-8 CSV, a line a product.",
            )
        first = first.removeprefix("\ufeff")
        if any(char != "\t" and unicodedata.category(char) == "Cc" for char in first):
            raise CatalogError(f"{where} is not UTF-8 text.", remedy="Save it as UTF-8 CSV.")
        self._delimiter = max(DELIMITERS, key=first.count)
        self.header = [cell.strip() for cell in self._split(first)]

    def rows(self) -> Iterator[Cells]:
        """The rows in order; blank lines do not count as rows."""
        number = 0
        for line in self._lines:
            is_beginning = isinstance(line, _Beginning)
            if not line.strip() and not is_beginning:
                continue
            number += 1
            if is_beginning:
                whole = line.split(self._delimiter)[:-1]
                yield Cells(
                    number, [cell.strip('"') for cell in whole], f"the row has more than {MAX_LINE_BYTES} bytes"
                )
            else:
                yield Cells(number, self._split(line))

    def _split(self, line: str) -> list[str]:
        """Cells of the row that begins with this line; takes further lines while a quote is open."""
        if '"' not in line:
            return line.split(self._delimiter)
        taken = [line]
        while len(taken) <= MAX_QUOTED_LINES:
            try:
                return next(csv.reader(("\n".join(taken),), delimiter=self._delimiter, strict=True))
            except csv.Error as error:
                if "unexpected end of data" not in str(error):
                    break
            following = next(self._lines, None)
            if following is None:
                break
            taken.append(following)
            if isinstance(following, _Beginning):
                break
        # The quote is a stray one: it belongs to the text, and the other lines are rows of their own.
        self._lines.give_back(taken[1:])
        return line.split(self._delimiter)


def repaired(cells: Sequence[str], width: int) -> list[str] | None:
    """Cells as wide as the header: surplus ones are the last cell's unquoted commas; None where some are missing."""
    if len(cells) < width:
        return None
    while len(cells) > width and not cells[-1].strip():  # a trailing delimiter is no comma of the name
        cells = cells[:-1]
    return [*cells[: width - 1], ",".join(cells[width - 1 :])]


class _Beginning(str):
    """What is kept of a line that is too long."""


class _Lines:
    """Decoded lines without their line ends; lines can be given back."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._again: list[str] = []

    def give_back(self, lines: Sequence[str]) -> None:
        self._again = [*lines, *self._again]

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self._again:
            return self._again.pop(0)
        raw = self._file.readline(MAX_LINE_BYTES)
        if not raw:
            raise StopIteration
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := self._file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            return _Beginning(raw[:BEGINNING_BYTES].decode("utf-8", "replace"))
        return _decoded(raw).rstrip("\r\n")


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        pass
    try:
        return raw.decode("cp1252")  # Latin-1 with the quotation marks and dashes of Windows
    except UnicodeDecodeError:
        return raw.decode("latin-1")
