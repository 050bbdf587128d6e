"""(f) How does search hold when pictures are poor?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enclip.pipeline.gallery import extended
from enclip.records import Floats, Split
from enclip.retrieval.searcher import Searcher
from enclip.studies.degrade import Degradation
from enclip.studies.ensemble import BASELINE, RELEASE
from enclip.studies.findings import Fact, Findings
from enclip.studies.material import Material, Values

ENSEMBLE = "greedy ensemble"
SYSTEMS = (BASELINE, ENSEMBLE, RELEASE)
AS_THEY_ARE = "as they are"
Look = tuple[Path, int]  # a checkpoint, and how many views of each picture
WAYS: Mapping[str, Sequence[float]] = {
    "resolution": (32, 16, 12, 8),
    "JPEG": (50, 20, 10, 5),
    "blur": (1, 2, 3, 4),
    "noise": (0.05, 0.1, 0.2, 0.3),
}


def named(system: str, pictures: str) -> str:
    """A system on pictures of one quality."""
    return f"{system}, {pictures}"


def release_over_baseline(pictures: str) -> tuple[str, str]:
    """A headline: the release against one model, both on pictures of one quality."""
    return named(RELEASE, pictures), named(BASELINE, pictures)


LEVELS = {
    way: {
        system: [
            (label, named(system, label))
            for label in (AS_THEY_ARE, *(Degradation(way, level).label for level in levels))
        ]
        for system in SYSTEMS
    }
    for way, levels in WAYS.items()
}


def run(material: Material) -> Findings:
    """Systems trained and chosen on pictures as they are, searching a gallery of spoilt ones."""
    members, _ = material.ensemble
    epochs = (material.baseline, *members)
    is_gate = material.allowed(Split.GATE)
    looks = list(dict.fromkeys((epoch.folder, views) for epoch in epochs for views in (1, material.views(epoch))))
    by_folder = {epoch.folder: epoch for epoch in epochs}
    good = {
        look: material.lab.pictures(by_folder[look[0]], views=look[1])[is_gate].astype(np.float32) for look in looks
    }
    lab = material.lab
    found = {AS_THEY_ARE: _measured(material, good, lab.colours(members[0])[is_gate])}
    for degradation in (Degradation(way, level) for way, levels in WAYS.items() for level in levels):
        spoilt = {
            (folder, views): lab.embed_changed(
                by_folder[folder], Split.GATE, degradation, name=degradation.key, views=views
            )
            for folder, views in looks
        }
        colour_GC = lab.colours_changed(members[0], Split.GATE, degradation)
        found[degradation.label] = _measured(material, spoilt, colour_GC)
    facts: dict[str, Fact] = {
        pictures: {
            f"{system}, of its mAP@10": float(values[system].mean() / max(1e-9, found[AS_THEY_ARE][system].mean()))
            for system in SYSTEMS
        }
        for pictures, values in found.items()
    }
    systems = {named(system, pictures): values[system] for pictures, values in found.items() for system in SYSTEMS}
    return Findings(systems, facts)


def _measured(
    material: Material, image_GDs: Mapping[Look, Floats], colour_GC: NDArray[np.float16]
) -> dict[str, Values]:
    """AP@10 of each system where gate's pictures look to a checkpoint, by so many views, as `image_GDs` says, and
    have such colours.
    """

    def scores(folder: Path, query_QD: Floats) -> Floats:
        return np.asarray(query_QD @ image_GDs[folder, 1].T)

    members, weights = material.ensemble
    asked = {
        epoch.folder: material.world.of(Split.GATE, material.embedded(epoch))[0]
        for epoch in (material.baseline, *members)
    }
    parts = [
        np.float32(weight) * scores(member.folder, asked[member.folder])
        for member, weight in zip(members, weights, strict=True)
    ]
    seen = [image_GDs[member.folder, material.views(member)] for member in members]
    searcher = _with_pictures(material, seen, colour_GC)
    return {
        BASELINE: material.ap(scores(material.baseline.folder, asked[material.baseline.folder])),
        ENSEMBLE: material.ap(np.sum(parts, axis=0)),
        RELEASE: material.searched(searcher, members),
    }


def _with_pictures(material: Material, image_GDs: Sequence[Floats], colour_GC: NDArray[np.float16]) -> Searcher:
    """The release as a refresh would build it over these pictures of gate: all that was chosen stays."""
    release = material.release.searcher
    rows = np.flatnonzero(material.allowed(Split.GATE))
    blocks = [np.array(release.block(member)) for member in range(len(image_GDs))]
    for block, image_GD in zip(blocks, image_GDs, strict=True):
        block[rows] = image_GD
    colour_NC = np.array(release.wording.colours)
    if release.heads is not None:
        colour_NC[rows] = colour_GC
    return extended(release, release.products, blocks, colour_NC=colour_NC)
