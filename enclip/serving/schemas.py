"""What the service reads and writes, with the limits on all it reads."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Self
from urllib.parse import quote

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from enclip.records import MAX_PRICE, Filters, Product, Ranking
from enclip.serving.overview import Choice, Overview

MAX_TEXT = 1000
MAX_K = 100
MAX_OFFSET = 900
DEFAULT_K = 20
MAX_IMAGE_BYTES = 5 * 1024 * 1024
MAX_PRODUCT_ID = 200
# Base64 of the largest picture, line breaks, and room for the rest of the JSON.
MAX_BODY_BYTES = MAX_IMAGE_BYTES * 4 // 3 + 256 * 1024

_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w=.-]+)*;base64,")


def _decode_base64(value: Any) -> Any:
    """Bytes from base64, with or without a `data:` prefix and line breaks."""
    if not isinstance(value, str):
        return value
    prefix = _DATA_URL.match(value[:200])
    text = "".join(value[prefix.end() if prefix else 0 :].split())
    if len(text) > MAX_IMAGE_BYTES * 4 // 3 + 4:
        raise ValueError(f"the picture is larger than {MAX_IMAGE_BYTES} bytes; send a smaller one")
    try:
        image = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64: {error}") from None
    if not image:
        raise ValueError("the picture is empty")
    if len(image) > MAX_IMAGE_BYTES:
        raise ValueError(f"the picture is larger than {MAX_IMAGE_BYTES} bytes; send a smaller one")
    return image


def _listed(value: Any) -> Any:
    """One value is as good as a list of one; null is none."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


Base64Image = Annotated[
    bytes,
    BeforeValidator(_decode_base64),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
ProductId = Annotated[str, Field(max_length=MAX_PRODUCT_ID)]
FilterValue = Annotated[str, Field(min_length=1, max_length=100)]
FilterValues = Annotated[
    tuple[FilterValue, ...],
    Field(max_length=50),
    BeforeValidator(_listed),
]
Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, le=MAX_PRICE, allow_inf_nan=False)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchWeights(_Request):
    """How much words, picture and product count where several are given; only their ratio matters."""

    text: Weight = 1.0
    image: Weight = 1.0
    like: Weight = 1.0


class SearchFilters(_Request):
    """Values that a product must have: any of a list, in every field given; upper and lower case are equal.

    A product without a price passes no bound on it.
    """

    category: FilterValues = Field((), description="subCategory, articleType or masterCategory.")
    gender: FilterValues = ()
    colour: FilterValues = ()
    price_min: Price | None = Field(None, description="The lowest price, itself included.")
    price_max: Price | None = Field(None, description="The highest price, itself included.")

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.price_min is not None and self.price_max is not None and self.price_min > self.price_max:
            raise ValueError(f"price_min {self.price_min:g} is above price_max {self.price_max:g}")
        return self

    def to_filters(self) -> Filters | None:
        """None where nothing is restricted."""
        filters = Filters(**{name: getattr(self, name) for name in type(self).model_fields})
        return None if filters == Filters() else filters


