"""Fine-tuning `tiny`: our loop against `open_clip_train`'s, same network, pictures, batch and threads.

Unit: images a second over whole epochs after the first, loading included, one loading worker on either
side. Ours draws two captions a product, augments on the device, and computes in bfloat16 where the
processor has units for it; `open_clip_train` has one caption, its stock transform, and float32, which
is quicker on two cores than its default (`--peer-precision amp` shows it).
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip_train.data import get_csv_dataset
from open_clip_train.params import parse_args
from open_clip_train.scheduler import cosine_lr
from open_clip_train.train import train_one_epoch
from report import print_result
from worlds import drawn_training_data, open_clip_table

from enclip.models.bases import load_base
from enclip.models.training import fit
from enclip.recipes import TrainRecipe

PRODUCTS, BATCH, ROUNDS = 640, 64, 5


def main() -> None:
    """Print the median ratio over alternating epochs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peer-precision", default="fp32", choices=("fp32", "amp"))
    options = parser.parse_args()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory(prefix="enclip-bench-") as scratch:
        catalog, data = drawn_training_data(Path(scratch), num_products=PRODUCTS)
        ours = _ours(data, device, Path(scratch))
        theirs = _theirs(catalog, device, options.peer_precision)
        next(ours)  # the base, before any training
        our_speeds, their_speeds = [], []
        for epoch in range(ROUNDS + 1):
            our_speeds.append(next(ours).metrics["images_per_s"])
            start = time.perf_counter()
            theirs(epoch)
            their_speeds.append(PRODUCTS / (time.perf_counter() - start))
            print(f"epoch {epoch}: ours {our_speeds[-1]:.0f}, peer {their_speeds[-1]:.0f}", file=sys.stderr)
    print_result(
        "train",
        ours=float(np.median(our_speeds[1:])),
        peer=float(np.median(their_speeds[1:])),
        peer_name=f"open_clip_train, {options.peer_precision}, {device.type}",
        ratio=float(np.median(np.array(our_speeds[1:]) / np.array(their_speeds[1:]))),
        better="higher",
        goal=1.3,
    )


def _ours(data, device, scratch):
    recipe = TrainRecipe(epochs=ROUNDS + 1, batch_size=BATCH, device=device.type)
    model = load_base("tiny", seed=0, device=device)
    return fit(model, data, recipe, instance=0, device=device, state_dir=scratch / "state", validate=lambda _: {})


def _theirs(catalog, device, precision):
    model = load_base("tiny", seed=0, device=torch.device("cpu"))
    table = open_clip_table(catalog)
    arguments = parse_args(
        [f"--train-data={table}", f"--batch-size={BATCH}", f"--precision={precision}", "--workers=1", "--lr=1e-3"]
    )
    arguments.device, arguments.distributed, arguments.rank, arguments.world_size = str(device), False, 0, 1
    arguments.distill, arguments.save_logs, arguments.wandb = False, False, False
    transform = open_clip.image_transform(model.side, is_train=True)
    loader = get_csv_dataset(arguments, transform, is_train=True, tokenizer=model.tokenize)
    clip = model.module.to(device, memory_format=torch.contiguous_format)
    clip.output_dict = True
    optimizer = torch.optim.AdamW(clip.parameters(), lr=arguments.lr, betas=(0.9, 0.98), eps=1e-6)
    schedule = cosine_lr(optimizer, arguments.lr, 10, 10_000)
    loss = open_clip.create_loss(arguments)

    def train_epoch(epoch):
        train_one_epoch(clip, {"train": loader}, loss, epoch, optimizer, None, schedule, None, arguments)

    return train_epoch


if __name__ == "__main__":
    main()
