"""A catalog's own attributes → queries and their qrels: the evaluation protocol.

Over a gallery (the products given):

- *type*: each articleType of at least 5 products: "Casual Shoes";
- *specific*: each gender + baseColour + articleType of at least 3: "Men Navy Blue Shirts";
- *name*: each product name; relevant are the products of that name and those with the same picture.

Values compare without case and surplus space. A catalog without gender, or without colour, has
specific queries of what it has; without both it has none.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from enclip.records import Products, Query, QueryKind

MIN_TYPE = 5
MIN_SPECIFIC = 3
NO_CATEGORY = "uncategorised"
HEADLINE_ORDER = (QueryKind.SPECIFIC, QueryKind.TYPE, QueryKind.NAME)


def build_queries(gallery: Products) -> tuple[Query, ...]:
    """All queries of the protocol, by kind in the order of the headline, then by text.

    A query's id is its kind and text without spaces, so that two releases measured on one gallery
    can be paired by it.
    """
    queries = (
        _specific_queries(gallery)
        + _attribute_queries(gallery, QueryKind.TYPE, ("article_type",), MIN_TYPE)
        + _name_queries(gallery)
    )
    return tuple(queries)


def headline_kind(queries: Iterable[Query]) -> QueryKind:
    """The kind whose mAP@10 is the headline: specific, else type, else name."""
    present = {query.kind for query in queries}
    return next((kind for kind in HEADLINE_ORDER if kind in present), QueryKind.SPECIFIC)


def of_kind(queries: Iterable[Query], kind: QueryKind) -> tuple[Query, ...]:
    """The queries of one kind, in order."""
    return tuple(query for query in queries if query.kind == kind)


def majority_category(category_of: Mapping[str, str], product_ids: Iterable[str]) -> str:
    """The category of most of the products; among equals the first by name; "uncategorised" where none has one."""
    counts = Counter(category_of.get(product_id, "") for product_id in product_ids)
    counts.pop("", None)
    return _commonest(counts) if counts else NO_CATEGORY


def category_map(products: Products) -> dict[str, str]:
    """product_id → category."""
    return dict(zip(products.product_id, products.category, strict=True))


def _specific_queries(gallery: Products) -> list[Query]:
    describing = tuple(name for name in ("gender", "base_colour") if any(getattr(gallery, name)))
    if not describing:
        return []
    return _attribute_queries(gallery, QueryKind.SPECIFIC, (*describing, "article_type"), MIN_SPECIFIC)


def _attribute_queries(gallery: Products, kind: QueryKind, columns: Sequence[str], least: int) -> list[Query]:
    found: dict[str, list[str]] = defaultdict(list)
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    values = (getattr(gallery, name) for name in columns)
    for product_id, *attributes in zip(gallery.product_id, *values, strict=True):
        words = [" ".join(value.split()) for value in attributes]
        if all(words):
            key = " ".join(words).casefold()  # "Navy" and "Blue Jeans" ask for what "Navy Blue" and "Jeans" do
            found[key].append(product_id)
            spellings[key][" ".join(words)] += 1
    relevant = {key: product_ids for key, product_ids in found.items() if len(product_ids) >= least}
    # The commonest spelling is the text; it is chosen after the casefolded key has merged the others.
    texts = {key: _commonest(spellings[key]) for key in relevant}
    return _queries(kind, [(texts[key], frozenset(relevant[key])) for key in relevant], category_map(gallery))


def _name_queries(gallery: Products) -> list[Query]:
    by_name: dict[str, list[int]] = defaultdict(list)
    by_picture: dict[str, list[int]] = defaultdict(list)
    for row, (name, picture) in enumerate(zip(gallery.name, gallery.image_sha256, strict=True)):
        key = " ".join(name.split()).casefold()
        if key:
            by_name[key].append(row)
        if picture:
            by_picture[picture].append(row)
    asked = []
    for rows in by_name.values():
        same_picture = {twin for row in rows for twin in by_picture.get(gallery.image_sha256[row], ())}
        relevant = frozenset(str(gallery.product_id[row]) for row in same_picture.union(rows))
        asked.append((" ".join(gallery.name[rows[0]].split()), relevant))
    return _queries(QueryKind.NAME, asked, category_map(gallery))


def _queries(
    kind: QueryKind, asked: Iterable[tuple[str, frozenset[str]]], category_of: Mapping[str, str]
) -> list[Query]:
    """Queries by text, with ids that hold no space and differ."""
    return [
        Query(
            query_id=f"{kind}:{_one_word(text)}",
            kind=kind,
            text=text,
            category=majority_category(category_of, relevant),
            relevant=relevant,
        )
        for text, relevant in sorted(asked, key=lambda pair: pair[0])
    ]


def _commonest(counts: Counter[str]) -> str:
    """The value counted most often; among equals the first by name, so that no order of rows decides."""
    return min(counts, key=lambda value: (-counts[value], value))


def _one_word(text: str) -> str:
    """Text with `_` for spaces; `_` and `%` themselves are encoded, so that different texts stay different."""
    return text.replace("%", "%25").replace("_", "%5F").replace(" ", "_")
