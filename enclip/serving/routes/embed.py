"""Texts and pictures → embeddings, for programs that compare them themselves."""

import time
from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter

from enclip.records import Floats
from enclip.retrieval import fusion
from enclip.serving.bulk_schemas import EmbedAnswer, EmbedRequest
from enclip.serving.desk import Desk
from enclip.serving.problems import blaming
from enclip.serving.routes.search import ms_since


def embed_routes(desk: Desk) -> APIRouter:
    """`/v1/embed`."""
    router = APIRouter(prefix="/v1")

    @router.post("/embed", summary="Embeddings of up to 64 texts and pictures")
    async def embed(request: EmbedRequest) -> EmbedAnswer:
        served = desk.served()
        members = served.release.manifest.members
        started = time.perf_counter()
        # All words in one turn; each picture has one of its own, since a small file may be a picture of 25 MP.
        words = [given.text for given in request.inputs if given.text is not None]
        blocks = await desk.search(partial(served.release.encode_texts, words)) if words else []
        of_words = iter(rows_of(blocks))
        embeddings = []
        for place, given in enumerate(request.inputs):
            if given.image is None:
                embeddings.append(next(of_words))
                continue
            with blaming("inputs", place):
                embeddings += rows_of(await desk.search(partial(served.release.encode_picture, given.image)))
        return EmbedAnswer(
            release=served.version,
            took_ms=ms_since(started),
            dims=[member.dim for member in members],
            weights=[member.weight for member in members],
            embeddings=embeddings,
        )

    return router


def rows_of(blocks: Sequence[Floats]) -> list[list[float]]:
    """Per input ΣD_k numbers: the members' embeddings side by side, each of unit norm, as a search makes them."""
    embeddings: list[list[float]] = fusion.concatenate(blocks).tolist() if blocks else []
    return embeddings
