"""What a release's catalog holds, for a page that offers filters, first queries and a shop window."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from enclip.records import Prices, Product, Products, Strings

NUM_EXAMPLES = 6
NUM_IN_WINDOW = 24


@dataclass(frozen=True, slots=True)
class Choice:
    """A value that a filter can take, and how many products have it."""

    value: str
    num_products: int


@dataclass(frozen=True, slots=True)
class Overview:
    """Choices come most frequent first; `prices` are the lowest and the highest one, None where there is none;
    `examples` are queries that the catalog can answer."""

    num_products: int
    categories: tuple[Choice, ...]
    genders: tuple[Choice, ...]
    colours: tuple[Choice, ...]
    prices: tuple[float, float] | None
    examples: tuple[str, ...]
    window: tuple[Product, ...]


def describe_catalog(products: Products, *, withdrawn: frozenset[str], seed: int) -> Overview:
    """Counts, example queries and a mixed window of the products that are not withdrawn.

    The window changes with `seed` and with nothing else. Attributes that the catalog lacks give
    empty choices.
    """
    live = products
    if withdrawn:
        live = products.take(np.array([str(id_) not in withdrawn for id_ in products.product_id], dtype=bool))
    return Overview(
        num_products=len(live),
        categories=_choices(live.category),
        genders=_choices(live.gender),
        colours=_choices(live.base_colour),
        prices=_range(live.price),
        examples=_examples(live),
        window=tuple(live.row(int(row)) for row in _mixed_rows(live.category, seed=seed)),
    )


def _choices(values: Strings) -> tuple[Choice, ...]:
    counts = Counter(str(value) for value in values if value)
    return tuple(
        Choice(value, count) for value, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0].casefold()))
    )


def _range(prices: Prices) -> tuple[float, float] | None:
    known = prices[~np.isnan(prices)]
    return (float(known.min()), float(known.max())) if len(known) else None


def _examples(products: Products) -> tuple[str, ...]:
    """The commonest gender + colour + type, one for each type and no colour twice in a row."""
    kinds = Counter(zip(products.gender, products.base_colour, products.article_type, strict=True))
    examples: dict[str, str] = {}
    last_colour = ""
    for (gender, colour, article_type), _count in sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0])):
        if article_type and article_type not in examples and (colour != last_colour or not colour):
            examples[article_type] = " ".join(part for part in (gender, colour, article_type) if part)
            last_colour = colour
        if len(examples) == NUM_EXAMPLES:
            break
    return tuple(examples.values()) or tuple(str(name) for name in products.name[:NUM_EXAMPLES] if name)


def _mixed_rows(categories: Strings, *, seed: int) -> list[int]:
    """Rows in a random order that goes round the categories, the largest first."""
    by_category: defaultdict[str, list[int]] = defaultdict(list)
    for row in np.random.default_rng(seed).permutation(len(categories)):
        members = by_category[str(categories[row])]
        if len(members) < NUM_IN_WINDOW:
            members.append(int(row))
    counts = Counter(str(category) for category in categories)
    largest_first = sorted(by_category, key=lambda category: (-counts[category], category))
    rounds = (by_category[category][turn : turn + 1] for turn in range(NUM_IN_WINDOW) for category in largest_first)
    return [row for rows in rounds for row in rows][:NUM_IN_WINDOW]
