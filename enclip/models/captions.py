"""Captions, and of which products each one is true (D8).

A caption claims some fields of the product it was made for. It is true of every product that has the
same values there: "Men Navy Blue Shirts" of each navy blue men's shirt, a name of each product with
that name. In a batch from a real catalog that is far from the diagonal, and what is true of a product
is not a negative.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from enclip.records import Products

Ints = NDArray[np.int64]

UNKNOWN = -1  # key of a caption that a product lacks the fields for


@dataclass(frozen=True, slots=True)
class Template:
    """A caption with `{field}` blanks, and how often it is used where its fields are known."""

    text: str
    fields: tuple[str, ...]
    share: float


NAME = Template("{name}", ("name",), 1.0)

# What people type into a search: a kind of thing, with one or two of its properties.
ATTRIBUTE_TEMPLATES = (
    Template("{gender} {base_colour} {article_type}", ("gender", "base_colour", "article_type"), 0.40),
    Template("{base_colour} {article_type}", ("base_colour", "article_type"), 0.15),
    Template("{gender} {article_type}", ("gender", "article_type"), 0.10),
    Template("{article_type}", ("article_type",), 0.20),
    Template("{usage} {article_type}", ("usage", "article_type"), 0.10),
    Template("{sub_category}", ("sub_category",), 0.05),
)
TEMPLATES = (NAME, *ATTRIBUTE_TEMPLATES)

# What is left of an attribute caption without some of its fields, where that is no template yet. Never drawn itself.
SHORTENED = tuple(
    Template(" ".join(f"{{{field}}}" for field in fields), fields, 0.0)
    for fields in dict.fromkeys(
        kept
        for template in ATTRIBUTE_TEMPLATES
        for size in range(1, len(template.fields))
        for kept in combinations(template.fields, size)
    )
    if fields not in {template.fields for template in TEMPLATES}
)
CAPTION_FIELDS = tuple(dict.fromkeys(field for template in ATTRIBUTE_TEMPLATES for field in template.fields))


@dataclass(frozen=True, eq=False)
class Claim:
    """A caption, and the rows of the products that it is true of."""

    text: str
    rows: Ints


class Captions:
    """The captions of N products.

    `key_NT` holds, per product and template, an integer that two products share exactly when the
    template makes the same claim of both (values compare case-insensitively), or UNKNOWN. Equal
    products columns give equal keys in every process.

    With `attribute_dropout`, the chance that a drawn attribute caption lacks each of its fields, templates
    are TEMPLATES and SHORTENED; without, TEMPLATES alone.
    """

    def __init__(self, products: Products, *, attribute_dropout: float = 0.0) -> None:
        self._products = products
        self._dropout = attribute_dropout
        self._templates = (*TEMPLATES, *SHORTENED) if attribute_dropout else TEMPLATES
        self.key_NT = np.stack([claim_keys(products, template.fields) for template in self._templates], axis=1)
        self._attribute_shares_NT = np.where(
            self._drawn_keys[:, 1:] == UNKNOWN, 0.0, [template.share for template in ATTRIBUTE_TEMPLATES]
        )

    @property
    def _drawn_keys(self) -> Ints:
        """Keys of the templates that captions are drawn of."""
        return self.key_NT[:, : len(TEMPLATES)]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Per product: whether any caption can be made of it."""
        usable: NDArray[np.bool_] = np.any(self._drawn_keys != UNKNOWN, axis=1)
        return usable

    def all_alike(self, rows: Ints) -> bool:
        """Whether every caption that can be drawn for one of these products is true of all of them."""
        return bool((self._drawn_keys[rows] == self._drawn_keys[rows[:1]]).all())

    def draw(self, rows: Ints, random: np.random.Generator) -> Ints:
        """`template_B2`: two templates per product, its name and a random attribute caption.

        A product without a name gets two attribute captions, one without attributes its name twice.
        Rows must be usable.
        """
        shares = self._attribute_shares_NT[rows]
        total = shares.sum(axis=1, keepdims=True)
        reached = np.cumsum(shares, axis=1)
        picks = random.random((len(rows), 2)) * total
        attribute_B2 = 1 + (reached[:, None, :] <= picks[:, :, None]).sum(axis=2)
        has_attributes = total[:, 0] > 0
        has_name = self.key_NT[rows, 0] != UNKNOWN
        first = np.where(has_name, 0, attribute_B2[:, 0])
        second = np.where(has_attributes, attribute_B2[:, 1], 0)
        template_B2 = np.stack([first, second], axis=1).astype(np.int64)
        return self._shortened(template_B2, random) if self._dropout else template_B2

    def _shortened(self, template_B2: Ints, random: np.random.Generator) -> Ints:
        """The templates without the fields that are dropped; where that would be all, one of them stays."""
        number = {template.fields: number for number, template in enumerate(self._templates)}
        result = template_B2.copy()
        for place, template in np.ndenumerate(template_B2):
            fields = self._templates[template].fields
            dropped = random.random(len(fields)) < self._dropout
            if dropped.all():
                dropped[random.integers(len(fields))] = False
            result[place] = number[tuple(field for field, gone in zip(fields, dropped, strict=True) if not gone)]
        return result

    def claims(self, rows: Ints) -> list[Claim]:
        """What the attribute captions of these products can say, each once; without attributes, the names."""
        attributes, names = range(1, len(TEMPLATES)), (0,)
        found = [claim for template in attributes for claim in self._claims_of(template, rows)]
        return found or [claim for template in names for claim in self._claims_of(template, rows)]

    def invented(self, rows: Ints, count: int, random: np.random.Generator) -> list[str]:
        """At most `count` attribute captions of values that occur in these products, if not together."""
        templates = [template for template in ATTRIBUTE_TEMPLATES if len(template.fields) > 1]
        shares = np.array([template.share for template in templates])
        found: set[str] = set()
        for choice in random.choice(len(templates), size=count, p=shares / shares.sum()) if len(rows) else ():
            template = templates[choice]
            values = {field: getattr(self._products, field)[random.choice(rows)] for field in template.fields}
            if all(str(value).strip() for value in values.values()):
                found.add(template.text.format(**values))
        return sorted(found)

    def _claims_of(self, template: int, rows: Ints) -> list[Claim]:
        known = rows[self.key_NT[rows, template] != UNKNOWN]
        order = np.argsort(self.key_NT[known, template], kind="stable")
        _, starts = np.unique(self.key_NT[known[order], template], return_index=True)
        alike = np.split(known[order], starts[1:]) if len(known) else []
        return [Claim(self.text(int(same[0]), template), same) for same in alike]

    def text(self, row: int, template: int) -> str:
        """One caption."""
        chosen = self._templates[template]
        return chosen.text.format(**{field: getattr(self._products, field)[row] for field in chosen.fields})


def claim_keys(products: Products, fields: tuple[str, ...]) -> Ints:
    """`key_N`: equal where the products agree on all fields; UNKNOWN where one of them is empty."""
    key = np.zeros(len(products), dtype=np.int64)
    known = np.ones(len(products), dtype=np.bool_)
    for field in fields:
        values = np.array([str(value).strip().casefold() for value in getattr(products, field)], dtype=object)
        known &= values != ""
        code = np.unique(values, return_inverse=True)[1] if len(values) else key
        # Renumbering after each field keeps the keys below N² however many fields there are.
        key = np.unique(key * (int(code.max(initial=0)) + 1) + code, return_inverse=True)[1].astype(np.int64)
    return np.where(known, key, UNKNOWN)
