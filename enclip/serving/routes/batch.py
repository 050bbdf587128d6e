"""Many searches, one release."""

import time

from fastapi import APIRouter

from enclip.serving.bulk_schemas import BatchAnswer, BatchRequest
from enclip.serving.desk import Desk
from enclip.serving.problems import blaming
from enclip.serving.routes.search import answer, ms_since, texts_of


def batch_routes(desk: Desk) -> APIRouter:
    """`/v1/search/batch`."""
    router = APIRouter(prefix="/v1")

    @router.post("/search/batch", summary="Up to 32 searches, answered by one release")
    async def search_batch(request: BatchRequest) -> BatchAnswer:
        served = desk.served()
        started = time.perf_counter()
        texts = []
        for place, search in enumerate(request.searches):
            with blaming("searches", place):
                texts += texts_of(served, search)
        answers = []
        # One after the other: a batch takes one thread, as any search does, and others get their turn in between.
        for place, search in enumerate(request.searches):
            with blaming("searches", place):
                answers.append(await answer(desk, served, search, texts=() if place else texts))
        return BatchAnswer(release=served.version, took_ms=ms_since(started), answers=answers)

    return router
