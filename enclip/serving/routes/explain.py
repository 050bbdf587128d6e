"""Why a product stands where it stands."""

from collections.abc import Mapping
from typing import Annotated, Self

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from enclip.retrieval.explain import Explanation
from enclip.serving.desk import Desk
from enclip.serving.follow import Served
from enclip.serving.schemas import MAX_PRODUCT_ID, ProductCard, SearchRequest


class ExplainRequest(SearchRequest):
    """A search, and one product of the release; `k`, `offset`, `filters` and `spread` change no score."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "navy blue shirt", "product_id": "15970"}]})

    product_id: Annotated[str, Field(min_length=1, max_length=MAX_PRODUCT_ID)]


class MemberOpinion(BaseModel):
    """One member's share of the score, its own cosine, and the product's rank by it alone, among all products."""

    version: int = Field(description="Of the member in `enclip-epoch`.")
    weight: float
    cosine: float
    rank: int


class ShownAttribute(BaseModel):
    """What words name, and how likely the picture shows it, 0 to 1."""

    field: str
    values: list[str]
    probability: float
    wanted: bool = Field(description="False: words to turn from.")


class ExplainAnswer(BaseModel):
    """A product's score, which `parts` add up to, and what it comes from."""

    release: int
    product: ProductCard
    score: float
    parts: dict[str, float] = Field(
        description="cosines, then what names, exemplars, attributes, likely queries, clusters, BM25 and without add."
    )
    cosines: dict[str, float] = Field(description="Of the ensemble with each part of what was asked.")
    members: list[MemberOpinion]
    attributes: list[ShownAttribute]
    cluster: int
    pull: float = Field(description="How strongly this query pulls products toward the mean of their clusters.")

    @classmethod
    def of(cls, served: Served, product: ProductCard, found: Explanation, cosines: Mapping[str, float]) -> Self:
        """The answer over the release that was asked."""
        versions = [member.version for member in served.release.manifest.members]
        return cls(
            release=served.version,
            product=product,
            score=found.score,
            parts=found.parts,
            cosines=dict(cosines),
            members=[
                MemberOpinion(version=version, weight=view.weight, cosine=view.cosine, rank=view.rank)
                for version, view in zip(versions, found.members, strict=True)
            ],
            attributes=[
                ShownAttribute(
                    field=named.field, values=list(named.values), probability=named.probability, wanted=named.wanted
                )
                for named in found.attributes
            ],
            cluster=found.cluster,
            pull=found.pull,
        )


def explain_routes(desk: Desk) -> APIRouter:
    """`/v1/explain`."""
    router = APIRouter(prefix="/v1")

    @router.post("/explain", summary="Why a product is found: its score, part by part and member by member")
    async def explain(request: ExplainRequest) -> ExplainAnswer:
        served = desk.served()
        for product_id in (request.product_id, request.like):
            if product_id is not None and served.product(product_id) is None:
                raise HTTPException(404, f"Release {served.version} has no product {product_id!r}.")
        found, cosines = await desk.search(
            lambda: served.release.explain(
                request.product_id,
                text=request.text,
                image=request.image,
                like=request.like,
                without=request.without,
                weights=request.given_weights() if request.weights else None,
                withdrawn=served.withdrawn,
            )
        )
        product = served.product(request.product_id)
        assert product is not None, "it was there, and a release does not change"
        return ExplainAnswer.of(served, ProductCard.of(product), found, cosines)

    return router
