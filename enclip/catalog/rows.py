"""CSV bytes → cells, one bad row at a time: damage costs the row it is in, never the file.

Exports in the wild hold unquoted commas in the last column, stray quotes, NUL bytes, two encodings in one
file and cells without end. Reading is streaming: memory does not grow with the file.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from enclip.errors import CatalogError
from enclip.records import Rejection

MAX_LINE_BYTES = 1_000_000
MAX_QUOTED_LINES = 20  # a quoted cell may span this many lines; a stray quote must not swallow the file
DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True, slots=True)
class Cells:
    """One data row; `row` counts data rows from 1."""

    row: int
    cells: list[str]


class CsvTable:
    """A CSV file opened for one pass: its header, then its rows."""

    def __init__(self, file: IO[bytes], *, where: str) -> None:
        """Read the header.

        Args:
            file: positioned at its start; read once.
            where: what errors call the file.

        Raises:
            CatalogError: empty, or not text in UTF-8 or Latin-1.
        """
        self._lines = _Lines(file)
        first = next((line for line in self._lines if line.strip()), None)
        if first is None:
            raise CatalogError(f"{where} is empty.", remedy="It needs a header row and products below it.")
        if "\0" in first:
            raise CatalogError(f"{where} is not UTF-8 text.", remedy="Save it as UTF-8 CSV.")
        first = first.removeprefix("\ufeff")
        self._delimiter = max(DELIMITERS, key=first.count)
        self.header = [cell.strip() for cell in self._split(first)]

    def rows(self) -> Iterator[Cells | Rejection]:
        """The rows in order; blank lines do not count as rows."""
        number = 0
        for line in self._lines:
            if not line.strip() and line != OVERLONG:
                continue
            number += 1
            if line == OVERLONG:
                yield Rejection(number, "", f"the row has more than {MAX_LINE_BYTES} bytes")
            elif "\0" in line:
                yield Rejection(number, "", "the row holds a NUL byte")
            else:
                yield Cells(number, self._split(line))

    def _split(self, line: str) -> list[str]:
        """Cells of the row that begins with this line; takes further lines while a quote is open."""
        taken = [line]
        while len(taken) <= MAX_QUOTED_LINES:
            try:
                return next(
                    csv.reader(io.StringIO("\n".join(taken), newline=""), delimiter=self._delimiter, strict=True)
                )
            except csv.Error as error:
                if "unexpected end of data" not in str(error):
                    break
            following = next(self._lines, None)
            if following is None or following == OVERLONG:
                break
            taken.append(following)
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


OVERLONG = "\0overlong"  # cannot come from a file as such: a line of it would be told apart by its NUL anyway


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
            return OVERLONG
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        return text.rstrip("\r\n")
