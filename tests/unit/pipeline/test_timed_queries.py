"""Which queries a release's search time is measured by."""

import pytest

from enclip.pipeline.evaluate import COST_QUERIES, _half_broad
from enclip.records import Query, QueryKind


@pytest.mark.parametrize(
    ("num_specific", "num_types", "broad"), [(200, 100, COST_QUERIES // 2), (200, 12, 12), (3, 100, COST_QUERIES - 3)]
)
def test_half_of_them_are_broad_where_there_are_so_many(num_specific: int, num_types: int, broad: int) -> None:
    """A broad query is scored twice, a specific one once: the first 64 of a catalog are all specific."""
    kinds = [QueryKind.SPECIFIC] * num_specific + [QueryKind.TYPE] * num_types
    queries = [Query(str(row), kind, "", "A", frozenset()) for row, kind in enumerate(kinds)]
    rows = _half_broad(queries)
    assert len(set(rows)) == len(rows) == COST_QUERIES
    assert sum(queries[row].kind is QueryKind.TYPE for row in rows) == broad
