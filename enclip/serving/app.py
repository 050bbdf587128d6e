"""The service: its routes, around one release that answers."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware

from enclip.serving.access import Access, ApiKeys, describe_keys
from enclip.serving.desk import MAX_WAIT_S, MAX_WAITING, REFUSALS, Desk, begin_in_time
from enclip.serving.envelope import Envelope
from enclip.serving.follow import Follower
from enclip.serving.metrics import ServiceMetrics
from enclip.serving.problems import install_handlers
from enclip.serving.routes.batch import batch_routes
from enclip.serving.routes.catalog import catalog_routes
from enclip.serving.routes.embed import embed_routes
from enclip.serving.routes.explain import explain_routes
from enclip.serving.routes.health import health_routes
from enclip.serving.routes.pages import PAGE, page_routes
from enclip.serving.routes.search import search_routes
from enclip.serving.schemas import MAX_BODY_BYTES
from enclip.serving.shadow import Shadow


def create_app(
    follower: Follower,
    picture: Callable[[str], bytes],
    *,
    keys: ApiKeys | None = None,
    shadow: Shadow | None = None,
    num_searchers: int | None = None,
    max_waiting: int = MAX_WAITING,
    max_wait_s: float = MAX_WAIT_S,
) -> FastAPI:
    """The service over a follower, which it starts and stops with itself.

    Args:
        follower: knows which release answers.
        picture: bytes by `image_sha256`, as they came in. Raises StoreError.
        keys: what opens `/v1`; None: it is open.
        shadow: compares searches with the challenger; started and stopped with the app.
        num_searchers, max_waiting, max_wait_s: see `Desk`.
    """
    metrics = ServiceMetrics(follower)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        follower.start()
        if shadow is not None:
            shadow.start()
        yield
        if shadow is not None:
            await to_thread.run_sync(shadow.stop)
        await to_thread.run_sync(follower.stop)

    app = FastAPI(
        title="ENCLIP search",
        version="1",
        docs_url=None,  # both pages would load their scripts from another host; /docs is our own
        redoc_url=None,
        lifespan=lifespan,
        middleware=[
            Middleware(Envelope, metrics=metrics, max_body_bytes=MAX_BODY_BYTES),
            *([Middleware(Access, keys=keys, metrics=metrics)] if keys else []),
        ],
    )
    install_handlers(app)
    if keys:
        describe_keys(app)
    desk = Desk(follower, metrics, num_searchers=num_searchers, max_waiting=max_waiting, max_wait_s=max_wait_s)
    if shadow is not None:
        shadow.attach(metrics.registry, desk.is_busy)
    for searching in (search_routes(desk, shadow), explain_routes(desk), batch_routes(desk), embed_routes(desk)):
        app.include_router(searching, dependencies=[Depends(begin_in_time)], responses=REFUSALS)
    app.include_router(catalog_routes(desk, picture))
    app.include_router(health_routes(follower, metrics))
    app.include_router(page_routes())
    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    return app
