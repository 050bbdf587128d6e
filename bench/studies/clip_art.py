"""Another labelled catalog: the Open Clip Art Library, as Debian's package `openclipart-png` has it.

    apt-get download openclipart-png && dpkg-deb -x openclipart-png_*.deb unpacked
    python bench/studies/clip_art.py unpacked/usr/share/openclipart/png catalog
    enclip ingest catalog

Drawings in place of photographs, kinds such as *mammals*, *fruit* and *road signs* in place of garments, no colour and
no gender: what holds here does not hold because of fashion. The pictures are in the public domain.
"""

import shutil
import sys
from pathlib import Path

import numpy as np

LEAST, MOST = 20, 150  # pictures of a kind: fewer make no queries, and 1,853 icons would be a quarter of the catalog
LEFT_OUT = {"unsorted", "special"}  # kinds of files, not of things


def main(source: Path, target: Path) -> None:
    """Copy `CATEGORY/KIND/**/picture.png` to `KIND/picture.png`."""
    total = 0
    for kind in sorted(path for path in source.glob("*/*") if path.is_dir() and path.parent.name not in LEFT_OUT):
        pictures = sorted(kind.rglob("*.png"))
        if len(pictures) < LEAST:
            continue
        chosen = np.random.default_rng(0).permutation(len(pictures))[:MOST]
        folder = target / kind.name
        folder.mkdir(parents=True, exist_ok=True)
        for row in sorted(chosen):
            shutil.copy(pictures[row], folder / "_".join(pictures[row].relative_to(kind).parts))
        total += len(chosen)
    print(f"{total} pictures of {sum(1 for _ in target.iterdir())} kinds in {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
