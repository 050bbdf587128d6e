"""Batches ready for the device: our decode-once pixel map against open_clip's own CSV loader.

Unit: images a second with no worker process on either side, on the same drawn 60×80 JPEGs, over whole
epochs after the first (the map is made once a snapshot; `open_clip_train` decodes in every epoch).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip_train.data import get_csv_dataset
from report import print_result
from worlds import drawn_training_data, open_clip_table

from enclip.models.bases import load_base
from enclip.models.batches import Batches
from enclip.models.pixels import prepare

PRODUCTS, BATCH, ROUNDS = 1_500, 64, 3


def main() -> None:
    """Print the median ratio over alternating rounds."""
    with tempfile.TemporaryDirectory(prefix="enclip-bench-") as scratch:
        folder, data = drawn_training_data(Path(scratch), num_products=PRODUCTS)
        model = load_base("tiny", seed=0, device=torch.device("cpu"))
        batches = Batches(data, model.tokenize, batch_size=BATCH, seed=0)
        theirs = _theirs(folder, model)
        ours_speeds, their_speeds = [], []
        for epoch in range(1, ROUNDS + 1):
            ours_speeds.append(_speed(_prepared(batches, epoch, model)))
            their_speeds.append(_speed(len(images) for images, _ in theirs.dataloader))
    print_result(
        "batches",
        ours=float(np.median(ours_speeds)),
        peer=float(np.median(their_speeds)),
        peer_name="open_clip_train CSV loader",
        ratio=float(np.median(np.array(ours_speeds) / np.array(their_speeds))),
        better="higher",
        goal=10,
    )


def _theirs(folder, model):
    table = open_clip_table(folder)
    arguments = argparse.Namespace(
        train_data=str(table),
        csv_img_key="filepath",
        csv_caption_key="title",
        csv_separator="\t",
        distributed=False,
        batch_size=BATCH,
        workers=0,
    )
    transform = open_clip.image_transform(model.side, is_train=True)
    return get_csv_dataset(arguments, transform, is_train=True, tokenizer=model.tokenize)


def _prepared(batches, epoch, model):
    for batch in batches.epoch(epoch):
        yield len(prepare(batch.pixels_BHWC, model.architecture.preprocessing))


def _speed(sizes) -> float:
    start = time.perf_counter()
    return sum(sizes) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
