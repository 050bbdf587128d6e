"""Embedding a catalog with `tiny`: ours from the pixel map against a plain open_clip loop over files.

Unit: images a second, same network and threads, no worker process on either side. The peer opens each
JPEG, applies open_clip's stock transform and encodes batches of the same size in float32; ours includes
making the pixel map, which a snapshot needs once and every further member reads again.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from report import print_result
from worlds import drawn_catalog, drawn_pixels

from enclip.models.bases import load_base
from enclip.models.clip import EMBED_BATCH, embed_pixels

PRODUCTS, ROUNDS = 2_000, 3


def main() -> None:
    """Print the median ratio over alternating rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(parser.parse_args().device)
    model = load_base("tiny", seed=0, device=device)
    ours, peer = [], []
    with tempfile.TemporaryDirectory(prefix="enclip-bench-") as scratch:
        catalog = drawn_catalog(Path(scratch), num_products=PRODUCTS)
        for number in range(ROUNDS):
            seconds, pixels = drawn_pixels(catalog, Path(scratch) / f"map-{number}")
            start = time.perf_counter()
            embed_pixels(model, pixels, device)
            ours.append(PRODUCTS / (seconds + time.perf_counter() - start))
            peer.append(_plain_loop(catalog, model, device))
    print_result(
        "embed",
        ours=float(np.median(ours)),
        peer=float(np.median(peer)),
        peer_name=f"open_clip loop with its stock preprocessing, {device.type}",
        ratio=float(np.median(np.array(ours) / np.array(peer))),
        better="higher",
        goal=10 if device.type == "cuda" else 2,
    )


@torch.inference_mode()
def _plain_loop(catalog, model, device) -> float:
    transform = open_clip.image_transform(model.side, is_train=False)
    with open(catalog.folder / "styles.csv", newline="") as file:
        paths = [catalog.folder / "images" / f"{row['id']}.jpg" for row in csv.DictReader(file)]
    start = time.perf_counter()
    for first in range(0, len(paths), EMBED_BATCH):
        batch = torch.stack([transform(Image.open(path)) for path in paths[first : first + EMBED_BATCH]])
        model.module.encode_image(batch.to(device), normalize=True).cpu()
    return len(paths) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
