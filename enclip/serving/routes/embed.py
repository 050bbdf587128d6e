"""Texts and pictures → embeddings, for programs that compare them themselves."""

import time
from functools import partial

from fastapi import APIRouter

from enclip.retrieval import fusion
from enclip.serving.bulk_schemas import EmbedAnswer, EmbedInput, EmbedRequest
from enclip.serving.desk import Desk
from enclip.serving.follow import OpenRelease
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
        embeddings = []
        # Each has a turn of its own, as in a batch: a small file may be a picture of 25 MP.
        for place, given in enumerate(request.inputs):
            with blaming("inputs", place):
                embeddings.append(await desk.search(partial(embedding_of, served.release, given)))
        return EmbedAnswer(
            release=served.version,
            took_ms=ms_since(started),
            dims=[member.dim for member in members],
            weights=[member.weight for member in members],
            embeddings=embeddings,
        )

    return router


def embedding_of(release: OpenRelease, given: EmbedInput) -> list[float]:
    """ΣD_k numbers: the members' embeddings side by side, each of unit norm, as a search makes them.

    Raises:
        QueryError: the picture cannot be read.
    """
    blocks = release.encode_picture(given.image) if given.image else release.encode_texts([given.text or ""])
    embedding: list[float] = fusion.concatenate(blocks)[0].tolist()
    return embedding
