"""OpenTelemetry traces of the service: on where OpenTelemetry's own variables say where to send them.

A trace says where a request's time went: in the line, in the encoders, in the index (`enclip.spans`). Words and
pictures are not in it; the request's id leads from a trace to the log and to the query log.
"""

import logging
import threading
from collections.abc import Mapping

from opentelemetry import propagate, trace
from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enclip import __version__
from enclip.errors import ConfigError

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
FLUSH_S = 5.0
MAX_PATH = 200
_UNTRACED = ("/health/", "/metrics", "/static/")  # asked for again and again, and always quick


def start_tracing(environ: Mapping[str, str]) -> TracerProvider | None:
    """Send this process's spans where the environment says; None where it says nothing.

    An endpoint or `OTEL_TRACES_EXPORTER=otlp` turns traces on; `OTEL_TRACES_EXPORTER=none` and
    `OTEL_SDK_DISABLED=true` turn them off again. Sampling, batches, headers and resource attributes are
    OpenTelemetry's own variables.

    Raises:
        ConfigError: an exporter or a protocol that is not here.
    """
    if not _is_on(environ):
        return None
    protocol = next((environ[name] for name in PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise ConfigError(f"Traces cannot be sent by {protocol!r}.", remedy=f"Set {PROTOCOLS[1]} to http/protobuf.")
    # Half a second to import, which nobody pays who does not trace.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    own = {SERVICE_VERSION: __version__} | ({} if environ.get(OTEL_SERVICE_NAME) else {SERVICE_NAME: "enclip"})
    provider = TracerProvider(resource=Resource.create(own))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def stop_tracing(provider: TracerProvider) -> None:
    """Send what waits; a collector that does not answer is waited for no longer than 5 s."""
    # The provider's own `shutdown` waits for 30 s, longer than who stops a container does.
    ending = threading.Thread(target=provider.shutdown, daemon=True)
    ending.start()
    ending.join(FLUSH_S)


class Traced:
    """ASGI middleware that makes a span of each request, a child of its caller's where `traceparent` names one.

    Instead of `opentelemetry-instrumentation-asgi`: that puts clients' addresses and whole URLs into spans, names
    them by path and not by route, and answers 500 to a query string that is not UTF-8.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tracer = trace.get_tracer(__name__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_UNTRACED):
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        parent = propagate.extract(Headers(scope=scope))
        with self._tracer.start_as_current_span(scope["method"], context=parent, kind=SpanKind.SERVER) as span:
            try:
                await self._app(scope, receive, send_noting_status)
            finally:
                route = str(getattr(scope.get("route"), "path", ""))
                span.update_name(f"{scope['method']} {route}".strip())
                span.set_attributes(
                    {
                        "http.request.method": scope["method"],
                        "http.route": route,
                        "http.response.status_code": status,
                        "url.path": scope["path"][:MAX_PATH],
                        "url.scheme": scope["scheme"],
                        "enclip.request_id": scope.get("state", {}).get("request_id", ""),
                    }
                )
                if status >= 500:
                    span.set_status(Status(StatusCode.ERROR))


def _is_on(environ: Mapping[str, str]) -> bool:
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter not in ("", "otlp", "none"):
        raise ConfigError(
            f"OTEL_TRACES_EXPORTER is {exporter!r}; the service sends traces by OTLP alone.",
            remedy="Set it to otlp or none.",
        )
    if exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return exporter == "otlp" or any(environ.get(name) for name in ENDPOINTS)
