"""Evaluations → Markdown. Every figure has its number of queries and relevant products beside it."""

from collections.abc import Mapping, Sequence

from enclip.evaluation.intervals import Interval
from enclip.evaluation.metrics import Evaluation, Means
from enclip.records import QueryKind

Cell = str | int | float
FIGURES = (
    ("mAP@10", "map_at_10"),
    ("over R", "map_at_10_r"),
    ("over hits", "map_at_10_hits"),
    ("P@1", "p_at_1"),
    ("P@10", "p_at_10"),
    ("R@1", "r_at_1"),
    ("R@10", "r_at_10"),
    ("MRR", "mrr"),
)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A GitHub-flavoured table, ending in a newline: floats with three decimals, columns of numbers right-aligned."""
    right = [
        all(isinstance(row[column], int | float) or row[column] == "" for row in rows) for column in range(len(header))
    ]
    rules = ["---:" if is_right and rows else "---" for is_right in right]
    lines = [header, rules, *([_cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def kinds_table(systems: Mapping[str, Evaluation]) -> str:
    """Every system's figures by kind of query, mAP@10 with its two other denominators side by side.

    "over R" is the AP of trec_eval and BEIR, "over hits" that of torchmetrics.
    """
    rows: list[list[Cell]] = []
    for kind in QueryKind:
        for name, evaluation in systems.items():
            means = evaluation.of_kind(kind)
            if means.num_queries:
                rows.append([kind.value, name, *_figures(means), means.num_queries, means.num_relevant])
    return markdown_table(("kind", "system", *(title for title, _ in FIGURES), "queries", "relevant"), rows)


def categories_table(ours: Evaluation, theirs: Evaluation | None = None, *, their_name: str = "champion") -> str:
    """mAP@10 per category over the headline's queries, beside another system's on the same queries."""
    before = theirs.by_category(ours.headline) if theirs else {}
    rows: list[list[Cell]] = []
    for category, means in ours.by_category().items():
        row: list[Cell] = [category, means.map_at_10]
        if theirs:
            known = before.get(category)
            row += [known.map_at_10, f"{means.map_at_10 - known.map_at_10:+.3f}"] if known else ["", ""]
        rows.append([*row, means.num_queries, means.num_relevant])
    comparison = (their_name, "difference") if theirs else ()
    return markdown_table(("category", "mAP@10", *comparison, "queries", "relevant"), rows)


def differences_table(differences: Mapping[str, Interval]) -> str:
    """Mean differences with their bounds and the p-value of a loss beyond the margin."""
    return markdown_table(
        ("difference", "mean", "low", "high", "p of a loss", "queries"),
        [
            [name, f"{value.mean:+.3f}", f"{value.low:+.3f}", f"{value.high:+.3f}", value.p_loss, value.num_queries]
            for name, value in differences.items()
        ],
    )


def _figures(means: Means) -> list[float]:
    return [getattr(means, field) for _, field in FIGURES]


def _cell(value: Cell) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    # A pipe or a line break in a category's name would end the cell.
    return str(value).replace("|", "\\|").replace("\n", " ")
