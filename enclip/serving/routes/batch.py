"""Many searches, one release."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import APIRouter, HTTPException
from fastapi.exceptions import RequestValidationError

from enclip.errors import ImageError, QueryError
from enclip.serving.bulk_schemas import BatchAnswer, BatchRequest
from enclip.serving.desk import Desk
from enclip.serving.routes.search import answer, ms_since


def batch_routes(desk: Desk) -> APIRouter:
    """`/v1/search/batch`."""
    router = APIRouter(prefix="/v1")

    @router.post("/search/batch", summary="Up to 32 searches, answered by one release")
    async def search_batch(request: BatchRequest) -> BatchAnswer:
        served = desk.served()
        started = time.perf_counter()
        answers = []
        # One after the other: a batch takes one thread, as any search does, and others get their turn in between.
        for place, search in enumerate(request.searches):
            with blaming("searches", place):
                answers.append(await answer(desk, served, search))
        return BatchAnswer(release=served.version, took_ms=ms_since(started), answers=answers)

    return router


@contextmanager
def blaming(*place: str | int) -> Iterator[None]:
    """What cannot be answered as asked is a 422 that names its place in the body, as that of a bad field does."""
    try:
        yield
    except (QueryError, ImageError, HTTPException) as error:
        if isinstance(error, HTTPException) and error.status_code != 404:
            raise  # the service's own trouble, whichever it met
        says = error.detail if isinstance(error, HTTPException) else str(error)
        entry = {"type": "value_error", "loc": ("body", *place), "msg": says}
        raise RequestValidationError([entry]) from error
