"""Product pictures over HTTP: validators for caches, media type by content."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response

# Browsers ask again after this long; a product's picture may change under the same id.
MAX_AGE_S = 300
TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "application/octet-stream")
# For FastAPI's `responses`.
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture as it came in.", "content": {name: {} for name in TYPES}},
    304: {"description": "The client has it: `If-None-Match` names it."},
}


async def picture_response(request: Request, sha256: str, read: Callable[[str], Awaitable[bytes]]) -> Response:
    """The picture named by its hash, or 304 where the client has it, which reads no store."""
    tag = f'"{sha256[:32]}"'
    headers = {"ETag": tag, "Cache-Control": f"public, max-age={MAX_AGE_S}"}
    known = {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}
    if tag in known:
        return Response(status_code=304, headers=headers)
    image = await read(sha256)
    return Response(image, media_type=media_type(image), headers=headers)


def media_type(image: bytes) -> str:
    """The type that the first bytes tell; anything unknown is no picture for a browser to run."""
    if image.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    if image[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    return "application/octet-stream"
