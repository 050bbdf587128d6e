"""The routes: decode a request, ask the one release that answers now, encode what it says."""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path as FilePath
from typing import Annotated, TypeVar

import anyio
from anyio import to_thread
from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware import Middleware

from enclip.records import Ranking
from enclip.serving.envelope import Envelope
from enclip.serving.follow import Follower, Served
from enclip.serving.metrics import ServiceMetrics
from enclip.serving.pictures import picture_response
from enclip.serving.problems import install_handlers
from enclip.serving.schemas import (
    DEFAULT_K,
    MAX_BODY_BYTES,
    MAX_K,
    MAX_PRODUCT_ID,
    CatalogAnswer,
    FilterValues,
    ProductCard,
    Readiness,
    SearchAnswer,
    SearchHit,
    SearchRequest,
    SimilarAnswer,
    hits_of,
    make_filters,
)

PAGE = FilePath(str(files("enclip.serving") / "page"))
MAX_WAITING = 256

ProductId = Annotated[str, Path(max_length=MAX_PRODUCT_ID)]
Answer = TypeVar("Answer")


def create_app(
    follower: Follower,
    picture: Callable[[str], bytes],
    *,
    num_searchers: int | None = None,
    max_waiting: int = MAX_WAITING,
) -> FastAPI:
    """The service over a follower, which it starts and stops with itself.

    Args:
        follower: knows which release answers.
        picture: bytes by `image_sha256`, as they came in. Raises StoreError.
        num_searchers: searches that run at once; None: one a core.
        max_waiting: searches that may wait for their turn before new ones get 503.
    """
    metrics = ServiceMetrics(follower)
    searchers = anyio.CapacityLimiter(num_searchers or _num_cores())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        follower.start()
        yield
        await to_thread.run_sync(follower.stop)

    app = FastAPI(
        title="ENCLIP search",
        version="1",
        docs_url=None,  # both pages would load their scripts from another host; /docs is our own
        redoc_url=None,
        lifespan=lifespan,
        middleware=[Middleware(Envelope, metrics=metrics, max_body_bytes=MAX_BODY_BYTES)],
    )
    install_handlers(app)

    async def on_searcher(work: Callable[[], Answer]) -> Answer:
        """Run a search in a thread; refuse once so many wait that an answer would come too late."""
        if searchers.statistics().tasks_waiting >= max_waiting:
            raise HTTPException(503, "Too many searches are waiting.", headers={"Retry-After": "1"})
        return await to_thread.run_sync(work, limiter=searchers)

    @app.post("/v1/search", summary="Search by words, a picture, or both")
    async def search(request: SearchRequest) -> SearchAnswer:
        served = _served(follower)
        started = time.perf_counter()
        ranking = await on_searcher(
            lambda: served.release.search(
                text=request.text,
                image=request.image,
                weights=request.given_weights() if request.weights else None,
                filters=request.filters.to_filters() if request.filters else None,
                k=request.k,
                withdrawn=served.withdrawn,
                spread=request.spread,
            )
        )
        return SearchAnswer(release=served.version, took_ms=_ms_since(started), results=_hits(served, ranking))

    @app.get("/v1/similar/{product_id:path}", summary="Products like one of the catalog")
    async def similar(
        product_id: ProductId,
        k: Annotated[int, Query(ge=1, le=MAX_K)] = DEFAULT_K,
        category: Annotated[FilterValues, Query()] = (),
        gender: Annotated[FilterValues, Query()] = (),
        colour: Annotated[FilterValues, Query()] = (),
    ) -> SimilarAnswer:
        served = _served(follower)
        product = served.product(product_id)
        if product is None:
            raise HTTPException(404, f"Release {served.version} has no such product.")
        started = time.perf_counter()
        ranking = await on_searcher(
            lambda: served.release.similar(
                product_id,
                k=k,
                filters=make_filters(category, gender, colour),
                withdrawn=served.withdrawn,
            )
        )
        return SimilarAnswer(
            release=served.version,
            took_ms=_ms_since(started),
            results=_hits(served, ranking),
            product=ProductCard.of(product),
        )

    @app.get("/v1/products/{product_id:path}/image", response_class=Response, summary="A product's picture")
    def image(request: Request, product_id: ProductId) -> Response:
        # Pictures of what is withdrawn are gone too, though the store still holds them.
        product = _served(follower).product(product_id)
        if product is None or not product.image_sha256:
            raise HTTPException(404, "There is no picture of such a product.")
        return picture_response(request, product.image_sha256, picture)

    @app.get("/v1/catalog", summary="What the release holds, and filters to offer")
    def catalog() -> CatalogAnswer:
        served = _served(follower)
        return CatalogAnswer.of(served.version, served.overview)

    @app.get("/health/live", summary="The process answers")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", summary="A release answers, and which")
    async def ready(response: Response) -> Readiness:
        readiness = _readiness(follower)
        response.status_code = 200 if readiness.ready else 503
        response.headers["Cache-Control"] = "no-store"
        return readiness

    @app.get("/metrics", response_class=Response, summary="Figures for Prometheus")
    def prometheus() -> Response:
        return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    return app


def _served(follower: Follower) -> Served:
    served = follower.served
    if served is None:
        detail = follower.state.problem or "The first release is being loaded."
        raise HTTPException(503, detail, headers={"Retry-After": "2"})
    return served


def _hits(served: Served, ranking: Ranking) -> list[SearchHit]:
    found = {product_id: served.product(product_id) for product_id in ranking.product_ids}
    return hits_of(ranking, {product_id: product for product_id, product in found.items() if product is not None})


def _readiness(follower: Follower) -> Readiness:
    served, state = follower.served, follower.state
    return Readiness(
        ready=served is not None,
        release=served.version if served else None,
        alias=state.alias,
        since=served.since if served else None,
        num_products=len(served.release.products) if served else 0,
        num_members=len(served.release.manifest.members) if served else 0,
        num_withdrawn=len(served.withdrawn) if served else 0,
        problem=state.problem,
        checked_s_ago=round(time.time() - state.checked_at, 1) if state.checked_at else None,
    )


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
