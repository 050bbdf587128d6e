"""The colours of a catalog's pictures; those that a release knows are not computed again."""

import numpy as np
from numpy.typing import NDArray

from enclip.catalog.snapshot import pictures
from enclip.models.colours import NUM_COLOURS, colours_of
from enclip.pipeline.known import Known, recalled
from enclip.pipeline.open_release import OpenRelease
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import Plan
from enclip.records import Products


def reads_colours(platform: Platform, plan: Plan) -> bool:
    """Whether what a run builds reads colours: a retraining's heads do, those of a refresh if its parent's do."""
    if plan.built_from is None:
        return True
    return platform.registry.release_manifest(plan.built_from).attributes.num_colours > 0


def colour_rows(
    platform: Platform, products: Products, rows: NDArray[np.int64], *, side: int, snapshot: str, known: Known
) -> NDArray[np.float16]:
    """`colour_NC` of these rows' pictures, on canvases of a side in px."""
    colour_NC, missing = recalled(products.image_sha256[rows], known, width=NUM_COLOURS)
    if missing:
        parts = pictures(products, platform.blobs, rows[missing], side=side, scratch=platform.scratch, digest=snapshot)
        colour_NC[missing] = np.concatenate([colours_of(part) for part in parts])
    return colour_NC


def known_colours(release: OpenRelease, *, side: int) -> Known:
    """Picture hash → colours, of a release whose heads read as many, on canvases of this side in px; else nothing."""
    searcher = release.searcher
    colour_NC = searcher.wording.colours.astype(np.float16)
    if colour_NC.shape[1] != NUM_COLOURS or release.manifest.members[0].pixel_side != side:
        return {}
    return dict(zip(searcher.products.image_sha256, colour_NC, strict=True))
