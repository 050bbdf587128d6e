"""Two releases beside each other, for the same search."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Depends

from enclip.serving.compare_schemas import (
    CompareAnswer,
    ComparedSide,
    CompareRequest,
    ReleaseChoice,
    ReleasesAnswer,
    compared,
)
from enclip.serving.desk import REFUSALS, Desk, begin_in_time
from enclip.serving.problems import UNREADY, described
from enclip.serving.releases import Releases
from enclip.serving.routes.search import answer

MAX_LISTED = 100
# What a route that names a release may answer instead.
NO_SUCH: dict[int | str, dict[str, Any]] = {
    404: described("There is no such release, or it has no such product."),
    409: described("The release is there and cannot be opened; `detail` says why."),
}


def compare_routes(desk: Desk, releases: Releases) -> APIRouter:
    """`/v1/releases` and `/v1/compare`."""
    router = APIRouter(prefix="/v1")

    @router.get("/releases", summary="Releases that can be compared, newest first", responses=UNREADY)
    async def list_releases() -> ReleasesAnswer:
        served = desk.served()
        listed = await releases.listed()
        shown = [release for place, release in enumerate(listed) if place < MAX_LISTED or release.aliases]
        return ReleasesAnswer(
            served=served.version,
            releases=[
                ReleaseChoice(
                    version=release.version,
                    aliases=list(release.aliases),
                    created_at=release.created_at,
                    kind=release.kind,
                    map_at_10=release.map_at_10,
                )
                for release in shown
            ],
        )

    @router.post(
        "/compare",
        summary="The same search over two releases, with what differs",
        dependencies=[Depends(begin_in_time)],
        responses={**REFUSALS, **NO_SUCH},
    )
    async def compare(request: CompareRequest) -> CompareAnswer:
        # Both are open before either is asked; opening takes seconds, in which more may be withdrawn.
        sides = [await releases.served(name, beside=desk.served()) for name in (request.left, request.right)]
        withdrawn = desk.served().withdrawn
        answers = [await answer(desk, replace(side, withdrawn=withdrawn), request) for side in sides]
        hits = compared(answers[0].results, answers[1].results, offset=request.offset)
        left, right = (
            ComparedSide(release=found.release, took_ms=found.took_ms, results=results)
            for found, results in zip(answers, hits, strict=True)
        )
        return CompareAnswer.of(left, right)

    return router
