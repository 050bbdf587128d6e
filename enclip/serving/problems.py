"""Errors as problem JSON (RFC 9457): what was wrong, where in the request, and the request's id."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from enclip.errors import EnclipError, ImageError, QueryError
from enclip.serving.logs import trace_id

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_TEXT = {"type": "string"}
_SCHEMA = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "request_id": _TEXT,
        "trace_id": _TEXT,
        "errors": {"type": "array", "items": {"type": "object", "properties": {"field": _TEXT, "problem": _TEXT}}},
    },
}


def problem(
    status: int,
    detail: str,
    *,
    request_id: str,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem as a response; `errors` name the field and the problem of each."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    if traced := trace_id():
        content["trace_id"] = traced
    if errors:
        content["errors"] = list(errors)
    return JSONResponse(content, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def described(says: str, *, retried: bool = False) -> dict[str, Any]:
    """A problem in OpenAPI: when a route answers with it, and whether it says how long to wait then."""
    headers = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}}
    return {"description": says, "content": {MEDIA_TYPE: {"schema": _SCHEMA}}} | (
        {"headers": headers} if retried else {}
    )


# What a route answers where it cannot find what is named; for FastAPI's `responses`.
UNKNOWN: dict[int | str, dict[str, Any]] = {404: described("The release has no such product.")}
UNREADY: dict[int | str, dict[str, Any]] = {
    503: described("No release answers yet, or the store does not.", retried=True)
}


def describe_problems(app: FastAPI) -> None:
    """Have the app's OpenAPI say what `install_handlers` answers, in place of FastAPI's own form of it."""
    without_problems = app.openapi

    def with_problems() -> dict[str, Any]:
        description = without_problems()
        for operations in description["paths"].values():
            for operation in operations.values():
                if "requestBody" in operation:
                    operation["responses"]["400"] = described("The body is not JSON.")
                    operation["responses"]["413"] = described("The body is too large.")
                if "422" in operation["responses"]:
                    operation["responses"]["422"] = described("What is asked cannot be; `errors` names the fields.")
        for unused in ("HTTPValidationError", "ValidationError"):
            description.get("components", {}).get("schemas", {}).pop(unused, None)
        return description

    app.openapi = with_problems  # type: ignore[method-assign]  # FastAPI's own way to extend its description


def request_id_of(request: Request) -> str:
    """The id that the envelope gave the request."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def install_handlers(app: FastAPI) -> None:
    """Answer every foreseen error with problem JSON; the unforeseen ones are the envelope's."""

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # What was sent is not echoed: it may be megabytes of picture, or not encodable at all.
        errors = [{"field": _field(entry["loc"]), "problem": _message(entry)} for entry in error.errors()]
        detail = "; ".join(f"{entry['field']}: {entry['problem']}" for entry in errors[:3])
        return problem(422, detail, request_id=request_id_of(request), errors=errors[:20])

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _allowed(request)
        return problem(error.status_code, error.detail, request_id=request_id_of(request), headers=headers)

    @app.exception_handler(QueryError)
    async def _query(request: Request, error: QueryError) -> JSONResponse:
        return problem(422, str(error), request_id=request_id_of(request))

    @app.exception_handler(ImageError)
    async def _image(request: Request, error: ImageError) -> JSONResponse:
        return problem(
            422,
            str(error),
            request_id=request_id_of(request),
            errors=[{"field": "image", "problem": str(error)}],
        )

    @app.exception_handler(EnclipError)
    async def _unavailable(request: Request, error: EnclipError) -> JSONResponse:
        # A store or registry that does not answer; where it lies is the operator's to know, not the client's.
        logger.error("%s", error)
        return problem(
            503,
            "A part of the service does not answer; its log has this request's id.",
            request_id=request_id_of(request),
            headers={"Retry-After": "2"},
        )


def _allowed(request: Request) -> str:
    """The methods of all routes of a path; Starlette names those of the first alone."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in getattr(route, "methods", None) or ()}))


@contextmanager
def blaming(*place: str | int) -> Iterator[None]:
    """What cannot be answered as asked is a 422 that names its place in the body, as that of a bad field does."""
    try:
        yield
    except (QueryError, ImageError, HTTPException) as error:
        if isinstance(error, HTTPException) and error.status_code != 404:
            raise  # the service's own trouble, whichever it met
        says = error.detail if isinstance(error, HTTPException) else str(error)
        entry = {"type": "value_error", "loc": ("body", *place), "msg": says}
        raise RequestValidationError([entry]) from error


def _field(location: Sequence[int | str]) -> str:
    parts = [str(part) for part in location if part not in {"body", "query", "path", "header"}]
    return ascii(".".join(parts) or "body")[1:-1][:200]


def _message(entry: Mapping[str, Any]) -> str:
    return str(entry["msg"]).removeprefix("Value error, ")[:300]
