"""What a search tells an OpenTelemetry trace of itself: names and numbers, never what was searched for."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace

_tracer = trace.get_tracer("enclip")


@contextmanager
def span(name: str) -> Iterator[None]:
    """A span around a block, or around each call of a function that it decorates; nothing where nothing is traced."""
    if not trace.get_current_span().is_recording():
        yield
        return
    # An error's text may quote what was asked for: it is for the log, which has the trace's id.
    with _tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False):
        yield


def describe(**numbers: int) -> None:
    """Attributes of the span that runs here."""
    trace.get_current_span().set_attributes({f"enclip.{name}": number for name, number in numbers.items()})
