"""A TREC qrels file → queries, where people know better than a catalog's attributes; and what they judged → a file."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from enclip.blobs import write_whole
from enclip.errors import CatalogError
from enclip.evaluation.queries import category_map, majority_category
from enclip.evaluation.trec import trec_id
from enclip.records import Products, Query, QueryKind


def read_queries(qrels: Path, gallery: Products, *, texts: Path | None = None) -> tuple[Query, ...]:
    """Queries of the headline's kind, one per query id of the file, in its order.

    Args:
        qrels: lines `query_id iteration product_id relevance`; relevance above 0 is relevant.
        gallery: relevant products that it does not hold are left out; they cannot be found. Ids may be written as
            `trec_id` writes them.
        texts: lines `query_id<TAB>text`; by default an id's own words, `_` read as a space.

    Raises:
        CatalogError: a file that cannot be read or understood, an id without a text, or nothing relevant left.
    """
    known = {form: str(own) for own in gallery.product_id for form in (trec_id(own), str(own))}
    category_of = category_map(gallery)
    relevant: dict[str, set[str]] = defaultdict(set)
    for number, line in enumerate(_lines(qrels), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 4 or not re.fullmatch("-?[0-9]{1,9}", fields[3]):
            raise CatalogError(
                f"{qrels}, line {number}: {line!r} is not `query_id iteration product_id relevance`.",
                remedy="Write TREC qrels: four columns, the last an integer.",
            )
        if int(fields[3]) > 0 and fields[2] in known:
            relevant[fields[0]].add(known[fields[2]])
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


def write_judged(path: Path, judged: Iterable[tuple[str, str, bool]]) -> None:
    """Write (words of a query, product id, whether it is a good result) as qrels that `read_queries` reads back.

    A query's id is its own words, so that no file of texts is needed beside it.
    """
    lines = [f"{words_id(text)} 0 {trec_id(product_id)} {int(is_good)}\n" for text, product_id, is_good in judged]
    write_whole(path, "".join(lines).encode())


def read_judged(qrels: Path) -> dict[str, frozenset[str]]:
    """Query id → products that the file says anything of, relevant or not, as they are written there.

    Raises:
        CatalogError: a file that cannot be read.
    """
    judged: dict[str, set[str]] = defaultdict(set)
    for fields in map(str.split, _lines(qrels)):
        if len(fields) == 4:
            judged[fields[0]].add(fields[2])
    return {query_id: frozenset(products) for query_id, products in judged.items()}


def words_id(text: str) -> str:
    """Words as one word: `_` for a space; `_` itself, `%`, other white space and control characters are encoded."""
    return "".join("_" if letter == " " else trec_id(letter).replace("_", "%5F") for letter in text)


def _texts(path: Path) -> dict[str, str]:
    pairs = (line.split("\t", 1) for line in _lines(path) if line.strip())
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2 and pair[1].strip()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"Cannot read {path}: {error}.") from error
