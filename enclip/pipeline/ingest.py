"""Take a source into the catalog."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from enclip.catalog.ingest import ingest
from enclip.catalog.read import open_source
from enclip.pipeline.platform import Platform
from enclip.records import IngestReport


def ingest_source(
    platform: Platform,
    source: str,
    *,
    mapping: Mapping[str, str] | None = None,
    mode: Literal["upsert", "full"] = "upsert",
    categories: Sequence[str] = (),
    allow_vanish: bool = False,
    on_progress: Callable[..., None] | None = None,
) -> IngestReport:
    """Take in what is new or changed. Raises CatalogError where the source itself cannot be read."""
    opened = open_source(source, mapping=dict(mapping or {}), s3_endpoint_url=platform.settings.s3_endpoint_url)
    return ingest(
        opened,
        platform.catalog,
        platform.blobs,
        mode=mode,
        categories=tuple(categories),
        allow_vanish=allow_vanish,
        progress=on_progress,
    )
