"""Who may ask and who may write: keys for `/v1`, and where the service may listen without one."""

import hmac
import re
from hashlib import sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

from fastapi import FastAPI
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from enclip.errors import ConfigError
from enclip.serving.problems import described, problem, request_id_of

if TYPE_CHECKING:
    # It imports FAISS, which must not be loaded before `run.limit_threads`.
    from enclip.serving.metrics import ServiceMetrics

MIN_KEY_CHARS = 16

_KEY = re.compile(rf"[!-~]{{{MIN_KEY_CHARS},}}")  # what a header carries unchanged
_PICTURE = re.compile(r"/v1/products/.+/image", re.DOTALL)
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


class ApiKeys:
    """The keys that open `/v1`, or let one change products; only their digests are kept."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    @classmethod
    def parse(cls, setting: SecretStr, variable: str = "ENCLIP_API_KEYS") -> Self:
        """The keys of a setting: separated by commas, several so that one can replace another.

        Raises:
            ConfigError: a key is too short or cannot be sent in a header; names its place, never the key.
        """
        text = setting.get_secret_value().strip()
        keys = tuple(key.strip() for key in text.split(",")) if text else ()
        for place, key in enumerate(keys, 1):
            if not _KEY.fullmatch(key):
                raise ConfigError(
                    f"Key {place} of {len(keys)} in {variable} cannot be used: a key has at least "
                    f"{MIN_KEY_CHARS} characters, all of them ASCII, and no space.",
                    remedy="Make one with `openssl rand -hex 32`.",
                )
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def opened_by(self, key: str) -> bool:
        """Whether this is one of the keys; takes as long for any answer, so that time tells nothing of them."""
        given = _digest(key)
        return sum([hmac.compare_digest(given, digest) for digest in self._digests]) > 0


class Access:
    """ASGI middleware that lets nobody without a key reach `/v1`, nor have a body of theirs read.

    It goes by the path, not by the route, so that a route to come is closed unless `needs_key` says otherwise.

    Args:
        app: what answers.
        keys: what lets one search; none: everyone may.
        write_keys: what lets one change products, and search; none: nobody may change any.
        metrics: where refusals are counted.
    """

    def __init__(self, app: ASGIApp, *, keys: ApiKeys, write_keys: ApiKeys, metrics: "ServiceMetrics") -> None:
        self._app = app
        self._keys = keys
        self._write_keys = write_keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refused = self._refused(scope)
            if refused is not None:
                self._metrics.refuse("key")
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refused(self, scope: Scope) -> ASGIApp | None:
        writes = needs_write_key(scope["method"], scope["path"])
        if not writes and not (self._keys and needs_key(scope["method"], scope["path"])):
            return None
        given = _given_key(Headers(scope=scope))
        may_search, may_write = self._keys.opened_by(given), self._write_keys.opened_by(given)
        if may_write or (may_search and not writes):
            return None
        if not may_search and (self._keys or self._write_keys):
            return self._unknown(scope, given=bool(given))
        return self._may_not_write(scope)

    def _may_not_write(self, scope: Scope) -> ASGIApp:
        says = (
            "This key searches only; to change products takes one of ENCLIP_WRITE_KEYS."
            if self._write_keys
            else "Nobody may change products: the service has no key for it. Set ENCLIP_WRITE_KEYS "
            "(`openssl rand -hex 32` makes one) and start it again."
        )
        return problem(403, says, request_id=request_id_of(Request(scope)))

    def _unknown(self, scope: Scope, *, given: bool) -> ASGIApp:
        says = "This is not a key of the service." if given else "The service asks for a key."
        challenge = 'Bearer realm="enclip"' + (', error="invalid_token"' if given else "")
        return problem(
            401,
            f"{says} Send one as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
            request_id=request_id_of(Request(scope)),
            headers={"WWW-Authenticate": challenge},
        )


def needs_key(method: str, path: str) -> bool:
    """Whether a key guards this: all of `/v1` but products' pictures, since an `<img>` cannot send one."""
    is_picture = method.upper() in {"GET", "HEAD"} and _PICTURE.fullmatch(path)
    return path.startswith("/v1/") and not is_picture


def needs_write_key(method: str, path: str) -> bool:
    """Whether this changes products: a key of its own guards that always, on the loopback too."""
    return path.startswith("/v1/products/") and method.upper() in {"PUT", "DELETE"}


def require_keys_beyond_loopback(address: str, keys: ApiKeys) -> None:
    """Refuse to let other machines search without a key.

    Args:
        address: the IP address that the socket is bound to, not the name it was asked for by.

    Raises:
        ConfigError: the address is not the loopback's, and there is no key.
    """
    if not keys and not ip_address(address).is_loopback:
        raise ConfigError(
            f"Other machines can reach {address}, and no key is set: the service does not listen there.",
            remedy="Set ENCLIP_API_KEYS (`openssl rand -hex 32` makes a key), or listen on --host 127.0.0.1.",
        )


def describe_keys(app: FastAPI, *, to_search: bool) -> None:
    """Have the app's OpenAPI say which operations need a key, and how it is sent.

    Args:
        to_search: whether searching needs one too, and not only changing products.
    """
    without_keys = app.openapi

    def with_keys() -> dict[str, Any]:
        description = without_keys()
        for path, operations in description["paths"].items():
            for method, operation in operations.items():
                writes = needs_write_key(method, path)
                if writes:
                    operation["responses"]["403"] = described("The key searches only, or no key may change products.")
                if writes or (to_search and needs_key(method, path)):
                    description.setdefault("components", {})["securitySchemes"] = _SCHEMES
                    operation["security"] = [{name: []} for name in _SCHEMES]
                    operation["responses"]["401"] = described("No key, or none that the service knows.")
        return description

    app.openapi = with_keys  # type: ignore[method-assign]  # FastAPI's own way to extend its description


def _given_key(headers: Headers) -> str:
    """The key that a request brings; empty where it brings none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()
