"""Words, pictures and products → products."""

import time
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, Query

from enclip.records import Ranking
from enclip.serving.desk import Desk
from enclip.serving.follow import Served
from enclip.serving.problems import UNKNOWN
from enclip.serving.query_log import noted
from enclip.serving.routes.filters import filters_of_query
from enclip.serving.schemas import (
    DEFAULT_K,
    MAX_K,
    ProductCard,
    ProductId,
    SearchAnswer,
    SearchFilters,
    SearchHit,
    SearchRequest,
    SimilarAnswer,
    hits_of,
)
from enclip.serving.shadow import Shadow


def search_routes(desk: Desk, shadow: Shadow | None = None) -> APIRouter:
    """`/v1/search` and `/v1/similar`.

    Args:
        shadow: is offered each search that was answered.
    """
    router = APIRouter(prefix="/v1")

    @router.post("/search", summary="Search by words, a picture, a product, or any of them together", responses=UNKNOWN)
    async def search(request: SearchRequest, after: BackgroundTasks) -> SearchAnswer:
        served = desk.served()
        found = await answer(desk, served, request)
        if shadow is not None:
            after.add_task(shadow.offer, served, request)
        return found

    @router.get("/similar/{product_id:path}", summary="Products like one of the catalog", responses=UNKNOWN)
    async def similar(
        product_id: ProductId,
        filters: Annotated[SearchFilters, Depends(filters_of_query)],
        k: Annotated[int, Query(ge=1, le=MAX_K)] = DEFAULT_K,
    ) -> SimilarAnswer:
        served = desk.served()
        product = served.product(product_id)
        if product is None:
            raise HTTPException(404, f"Release {served.version} has no such product.")
        note = noted(served.version, SearchRequest(like=product_id, k=k, filters=filters))
        started = time.perf_counter()
        ranking = await desk.search(
            lambda: served.release.similar(
                product_id,
                k=k,
                filters=filters.to_filters(),
                withdrawn=served.withdrawn,
            )
        )
        return note.answered(
            SimilarAnswer(
                release=served.version,
                took_ms=ms_since(started),
                results=found_by(served, ranking),
                product=ProductCard.of(product),
            )
        )

    return router


async def answer(
    desk: Desk, served: Served, request: SearchRequest, *, texts: Iterable[str] | None = None
) -> SearchAnswer:
    """One search over one release.

    Args:
        texts: what is encoded before it, where that is not just its own (`texts_of`).
    """
    note = noted(served.version, request)
    texts = texts_of(served, request) if texts is None else texts
    started = time.perf_counter()
    ranking = await desk.search(lambda: served.search(request), served=served, texts=texts)
    found = SearchAnswer(release=served.version, took_ms=ms_since(started), results=found_by(served, ranking))
    return note.answered(found)


def texts_of(served: Served, request: SearchRequest) -> list[str]:
    """What a search would have to encode. 404 where it is to be like a product that the release does not sell."""
    if request.like is not None and served.product(request.like) is None:
        raise HTTPException(404, f"Release {served.version} has no product {request.like!r}.")
    return served.release.unknown_texts(text=request.text, like=request.like, without=request.without)


def found_by(served: Served, ranking: Ranking) -> list[SearchHit]:
    """A ranking with the products' own words."""
    found = {product_id: served.product(product_id) for product_id in ranking.product_ids}
    return hits_of(ranking, {product_id: product for product_id, product in found.items() if product is not None})


def ms_since(started: float) -> float:
    """Since a `perf_counter`, for people."""
    return round((time.perf_counter() - started) * 1000, 2)
