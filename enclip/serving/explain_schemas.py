"""Why a product is found, as it is asked and told."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from enclip.serving.schemas import MAX_PRODUCT_ID, ProductCard, SearchRequest


class ExplainRequest(SearchRequest):
    """A search, and one product of the release; `k`, `offset`, `filters` and `spread` change no score."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "navy blue shirt", "product_id": "15970"}]})

    product_id: Annotated[str, Field(min_length=1, max_length=MAX_PRODUCT_ID)]


class MemberOpinion(BaseModel):
    """One member's share of the score, its own cosine, and the product's rank by it alone, among all that a search
    without filters could show.
    """

    version: int = Field(description="Of the member in `enclip-epoch`.")
    weight: float
    cosine: float
    rank: int


class ShownAttribute(BaseModel):
    """What words name, how likely the picture shows it, and how likely the name means it, 0 to 1."""

    field: str
    values: list[str]
    probability: float = Field(description="By the picture.")
    by_name: float | None = Field(
        None, description="By the name; null where the release reads no names, or no word of this one."
    )
    wanted: bool = Field(description="False: words to turn from.")


class ExplainAnswer(BaseModel):
    """A product's score, which `parts` add up to, and what it comes from."""

    release: int
    product: ProductCard
    score: float
    parts: dict[str, float] = Field(
        description="cosines, then what names, exemplars, attributes, likely queries, clusters, BM25, attributes by "
        "name and without add."
    )
    cosines: dict[str, float] = Field(description="Of the ensemble with each part of what was asked.")
    members: list[MemberOpinion]
    attributes: list[ShownAttribute]
    cluster: int
    pull: float = Field(description="How strongly this query pulls products toward the mean of their clusters.")
    feedback: float = Field(description="How far this query turned toward the clusters of its first results.")
