"""What the release holds, and its products' pictures."""

from collections.abc import Callable
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, HTTPException, Request, Response

from enclip.serving.desk import Desk
from enclip.serving.pictures import PICTURE, picture_response
from enclip.serving.problems import UNKNOWN, UNREADY, described
from enclip.serving.routes.filters import filters_of_query
from enclip.serving.schemas import CatalogAnswer, ProductId, SearchFilters

BUSY: dict[int | str, dict[str, Any]] = {
    429: described("Too many pictures wait for the store; ask again after Retry-After seconds.", retried=True)
}
NUM_READING = 16
MAX_WAITING = 256  # pictures: a dozen pages of results


def catalog_routes(desk: Desk, picture: Callable[[str], bytes]) -> APIRouter:
    """`/v1/catalog` and pictures.

    Args:
        picture: bytes by `image_sha256`, as they came in. Raises StoreError.
    """
    router = APIRouter(prefix="/v1")
    reading = CapacityLimiter(NUM_READING)  # a store that hangs holds no other threads

    async def read(sha256: str) -> bytes:
        if reading.statistics().tasks_waiting >= MAX_WAITING:
            raise HTTPException(429, "Too many pictures are waiting for the store.", headers={"Retry-After": "2"})
        return await to_thread.run_sync(picture, sha256, limiter=reading)

    @router.get(
        "/products/{product_id:path}/image",
        response_class=Response,
        summary="A product's picture",
        responses=PICTURE | UNKNOWN | UNREADY | BUSY,
    )
    async def image(request: Request, product_id: ProductId) -> Response:
        # Pictures of what is withdrawn are gone too, though the store still holds them.
        product = desk.served().product(product_id)
        if product is None or not product.image_sha256:
            raise HTTPException(404, "There is no picture of such a product.")
        return await picture_response(request, product.image_sha256, read)

    @router.get("/catalog", summary="What the release holds, and filters to offer", responses=UNREADY)
    def catalog(asked: Annotated[SearchFilters, Depends(filters_of_query)]) -> CatalogAnswer:
        served, filters = desk.served(), asked.to_filters()
        answer = CatalogAnswer.of(served.version, served.overview)
        return answer.narrowed(served.release.counts(filters, withdrawn=served.withdrawn)) if filters else answer

    return router
