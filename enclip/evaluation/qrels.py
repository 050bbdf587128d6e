"""A TREC qrels file → queries, for catalogs whose owner knows better than their attributes."""

from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote

from enclip.errors import CatalogError
from enclip.evaluation.queries import category_map, majority_category
from enclip.records import Products, Query, QueryKind


def read_queries(qrels: Path, gallery: Products, *, texts: Path | None = None) -> tuple[Query, ...]:
    """Queries of the headline's kind, one per query id of the file, in its order.

    Args:
        qrels: lines `query_id iteration product_id relevance`; relevance above 0 is relevant.
        gallery: relevant products that it does not hold are left out; they cannot be found.
        texts: lines `query_id<TAB>text`; by default an id's own words, `_` read as a space.

    Raises:
        CatalogError: a file that cannot be read or understood, an id without a text, or nothing relevant left.
    """
    known = set(gallery.product_id)
    category_of = category_map(gallery)
    relevant: dict[str, set[str]] = defaultdict(set)
    for number, line in enumerate(_lines(qrels), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 4 or not fields[3].lstrip("-").isdigit():
            raise CatalogError(
                f"{qrels}, line {number}: {line!r} is not `query_id iteration product_id relevance`.",
                remedy="Write TREC qrels: four columns, the last an integer.",
            )
        if int(fields[3]) > 0 and fields[2] in known:
            relevant[fields[0]].add(fields[2])
    if not relevant:
        raise CatalogError(
            f"{qrels} names no relevant product of this catalog.", remedy="Check that its third column holds its ids."
        )
    text_of = _texts(texts) if texts else {query_id: unquote(query_id.replace("_", " ")) for query_id in relevant}
    missing = sorted(relevant.keys() - text_of.keys())
    if missing:
        raise CatalogError(f"{texts} has no text for query {missing[0]!r} ({len(missing)} in all).")
    return tuple(
        Query(
            query_id,
            QueryKind.SPECIFIC,
            text_of[query_id],
            majority_category(category_of, product_ids),
            frozenset(product_ids),
        )
        for query_id, product_ids in relevant.items()
    )


def _texts(path: Path) -> dict[str, str]:
    pairs = (line.split("\t", 1) for line in _lines(path) if line.strip())
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2 and pair[1].strip()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"Cannot read {path}: {error}.") from error
