"""What the release holds, and its products' pictures."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from enclip.serving.desk import Desk
from enclip.serving.pictures import PICTURE, picture_response
from enclip.serving.problems import UNKNOWN, UNREADY
from enclip.serving.routes.filters import filters_of_query
from enclip.serving.schemas import CatalogAnswer, ProductId, SearchFilters


def catalog_routes(desk: Desk, picture: Callable[[str], bytes]) -> APIRouter:
    """`/v1/catalog` and pictures.

    Args:
        picture: bytes by `image_sha256`, as they came in. Raises StoreError.
    """
    router = APIRouter(prefix="/v1")

    @router.get(
        "/products/{product_id:path}/image",
        response_class=Response,
        summary="A product's picture",
        responses=PICTURE | UNKNOWN | UNREADY,
    )
    def image(request: Request, product_id: ProductId) -> Response:
        # Pictures of what is withdrawn are gone too, though the store still holds them.
        product = desk.served().product(product_id)
        if product is None or not product.image_sha256:
            raise HTTPException(404, "There is no picture of such a product.")
        return picture_response(request, product.image_sha256, picture)

    @router.get("/catalog", summary="What the release holds, and filters to offer", responses=UNREADY)
    def catalog(asked: Annotated[SearchFilters, Depends(filters_of_query)]) -> CatalogAnswer:
        served, filters = desk.served(), asked.to_filters()
        answer = CatalogAnswer.of(served.version, served.overview)
        return answer.narrowed(served.release.counts(filters, withdrawn=served.withdrawn)) if filters else answer

    return router
