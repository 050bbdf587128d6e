"""The service on a port: its threads, its shutdown, its limits."""

import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from threadpoolctl import threadpool_limits
from uvicorn import Config, Server

from enclip.errors import ConfigError
from enclip.serving.access import ApiKeys, require_keys_beyond_loopback
from enclip.serving.logs import write_logs

if TYPE_CHECKING:
    from enclip.pipeline.platform import Platform

logger = logging.getLogger(__name__)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
GRACE_S = 15
MAX_CONNECTIONS = 1024


def run_server(
    platform: "Platform",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    refresh: Callable[[], None] | None = None,
) -> None:
    """Serve the platform's champion until SIGINT or SIGTERM; what is accepted is finished first.

    Args:
        refresh: starts a refresh of the index after products were changed here; None: that is left to others.

    Raises:
        ConfigError: the address cannot be listened on, other machines reach it and no key is set, the query log cannot
            be written, or traces cannot be sent as the environment says.
    """
    keys = ApiKeys.parse(platform.settings.api_keys)
    with bind(host, port) as bound:
        address, port = bound.getsockname()[:2]
        require_keys_beyond_loopback(address, keys)
        limit_threads()
        write_logs(platform.settings.log_format)
        server = make_server(platform_app(platform, refresh=refresh))
        logger.info("Search at http://%s:%d, %s", host, port, "with a key" if keys else "open to this machine")
        server.run(sockets=[bound])


def platform_app(platform: "Platform", *, refresh: Callable[[], None] | None = None) -> FastAPI:
    """The app that follows the platform's champion, as the platform's settings say; `refresh` as in `run_server`.

    Raises:
        ConfigError: a key or the query log cannot be used, or traces cannot be sent as the environment says.
    """
    # These load torch and FAISS, which read their number of threads then.
    from enclip.catalog.images import image_key
    from enclip.pipeline.open_release import open_to_serve
    from enclip.pipeline.products import SingleProducts
    from enclip.registry import CHALLENGER, CHAMPION
    from enclip.serving.app import create_app
    from enclip.serving.follow import Follower
    from enclip.serving.query_log import QueryLog
    from enclip.serving.refresh import Refresher
    from enclip.serving.releases import Releases, list_releases
    from enclip.serving.shadow import Shadow
    from enclip.serving.tracing import start_tracing
    from enclip.shadow import add_shadow

    # Opened here, where an error ends the start with its remedy, and not by two threads at once.
    registry, catalog, blobs, database = platform.registry, platform.catalog, platform.blobs, platform.database
    follower = Follower(
        current=lambda: registry.alias(CHAMPION),
        load=lambda version: open_to_serve(platform, version),
        withdrawn=catalog.withdrawn_ids,
    )

    def challenger() -> int | None:
        aliases = registry.aliases()
        named = aliases.get(CHALLENGER)
        return None if named == aliases.get(CHAMPION) else named

    share = platform.settings.shadow_share
    in_shadow = Follower(
        current=challenger,
        load=lambda version: open_to_serve(platform, version),
        withdrawn=frozenset,  # a comparison takes the champion's
        purpose="is in the shadow",
        optional=True,
    )
    shadow = Shadow(
        in_shadow,
        share=share,
        keep=lambda champion, other, more: add_shadow(database, champion=champion, challenger=other, more=more),
    )
    num_compared = platform.settings.compared_releases
    releases = Releases(
        known=lambda: list_releases(registry),
        load=lambda version: open_to_serve(platform, version),
        held=lambda: in_shadow.served,
        num_remembered=num_compared,
    )
    return create_app(
        follower,
        lambda sha256: blobs.get(image_key(sha256)),
        catalog=SingleProducts(platform),
        refresher=Refresher(refresh),
        keys=ApiKeys.parse(platform.settings.api_keys),
        write_keys=ApiKeys.parse(platform.settings.write_keys, "ENCLIP_WRITE_KEYS"),
        releases=releases if num_compared else None,
        judgements=database,
        shadow=shadow if share else None,
        max_wait_s=platform.settings.search_wait_s,
        query_log=QueryLog(Path(platform.settings.query_log)) if platform.settings.query_log else None,
        traces=start_tracing(os.environ),
    )


def limit_threads() -> None:
    """Give BLAS, FAISS and torch one thread to a search; several searches run at once.

    With more they fight for the cores (17 against 941 requests/s), and a graceful shutdown times out.
    What is loaded already is told directly, what comes later reads the environment. A value that the
    user has set stays.
    """
    late = sorted({"faiss", "torch"} & set(sys.modules))
    if late and "OMP_NUM_THREADS" not in os.environ:
        logger.warning("%s was loaded before its threads were limited; set OMP_NUM_THREADS=1.", " and ".join(late))
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")
    if os.environ["OPENBLAS_NUM_THREADS"] == "1":
        threadpool_limits(1, user_api="blas")


def bind(host: str, port: int) -> socket.socket:
    """A socket on the address, which refuses connections until a server listens on it; port 0 takes a free one.

    Raises:
        ConfigError: the address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            remedy="Choose another with --port or --host.",
        ) from error
    return bound


def make_server(app: FastAPI) -> Server:
    """A uvicorn server for the app, to be run on a socket."""
    return Server(
        Config(
            app,
            access_log=False,  # the app writes its own lines, with request ids
            server_header=False,
            log_config=None,  # logging is the entry point's to set up
            lifespan="on",
            ws="none",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
