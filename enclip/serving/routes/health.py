"""For those who run the service: is it alive, does a release answer, how is it doing."""

import time
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from enclip.serving.follow import Follower
from enclip.serving.metrics import ServiceMetrics
from enclip.serving.refresh import Refresher
from enclip.serving.schemas import Readiness

# The reason names Airflow's address; this route asks for no key.
NOT_STARTED = "refresh_index could not be started; the service's log says why."


def health_routes(follower: Follower, metrics: ServiceMetrics, refresher: Refresher) -> APIRouter:
    """`/health/live`, `/health/ready` and `/metrics`."""
    router = APIRouter()

    @router.get("/health/live", summary="The process answers")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @router.get(
        "/health/ready",
        summary="A release answers, and which",
        responses={503: {"model": Readiness, "description": "None does yet; `problem` says why."}},
    )
    async def ready(response: Response) -> Readiness:
        readiness = _readiness(follower, refresher)
        response.status_code = 200 if readiness.ready else 503
        response.headers["Cache-Control"] = "no-store"
        return readiness

    figures: dict[int | str, dict[str, Any]] = {200: {"description": "Text.", "content": {CONTENT_TYPE_LATEST: {}}}}

    @router.get("/metrics", response_class=Response, summary="Figures for Prometheus", responses=figures)
    def prometheus() -> Response:
        return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router


def _readiness(follower: Follower, refresher: Refresher) -> Readiness:
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
        refresh_problem=NOT_STARTED if refresher.state.problem else "",
    )
