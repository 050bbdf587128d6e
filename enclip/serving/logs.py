"""The service's log lines: as text or as JSON, each with the request and the trace that it belongs to."""

import json
import logging
import os
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from opentelemetry import trace

LogFormat = Literal["text", "json"]

# Set by the envelope. A search's thread runs in a copy of its request's context, so that its lines have the id too.
request_id: ContextVar[str] = ContextVar("request_id", default="")


def write_logs(log_format: LogFormat) -> None:
    """Have this process write its log to standard error, warnings and MLflow's lines included."""
    # MLflow would write lines of its own format; it reads this when it is imported.
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("enclip.serving").setLevel(logging.INFO)


def trace_id() -> str:
    """The trace that runs here, 32 hex digits; empty where nothing is traced."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


class TextLines(logging.Formatter):
    """A line for people; of a request: with its id, then with that of its trace."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """What stands before a traceback."""
        traced = trace_id()
        return " ".join(
            part for part in (super().formatMessage(record), request_id.get(), f"trace={traced}" * bool(traced)) if part
        )


class JsonLines(logging.Formatter):
    """One JSON object a line, tracebacks within it; `extra={"fields": {…}}` adds fields of a line's own."""

    def format(self, record: logging.LogRecord) -> str:
        """ASCII, so that nothing which somebody sent can end a line or turn a terminal's text around."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
            "trace_id": trace_id(),
            **getattr(record, "fields", {}),
            "exception": self.formatException(record.exc_info) if record.exc_info else "",
        }
        return json.dumps({name: value for name, value in line.items() if value != ""})
