"""Words, pictures and products → products."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Query

from enclip.records import Filters, Ranking
from enclip.serving.desk import Desk
from enclip.serving.follow import Served
from enclip.serving.routes.filters import filters_of_query
from enclip.serving.schemas import (
    DEFAULT_K,
    MAX_K,
    MAX_PRODUCT_ID,
    ProductCard,
    SearchAnswer,
    SearchHit,
    SearchRequest,
    SimilarAnswer,
    hits_of,
)

ProductId = Annotated[str, Path(max_length=MAX_PRODUCT_ID)]


def search_routes(desk: Desk) -> APIRouter:
    """`/v1/search` and `/v1/similar`."""
    router = APIRouter(prefix="/v1")

    @router.post("/search", summary="Search by words, a picture, a product, or any of them together")
    async def search(request: SearchRequest) -> SearchAnswer:
        return await answer(desk, desk.served(), request)

    @router.get("/similar/{product_id:path}", summary="Products like one of the catalog")
    async def similar(
        product_id: ProductId,
        filters: Annotated[Filters | None, Depends(filters_of_query)],
        k: Annotated[int, Query(ge=1, le=MAX_K)] = DEFAULT_K,
    ) -> SimilarAnswer:
        served = desk.served()
        product = served.product(product_id)
        if product is None:
            raise HTTPException(404, f"Release {served.version} has no such product.")
        started = time.perf_counter()
        ranking = await desk.search(
            lambda: served.release.similar(
                product_id,
                k=k,
                filters=filters,
                withdrawn=served.withdrawn,
            )
        )
        return SimilarAnswer(
            release=served.version,
            took_ms=ms_since(started),
            results=found_by(served, ranking),
            product=ProductCard.of(product),
        )

    return router


async def answer(desk: Desk, served: Served, request: SearchRequest) -> SearchAnswer:
    """One search over one release."""
    if request.like is not None and served.product(request.like) is None:
        raise HTTPException(404, f"Release {served.version} has no product {request.like!r}.")
    started = time.perf_counter()
    ranking = await desk.search(
        lambda: served.release.search(
            text=request.text,
            image=request.image,
            like=request.like,
            without=request.without,
            weights=request.given_weights() if request.weights else None,
            filters=request.filters.to_filters() if request.filters else None,
            k=request.k,
            offset=request.offset,
            withdrawn=served.withdrawn,
            spread=request.spread,
        )
    )
    return SearchAnswer(release=served.version, took_ms=ms_since(started), results=found_by(served, ranking))


def found_by(served: Served, ranking: Ranking) -> list[SearchHit]:
    """A ranking with the products' own words."""
    found = {product_id: served.product(product_id) for product_id in ranking.product_ids}
    return hits_of(ranking, {product_id: product for product_id, product in found.items() if product is not None})


def ms_since(started: float) -> float:
    """Since a `perf_counter`, for people."""
    return round((time.perf_counter() - started) * 1000, 2)