class SearchRequest(_Request):
    """Words, a picture, a product, or any of them together; and words to turn from."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "navy blue shirt", "k": 10},
                {"text": "white t-shirt", "filters": {"gender": ["Men"]}, "k": 10, "spread": True},
                {"text": "shirt", "without": "striped", "k": 10},
                {"text": "handbag", "filters": {"price_min": 20, "price_max": 49.9}, "k": 10},
            ]
        }
    )

    text: str | None = Field(None, max_length=MAX_TEXT, examples=["navy blue shirt"])
    image: Base64Image | None = Field(None, description="JPEG, PNG or WebP of at most 5 MB, as base64.")
    like: str | None = Field(
        None, min_length=1, max_length=MAX_PRODUCT_ID, description="A product of the release, to find others like it."
    )
    without: str | None = Field(
        None, max_length=MAX_TEXT, examples=["striped"], description="Words to turn from: “shirt” without “red”."
    )
    weights: SearchWeights | None = None
    filters: SearchFilters | None = None
    k: int = Field(DEFAULT_K, ge=1, le=MAX_K, description="How many products to return at most.")
    offset: int = Field(
        0,
        ge=0,
        le=MAX_OFFSET,
        description="The best results to pass over. Pages neither overlap nor leave anything out as long as the "
        "release that answers, and what is withdrawn, stay the same.",
    )
    spread: bool = Field(
        False, description="Fold near-duplicates under the best of them, so that the page shows more of the catalog."
    )

    @field_validator("text", "without")
    @classmethod
    def _said_something(cls, text: str | None) -> str | None:
        # Control characters are no words; lone surrogates cannot be encoded by any tokenizer.
        cleaned = "".join(char if char.isprintable() else " " for char in text or "").strip()
        return cleaned or None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.text is None and self.image is None and self.like is None:
            raise ValueError("give text, an image or a product to be like")
        if not any(self.given_weights().values()):
            raise ValueError("every weight is 0; give a part of the search a weight")
        return self

    def given_weights(self) -> dict[str, float]:
        """The weight of each part that was given."""
        weights = self.weights or SearchWeights()
        parts = {"text": self.text, "image": self.image, "like": self.like}
        return {name: getattr(weights, name) for name, part in parts.items() if part is not None}


class ProductCard(BaseModel):
    """A product as pages show it; `image` is a path on this server."""

    product_id: str
    name: str
    category: str
    article_type: str
    gender: str
    colour: str
    image: str
    price: float | None = Field(None, description="As the catalog has it; null: it has none.")

    @classmethod
    def of(cls, product: Product) -> Self:
        """The card of a product."""
        return cls(**_card(product))


class SearchHit(ProductCard):
    """A product found. Scores compare within one answer only; higher is better."""

    score: float
    cluster: int
    folded: int = Field(0, description="Near-duplicates of it that `spread` left off the page.")


class SearchAnswer(BaseModel):
    """The best products first, all from one release."""

    release: int
    took_ms: float
    results: list[SearchHit]


class SimilarAnswer(SearchAnswer):
    """Products like `product`, which is not among them."""

    product: ProductCard


class CatalogChoice(BaseModel):
    """A value that a filter can take, and how many products pass it and the filters of other fields."""

    value: str
    num_products: int


class PriceRange(BaseModel):
    """The lowest and the highest price."""

    min: float
    max: float


class CatalogAnswer(BaseModel):
    """What the release holds, filters to offer, and queries and products to start from."""

    release: int
    num_products: int
    categories: list[CatalogChoice]
    genders: list[CatalogChoice]
    colours: list[CatalogChoice]
    price: PriceRange | None = Field(None, description="Of the whole release; null where no product has a price.")
    examples: list[str]
    window: list[ProductCard]

    @classmethod
    def of(cls, release: int, overview: Overview) -> Self:
        """The answer from a release's overview."""

        def choices(values: Sequence[Choice]) -> list[CatalogChoice]:
            return [CatalogChoice(value=choice.value, num_products=choice.num_products) for choice in values]

        return cls(
            release=release,
            num_products=overview.num_products,
            categories=choices(overview.categories),
            genders=choices(overview.genders),
            colours=choices(overview.colours),
            price=PriceRange(min=overview.prices[0], max=overview.prices[1]) if overview.prices else None,
            examples=list(overview.examples),
            window=[ProductCard.of(product) for product in overview.window],
        )

    def narrowed(self, counts: Mapping[str, Mapping[str, int]]) -> Self:
        """The same choices with other counts, 0 where none is named; spelled as one likes, as filters are."""

        def choices(before: Sequence[CatalogChoice], field: str) -> list[CatalogChoice]:
            known = {value.strip().casefold(): count for value, count in counts[field].items()}
            return [
                CatalogChoice(value=choice.value, num_products=known.get(choice.value.strip().casefold(), 0))
                for choice in before
            ]

        return self.model_copy(
            update={
                "categories": choices(self.categories, "category"),
                "genders": choices(self.genders, "gender"),
                "colours": choices(self.colours, "colour"),
            }
        )


class Readiness(BaseModel):
    """Which release answers, and what keeps the alias's own from doing so."""

    ready: bool
    release: int | None
    alias: int | None
    since: datetime | None
    num_products: int
    num_members: int
    num_withdrawn: int
    problem: str
    checked_s_ago: float | None
    refresh_problem: str = Field("", description="Whether Airflow's refresh_index could not be started after a change.")


def hits_of(ranking: Ranking, product_of: dict[str, Product]) -> list[SearchHit]:
    """A ranking with each product's own words; a hit without its product is left out."""
    return [
        SearchHit(**_card(product_of[hit.product_id]), score=hit.score, cluster=hit.cluster, folded=hit.folded)
        for hit in ranking.hits
        if hit.product_id in product_of
    ]


def _card(product: Product) -> dict[str, Any]:
    return {
        "product_id": product.product_id,
        "name": product.name,
        "category": product.category,
        "article_type": product.article_type,
        "gender": product.gender,
        "colour": product.base_colour,
        "price": product.price,
        "image": f"/v1/products/{quote(product.product_id, safe='')}/image",
    }
