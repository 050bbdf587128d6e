"""What every request gets whatever its route: an id, a bound on its body, headers, a count, a log line."""

import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enclip.serving import logs
from enclip.serving.metrics import ServiceMetrics
from enclip.serving.problems import problem
from enclip.serving.query_log import Note, QueryLog

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET_ROUTES = frozenset({"/health/live", "/health/ready", "/metrics", "/v1/products/{product_id:path}/image"})
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=()",
}


class Envelope:
    """ASGI middleware around the whole app.

    Args:
        app: what answers.
        metrics: where answers are counted.
        max_body_bytes: larger bodies get 413, announced or not.
        query_log: where searches are written down; None: nowhere.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: ServiceMetrics, max_body_bytes: int, query_log: QueryLog | None = None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._query_log = query_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        logs.request_id.set(request_id)
        notes = self._query_log.begin() if self._query_log else []
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, request_id)
            await send(message)

        try:
            if _announced_bytes(headers) > self._max_body_bytes:
                await self._too_large(request_id)(scope, receive, send_with_headers)
            else:
                await self._app(scope, self._bounded(receive), send_with_headers)
        except Exception:
            logger.exception("The request failed.")
            if status:
                raise  # half an answer is out; only a broken connection can tell the client
            failure = problem(500, "The server failed; its log has this request's id.", request_id=request_id)
            await failure(scope, receive, send_with_headers)
        finally:
            self._record(scope, status or 499, time.perf_counter() - started, notes)

    def _bounded(self, receive: Receive) -> Receive:
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise HTTPException(413, self._limit_text())
            return message

        return bounded

    def _too_large(self, request_id: str) -> ASGIApp:
        return problem(413, self._limit_text(), request_id=request_id)

    def _limit_text(self) -> str:
        return f"The request is larger than {self._max_body_bytes} bytes; send a smaller picture."

    def _record(self, scope: Scope, status: int, seconds: float, notes: list[Note]) -> None:
        route = str(getattr(scope.get("route"), "path", "")) or ("/static" if status < 400 else "unmatched")
        self._metrics.observe(method=scope["method"], route=route, status=status, seconds=seconds)
        level = logging.DEBUG if route in _QUIET_ROUTES and status < 500 else logging.INFO
        took_ms = round(seconds * 1000, 1)
        fields = {"method": scope["method"], "route": route, "status": status, "took_ms": took_ms}
        logger.log(level, "%s %s %d %.1f ms", *fields.values(), extra={"fields": fields})
        if self._query_log:
            self._query_log.write(notes, route=route, status=status)


def _request_id(headers: Headers) -> str:
    """The client's own id where it is one that can be logged, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _announced_bytes(headers: Headers) -> int:
    announced = headers.get("content-length", "0")
    return int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else 0


def _add_headers(message: MutableMapping[str, Any], request_id: str) -> None:
    headers = MutableHeaders(scope=message)
    headers["X-Request-ID"] = request_id
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
