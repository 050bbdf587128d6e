"""What people say of answers, stored; and how the releases stand by it."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Query
from sqlalchemy import Engine

from enclip import judgements
from enclip.errors import QueryError
from enclip.judgements import Counts, JudgedQuery, Standing
from enclip.records import MAX_JUDGE
from enclip.serving.compare_schemas import (
    JudgementAnswer,
    JudgementRequest,
    JudgementsAnswer,
    SaidAnswer,
    StandingAnswer,
    cleaned,
)
from enclip.serving.desk import REFUSALS, Desk
from enclip.serving.releases import Releases
from enclip.serving.routes.compare import NO_SUCH
from enclip.serving.schemas import MAX_PRODUCT_ID, MAX_TEXT

MAX_STANDINGS = 100
NUM_STORING = 2


def judgement_routes(desk: Desk, releases: Releases, engine: Engine) -> APIRouter:
    """`/v1/judgements`."""
    router = APIRouter(prefix="/v1")
    storing = CapacityLimiter(NUM_STORING)  # a database that hangs holds no other threads

    @router.post(
        "/judgements",
        summary="Say which answer is better, or whether a result is good",
        responses={**REFUSALS, **NO_SUCH},
    )
    async def judge(request: JudgementRequest) -> JudgementAnswer:
        query = JudgedQuery(request.text or "", request.like or "")
        judged = await (_judge_result if request.is_of_result else _judge_pair)(request, query)
        return JudgementAnswer(text=query.text, like=query.like, verdict=request.verdict, by=request.by, **judged)

    @router.get("/judgements", summary="What a judge said of a query")
    def said(
        text: Annotated[str, Query(max_length=MAX_TEXT)] = "",
        like: Annotated[str, Query(max_length=MAX_PRODUCT_ID)] = "",
        by: Annotated[str, Query(max_length=MAX_JUDGE)] = "",
    ) -> SaidAnswer:
        return _said(engine, JudgedQuery(cleaned(text), like), cleaned(by))

    @router.get("/judgements/summary", summary="How much was judged, and how the releases stand")
    def summary() -> JudgementsAnswer:
        return _summary(judgements.count_results(engine), judgements.standings(engine))

    async def _judge_pair(request: JudgementRequest, query: JudgedQuery) -> dict[str, int]:
        assert request.left and request.right, "the request has been checked"
        left, right = await releases.resolve(request.left), await releases.resolve(request.right)
        if left == right:
            raise QueryError(f"Left and right are both release {left}.", remedy="Judge two different ones.")
        between = (left, right)
        if request.verdict == "none":
            store = partial(judgements.take_back_preference, engine, query, between=between, by=request.by)
        else:
            winner = {"better": left, "worse": right}.get(request.verdict)
            store = partial(judgements.prefer, engine, query, between=between, winner=winner, by=request.by)
        await to_thread.run_sync(store, limiter=storing)
        return {"left": left, "right": right}

    async def _judge_result(request: JudgementRequest, query: JudgedQuery) -> dict[str, Any]:
        assert request.release and request.product_id, "the request has been checked"
        if request.verdict == "none":  # may have gone since: neither the release nor the product is looked at
            version = await releases.resolve(request.release)
            take_back = partial(judgements.take_back_result, engine, query, request.product_id, by=request.by)
            await to_thread.run_sync(take_back, limiter=storing)
            return {"release": version, "product_id": request.product_id}
        served = await releases.served(request.release, beside=desk.served())
        for product_id in (request.product_id, request.like):
            if product_id is not None and served.product(product_id) is None:
                raise HTTPException(404, f"Release {served.version} has no product {product_id!r}.")
        is_good = request.verdict == "good"
        store = partial(judgements.judge, engine, query, request.product_id, is_good=is_good, by=request.by)
        await to_thread.run_sync(partial(store, release=served.version), limiter=storing)
        return {"release": served.version, "product_id": request.product_id}

    return router


def _said(engine: Engine, query: JudgedQuery, by: str) -> SaidAnswer:
    found = judgements.said_of(engine, query, by=by)
    asked = {"text": query.text, "like": query.like, "by": by}
    pairs = [
        JudgementAnswer(
            **asked,
            left=pair.older,
            right=pair.newer,
            verdict="same" if pair.winner is None else "better" if pair.winner == pair.older else "worse",
        )
        for pair in found.preferences
    ]
    results = [
        JudgementAnswer(
            **asked, release=one.release, product_id=one.product_id, verdict="good" if one.is_good else "bad"
        )
        for one in found.results
    ]
    return SaidAnswer(judgements=pairs + results)


def _summary(counts: Counts, standings: Sequence[Standing]) -> JudgementsAnswer:
    num_pairs = sum(found.wins + found.ties + found.losses for found in standings)
    num_results = counts.num_good + counts.num_bad + counts.num_like
    judged = f"{num_pairs} comparisons and {num_results} results have been judged."
    return JudgementsAnswer(
        **asdict(counts),
        standings=[StandingAnswer(**asdict(found)) for found in standings[:MAX_STANDINGS]],
        says=judged if num_pairs or num_results else "Nothing has been judged yet.",
    )
