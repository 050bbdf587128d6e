"""Why a product stands where it stands."""

from collections.abc import Mapping

from fastapi import APIRouter, HTTPException

from enclip.retrieval.explain import Explanation
from enclip.serving.desk import Desk
from enclip.serving.explain_schemas import ExplainAnswer, ExplainRequest, MemberOpinion, ShownAttribute
from enclip.serving.follow import Served
from enclip.serving.problems import UNKNOWN
from enclip.serving.routes.search import texts_of
from enclip.serving.schemas import ProductCard


def explain_routes(desk: Desk) -> APIRouter:
    """`/v1/explain`."""
    router = APIRouter(prefix="/v1")

    @router.post(
        "/explain",
        summary="Why a product is found: its score, part by part and member by member",
        responses=UNKNOWN,
    )
    async def explain(request: ExplainRequest) -> ExplainAnswer:
        served = desk.served()
        product = served.product(request.product_id)
        if product is None:
            raise HTTPException(404, f"Release {served.version} has no product {request.product_id!r}.")
        found, cosines = await desk.search(
            lambda: served.release.explain(
                request.product_id,
                text=request.text,
                image=request.image,
                like=request.like,
                without=request.without,
                weights=request.given_weights() if request.weights else None,
                withdrawn=served.withdrawn,
            ),
            served=served,
            texts=texts_of(served, request),
        )
        return _answer(served, ProductCard.of(product), found, cosines)

    return router


def _answer(served: Served, product: ProductCard, found: Explanation, cosines: Mapping[str, float]) -> ExplainAnswer:
    versions = [member.version for member in served.release.manifest.members]
    return ExplainAnswer(
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
                field=named.field,
                values=list(named.values),
                probability=named.probability,
                by_name=named.by_name,
                wanted=named.wanted,
            )
            for named in found.attributes
        ],
        cluster=found.cluster,
        pull=found.pull,
        feedback=found.feedback,
    )
