"""The service: its routes, around one release that answers."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from anyio import create_task_group, to_thread
from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles
from opentelemetry.sdk.trace import TracerProvider
from sqlalchemy import Engine
from starlette.middleware import Middleware

from enclip.serving.access import Access, ApiKeys, describe_keys
from enclip.serving.desk import MAX_WAIT_S, MAX_WAITING, REFUSALS, Desk, begin_in_time
from enclip.serving.envelope import Envelope
from enclip.serving.follow import Follower
from enclip.serving.metrics import ServiceMetrics
from enclip.serving.problems import describe_problems, install_handlers
from enclip.serving.query_log import QueryLog
from enclip.serving.refresh import Refresher
from enclip.serving.releases import Releases
from enclip.serving.routes.batch import batch_routes
from enclip.serving.routes.catalog import catalog_routes
from enclip.serving.routes.clusters import cluster_routes
from enclip.serving.routes.compare import compare_routes
from enclip.serving.routes.embed import embed_routes
from enclip.serving.routes.explain import explain_routes
from enclip.serving.routes.health import health_routes
from enclip.serving.routes.judgements import judgement_routes
from enclip.serving.routes.pages import ASSETS, page_routes
from enclip.serving.routes.products import product_routes
from enclip.serving.routes.search import search_routes
from enclip.serving.schemas import MAX_BODY_BYTES
from enclip.serving.shadow import Shadow
from enclip.serving.shelf import Catalog, Shelf
from enclip.serving.tracing import Traced, stop_tracing


def create_app(
    follower: Follower,
    picture: Callable[[str], bytes],
    *,
    catalog: Catalog | None = None,
    refresher: Refresher | None = None,
    keys: ApiKeys | None = None,
    write_keys: ApiKeys | None = None,
    releases: Releases | None = None,
    judgements: Engine | None = None,
    shadow: Shadow | None = None,
    num_searchers: int | None = None,
    max_waiting: int = MAX_WAITING,
    max_wait_s: float = MAX_WAIT_S,
    query_log: QueryLog | None = None,
    traces: TracerProvider | None = None,
) -> FastAPI:
    """The service over a follower, which it starts and stops with itself.

    Args:
        follower: knows which release answers.
        picture: bytes by `image_sha256`, as they came in. Raises StoreError.
        catalog: whose single products can be looked at and changed; None: of none.
        refresher: told of those changes; it is started and stopped with the app. None: nobody is told.
        keys: what opens `/v1`; None or empty: it is open.
        write_keys: what lets one change products; None or empty: nobody may.
        releases: what can be compared with what is served; None: nothing, and there are no such routes.
        judgements: the database that keeps what people say of answers; None: nobody is asked.
        shadow: compares searches with the challenger; started and stopped with the app; None: none are.
        num_searchers, max_waiting, max_wait_s: see `Desk`.
        query_log: where searches are written down; None: nowhere. Started and stopped with the app.
        traces: where requests' spans go, stopped with the app; None: there are none.
    """
    metrics = ServiceMetrics(follower)
    keys, write_keys = keys or ApiKeys(), write_keys or ApiKeys()
    refresher = refresher or Refresher(None)
    metrics.watch_refresher(refresher)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        follower.start()
        refresher.start()
        if query_log:
            query_log.start(metrics.count_query_line)
        if shadow:
            shadow.start()
        yield
        await _all_at_once([follower.stop, refresher.stop, *([shadow.stop] if shadow else [])])
        # After what may still write to them.
        await _all_at_once(
            [*([query_log.stop] if query_log else []), *([partial(stop_tracing, traces)] if traces else [])]
        )

    app = FastAPI(
        title="ENCLIP search",
        version="1",
        docs_url=None,  # both pages would load their scripts from another host; /docs is our own
        redoc_url=None,
        lifespan=lifespan,
        middleware=[
            *([Middleware(Traced)] if traces else []),  # outermost, so that every line of a request's log has its trace
            Middleware(Envelope, metrics=metrics, max_body_bytes=MAX_BODY_BYTES, query_log=query_log),
            Middleware(Access, keys=keys, write_keys=write_keys, metrics=metrics),
        ],
    )
    install_handlers(app)
    describe_problems(app)
    describe_keys(app, to_search=bool(keys))
    desk = Desk(follower, metrics, num_searchers=num_searchers, max_waiting=max_waiting, max_wait_s=max_wait_s)
    if shadow is not None:
        shadow.attach(metrics.registry, desk.is_busy)
    for searching in (search_routes(desk, shadow), explain_routes(desk), batch_routes(desk), embed_routes(desk)):
        app.include_router(searching, dependencies=[Depends(begin_in_time)], responses=REFUSALS)
    app.include_router(cluster_routes(desk), dependencies=[Depends(begin_in_time)], responses=REFUSALS)
    app.include_router(catalog_routes(desk, picture))
    if catalog is not None:
        app.include_router(product_routes(Shelf(catalog, follower, refresher)))
    if releases is not None:
        app.include_router(compare_routes(desk, releases))
        metrics.watch_compared(lambda: len(releases.versions))
    if releases is not None and judgements is not None:
        app.include_router(judgement_routes(desk, releases, judgements))
    app.include_router(health_routes(follower, metrics, refresher))
    app.include_router(page_routes(compares=releases is not None))
    app.mount("/static", StaticFiles(directory=ASSETS), name="static")
    return app


async def _all_at_once(stops: Sequence[Callable[[], None]]) -> None:
    """Each waits some seconds for what hangs; one after the other they would outlast who stops a container."""
    async with create_task_group() as group:
        for stop in stops:
            group.start_soon(to_thread.run_sync, stop)
