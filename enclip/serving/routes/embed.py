"""Texts and pictures → embeddings, for programs that compare them themselves."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Protocol, cast

from fastapi import APIRouter

from enclip.catalog.images import decode, fit_square
from enclip.records import Encoder, Floats
from enclip.release import Manifest
from enclip.retrieval import fusion
from enclip.serving.bulk_schemas import EmbedAnswer, EmbedInput, EmbedRequest
from enclip.serving.desk import Desk
from enclip.serving.routes.batch import blaming
from enclip.serving.routes.search import ms_since


class EmbeddingRelease(Protocol):
    """What embedding asks of a release, beside what a search does (`follow.OpenRelease`)."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def encoders(self) -> tuple[Encoder, ...]: ...

    def encode_texts(self, texts: Sequence[str]) -> list[Floats]:
        """Per member `embedding_QD` of the texts; by the student, where there is one."""
        ...


def embed_routes(desk: Desk) -> APIRouter:
    """`/v1/embed`."""
    router = APIRouter(prefix="/v1")

    @router.post("/embed", summary="Embeddings of up to 64 texts and pictures")
    async def embed(request: EmbedRequest) -> EmbedAnswer:
        served = desk.served()
        release = cast(EmbeddingRelease, served.release)
        started = time.perf_counter()
        embeddings = []
        # Each has a turn of its own, as in a batch: a small file may be a picture of 25 MP.
        for place, given in enumerate(request.inputs):
            with blaming("inputs", place):
                embeddings.append(await desk.search(partial(embedding_of, release, given)))
        return EmbedAnswer(
            release=served.version,
            took_ms=ms_since(started),
            dims=[member.dim for member in release.manifest.members],
            weights=[member.weight for member in release.manifest.members],
            embeddings=embeddings,
        )

    return router


def embedding_of(release: EmbeddingRelease, given: EmbedInput) -> list[float]:
    """ΣD_k numbers: the members' embeddings side by side, each of unit norm, as a search makes them.

    Raises:
        ImageError: the picture cannot be decoded.
    """
    if given.image is None:
        blocks = release.encode_texts([given.text or ""])
    else:
        pixels = decode(given.image)
        blocks = [
            encoder.encode_images(fit_square(pixels, member.pixel_side)[None])
            for encoder, member in zip(release.encoders, release.manifest.members, strict=True)
        ]
    embedding: list[float] = fusion.concatenate(blocks)[0].tolist()
    return embedding
