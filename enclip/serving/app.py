"""The service: its routes, around one release that answers."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware

from enclip.serving.desk import MAX_WAITING, Desk
from enclip.serving.envelope import Envelope
from enclip.serving.follow import Follower
from enclip.serving.metrics import ServiceMetrics
from enclip.serving.problems import install_handlers
from enclip.serving.routes.batch import batch_routes
from enclip.serving.routes.catalog import catalog_routes
from enclip.serving.routes.embed import embed_routes
from enclip.serving.routes.health import health_routes
from enclip.serving.routes.pages import PAGE, page_routes
from enclip.serving.routes.search import search_routes
from enclip.serving.schemas import MAX_BODY_BYTES


def create_app(
    follower: Follower,
    picture: Callable[[str], bytes],
    *,
    num_searchers: int | None = None,
    max_waiting: int = MAX_WAITING,
) -> FastAPI:
    """The service over a follower, which it starts and stops with itself.

    Args:
        follower: knows which release answers.
        picture: bytes by `image_sha256`, as they came in. Raises StoreError.
        num_searchers, max_waiting: see `Desk`.
    """
    metrics = ServiceMetrics(follower)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        follower.start()
        yield
        await to_thread.run_sync(follower.stop)

    app = FastAPI(
        title="ENCLIP search",
        version="1",
        docs_url=None,  # both pages would load their scripts from another host; /docs is our own
        redoc_url=None,
        lifespan=lifespan,
        middleware=[Middleware(Envelope, metrics=metrics, max_body_bytes=MAX_BODY_BYTES)],
    )
    install_handlers(app)
    desk = Desk(follower, num_searchers=num_searchers, max_waiting=max_waiting)
    app.include_router(search_routes(desk))
    app.include_router(batch_routes(desk))
    app.include_router(embed_routes(desk))
    app.include_router(catalog_routes(desk, picture))
    app.include_router(health_routes(follower, metrics))
    app.include_router(page_routes())
    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    return app
