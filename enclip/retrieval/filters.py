"""What a search may return → a boolean mask over the catalog's rows."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from enclip.records import Filters, Products, Strings

Mask = NDArray[np.bool_]


class FilterIndex:
    """Attribute values of N products as codes, so that a filter costs comparisons of integers.

    A category names a subCategory, an articleType or a masterCategory; values compare without case
    and surrounding space. Values of one filter widen the search, filters together narrow it. An
    unknown value matches nothing: a shop without hats has no hats to show. A product without a price passes no
    bound on it.
    """

    def __init__(self, products: Products) -> None:
        self._size = len(products)
        self._row_of = {product_id: row for row, product_id in enumerate(products.product_id)}
        self._category = [
            _Codes(column) for column in (products.sub_category, products.article_type, products.master_category)
        ]
        self._gender = [_Codes(products.gender)]
        self._colour = [_Codes(products.base_colour)]
        self._own_category = _Codes(products.category)
        # Own categories that are a type or a masterCategory of further products, which a filter finds too.
        self._also: dict[str, NDArray[np.int64]] = {}
        for value in self._own_category.values:
            found = np.logical_or.reduce([codes.match([value]) for codes in self._category])
            row_M = np.flatnonzero(found & ~self._own_category.match([value]))
            if len(row_M):
                self._also[value] = row_M
        self._price_N = products.price
        self._withdrawn: tuple[frozenset[str], Mask | None] = (frozenset(), None)

    def row(self, product_id: str) -> int | None:
        """The product's row."""
        return self._row_of.get(product_id)

    def mask(self, filters: Filters | None) -> Mask | None:
        """Rows that pass; None where nothing is filtered."""
        if filters is None:
            return None
        wanted = (
            (filters.category, self._category),
            (filters.gender, self._gender),
            (filters.colour, self._colour),
        )
        masks = [
            np.logical_or.reduce([codes.match(values) for codes in columns]) for values, columns in wanted if values
        ]
        # Comparisons with NaN, the price of what has none, are false.
        if filters.price_min is not None:
            masks.append(self._price_N >= filters.price_min)
        if filters.price_max is not None:
            masks.append(self._price_N <= filters.price_max)
        return np.logical_and.reduce(masks) if masks else None

    def counts(self, filters: Filters | None, allowed: Mask | None) -> dict[str, dict[str, int]]:
        """By "category", "gender" and "colour": value → products that have it and pass all other filters.

        That is what choosing the value instead of the field's own filter would leave. Of categories the products' own
        are named, subCategory or else articleType; values without a product are not.
        """
        filters = filters or Filters()
        fields = {"category": self._own_category, "gender": self._gender[0], "colour": self._colour[0]}
        passing = {name: both(self.mask(replace(filters, **cast(Any, {name: ()}))), allowed) for name in fields}
        found = {name: codes.counts(passing[name]) for name, codes in fields.items()}
        mask = passing["category"]
        for value, row_M in self._also.items():
            also = len(row_M) if mask is None else int(np.count_nonzero(mask[row_M]))
            if also:
                found["category"][value] = found["category"].get(value, 0) + also
        return found

    def without(self, product_ids: frozenset[str], *, keep: bool = True) -> Mask | None:
        """Rows of all other products; None where none of the ids is here. With `keep`, remembered."""
        # The service asks with the same set until a product is withdrawn. One assignment: safe with threads.
        known, mask = self._withdrawn
        if known is product_ids or known == product_ids:
            return mask
        rows = [row for row in map(self._row_of.get, product_ids) if row is not None]
        mask = None
        if rows:
            mask = np.ones(self._size, bool)
            mask[rows] = False
            mask.flags.writeable = False
        if keep:
            self._withdrawn = (product_ids, mask)
        return mask


def both(first: Mask | None, second: Mask | None) -> Mask | None:
    """Rows that pass two masks; None passes all."""
    if first is None or second is None:
        return first if second is None else second
    return first & second


class _Codes:
    """A column of text as integer codes."""

    def __init__(self, column: Strings) -> None:
        self._code_of: dict[str, int] = {}
        self._spelling: list[str] = []  # of each code, as the first product has it
        codes = (self._code(str(value)) for value in column)
        self._code_N = np.fromiter(codes, np.int32, len(column))

    @property
    def values(self) -> Sequence[str]:
        """As the first product of each has it."""
        return [value for value in self._spelling if value]

    def counts(self, mask: Mask | None) -> dict[str, int]:
        """Value → rows of a mask that have it."""
        rows = self._code_N if mask is None else self._code_N[mask]
        found = np.bincount(rows, minlength=len(self._spelling))
        return {value: int(count) for value, count in zip(self._spelling, found, strict=True) if value and count}

    def _code(self, value: str) -> int:
        code = self._code_of.setdefault(plain(value), len(self._code_of))
        if code == len(self._spelling):
            self._spelling.append(value.strip())
        return code

    def match(self, values: Iterable[str]) -> Mask:
        wanted = [self._code_of[value] for value in map(plain, values) if value and value in self._code_of]
        return np.isin(self._code_N, wanted)


def plain(value: str) -> str:
    """A text as it is compared: without surrounding space, in one case, its letters composed (NFC)."""
    return unicodedata.normalize("NFC", value.strip().casefold())
