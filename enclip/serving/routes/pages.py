"""The pages for people; their parts lie in `serving/page`, and nothing comes from another host."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

PAGE = Path(str(files("enclip.serving") / "page"))


def page_routes() -> APIRouter:
    """`/`, `/compare`, `/clusters` and `/docs`."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @router.get("/compare")
    async def compare() -> FileResponse:
        return FileResponse(PAGE / "compare.html", headers={"Cache-Control": "no-cache"})

    @router.get("/clusters")
    async def clusters() -> FileResponse:
        return FileResponse(PAGE / "clusters.html", headers={"Cache-Control": "no-cache"})

    @router.get("/docs")
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html", headers={"Cache-Control": "no-cache"})

    return router
