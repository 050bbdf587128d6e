"""Rows → a table in Markdown."""

from collections.abc import Sequence

Cell = str | int | float


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A GitHub-flavoured table, ending in a newline: floats with three decimals, columns of numbers right-aligned."""
    right = [
        all(isinstance(row[column], int | float) or row[column] == "" for row in rows) for column in range(len(header))
    ]
    rules = ["---:" if is_right and rows else "---" for is_right in right]
    lines = [header, rules, *([_cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Cell) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    # A pipe or a line break in a category's name would end the cell.
    return str(value).replace("|", "\\|").replace("\n", " ")
