"""Single products: what the catalog has of them, and changes."""

from typing import Any

from fastapi import APIRouter, HTTPException

from enclip.serving.problems import described
from enclip.serving.product_schemas import ProductChange, ProductRequest, ProductState
from enclip.serving.schemas import ProductId
from enclip.serving.shelf import Shelf

NEVER_SEEN: dict[int | str, dict[str, Any]] = {404: described("There never was such a product.")}
TOO_MANY: dict[int | str, dict[str, Any]] = {
    429: described("Too many changes wait already; ask again after Retry-After seconds."),
}
BUSY: dict[int | str, dict[str, Any]] = {
    **TOO_MANY,
    503: described("An ingest holds the catalog, or the store does not answer; nothing was changed."),
}


def product_routes(shelf: Shelf) -> APIRouter:
    """`/v1/products`. Pictures, which are below it too, have their route in `catalog`."""
    router = APIRouter(prefix="/v1/products")

    @router.get("/{product_id:path}", responses=NEVER_SEEN, summary="What the catalog has of a product")
    def product(product_id: ProductId) -> ProductState:
        found = shelf.state(product_id)
        if found is None:
            raise HTTPException(404, _unknown(product_id))
        return found

    @router.put("/{product_id:path}", responses=BUSY, summary="Take a product in, or change it")
    async def put(product_id: ProductId, product: ProductRequest) -> ProductChange:
        return await shelf.put(product_id, product)

    @router.delete(
        "/{product_id:path}",
        responses={**NEVER_SEEN, **TOO_MANY},
        summary="Take a product out of every release's results",
    )
    async def withdraw(product_id: ProductId) -> ProductChange:
        changed = await shelf.withdraw(product_id)
        if changed is None:
            raise HTTPException(404, _unknown(product_id))
        return changed

    return router


def _unknown(product_id: str) -> str:
    return f"The catalog never had a product {product_id!a}."
