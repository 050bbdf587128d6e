"""Words, pictures and products → products."""

import time
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, HTTPException, Path, Query

from enclip.records import Ranking
from enclip.serving.desk import Desk
from enclip.serving.follow import Served
from enclip.serving.schemas import (
    DEFAULT_K,
    MAX_K,
    MAX_PRODUCT_ID,
    FilterValues,
    ProductCard,
    SearchAnswer,
    SearchHit,
    SearchRequest,
    SimilarAnswer,
    hits_of,
    make_filters,
)
from enclip.serving.shadow import Shadow

ProductId = Annotated[str, Path(max_length=MAX_PRODUCT_ID)]


def search_routes(desk: Desk, shadow: Shadow | None = None) -> APIRouter:
    """`/v1/search` and `/v1/similar`.

    Args:
        shadow: is offered each search that was answered.
    """
    router = APIRouter(prefix="/v1")

    @router.post("/search", summary="Search by words, a picture, a product, or any of them together")
    async def search(request: SearchRequest, after: BackgroundTasks) -> SearchAnswer:
        served = desk.served()
        found = await answer(desk, served, request)
        if shadow is not None:
            after.add_task(shadow.offer, served, request)
        return found

    @router.get("/similar/{product_id:path}", summary="Products like one of the catalog")
    async def similar(
        product_id: ProductId,
        k: Annotated[int, Query(ge=1, le=MAX_K)] = DEFAULT_K,
        category: Annotated[FilterValues, Query()] = (),
        gender: Annotated[FilterValues, Query()] = (),
        colour: Annotated[FilterValues, Query()] = (),
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
                filters=make_filters(category, gender, colour),
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
    ranking = await desk.search(lambda: served.search(request))
    return SearchAnswer(release=served.version, took_ms=ms_since(started), results=found_by(served, ranking))


def found_by(served: Served, ranking: Ranking) -> list[SearchHit]:
    """A ranking with the products' own words."""
    found = {product_id: served.product(product_id) for product_id in ranking.product_ids}
    return hits_of(ranking, {product_id: product for product_id, product in found.items() if product is not None})


def ms_since(started: float) -> float:
    """Since a `perf_counter`, for people."""
    return round((time.perf_counter() - started) * 1000, 2)
