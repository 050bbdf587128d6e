"""The pages for people: `serving/templates`, and what they load out of `serving/page`; nothing is from another host."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

ASSETS = Path(str(files("enclip.serving") / "page"))


@dataclass(frozen=True)
class Page:
    """A page, as its navigation names it."""

    name: str
    template: str
    href: str


COMPARE = Page("Compare", "compare.html", "compare")
PAGES = (
    Page("Search", "search.html", "./"),
    COMPARE,
    Page("Clusters", "clusters.html", "clusters"),
    Page("API", "docs.html", "docs"),
)


def page_routes(*, compares: bool) -> APIRouter:
    """`/`, `/compare`, `/clusters` and `/docs`; where nothing can be compared, no page leads to `/compare`."""
    router = APIRouter(include_in_schema=False)
    environment = Environment(
        loader=PackageLoader("enclip.serving"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    shown = [page for page in PAGES if compares or page is not COMPARE]
    for page in PAGES:
        html = environment.get_template(page.template).render(page=page, pages=shown)
        router.add_api_route(f"/{page.href.removeprefix('./')}", _answering(html))
    return router


def _answering(html: str) -> Callable[[], Awaitable[HTMLResponse]]:
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers={"Cache-Control": "no-cache"})

    return page
