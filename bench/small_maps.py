"""The image tower of `tiny`, forward and backward: ours against the same network with torch's convolutions alone.

Unit: images a second in float32, in turns, same threads and pictures. Ours multiplies matrices where maps have become
small (`models/small_maps.py`). Where the processor trains in bfloat16 both are the same, and this says nothing of it.
"""

import argparse
import time

import numpy as np
import torch
from report import print_result
from torch import nn

from enclip.models.bases import load_base

BATCH, ROUNDS = 64, 12


def main() -> None:
    """Print the median ratio over alternating rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=int, default=64, help="Of the pictures in px; three quarters as wide.")
    parser.add_argument("--threads", type=int, default=1, help="Trainings side by side have one each.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images_BCHW = torch.rand(BATCH, 3, options.height, options.height * 3 // 4).contiguous(
        memory_format=torch.channels_last
    )
    ours, peer = _tower(), _tower()
    for part in peer.modules():
        if isinstance(part, nn.Conv2d):
            part.__class__ = nn.Conv2d
    speeds = np.array([[_speed(tower, images_BCHW) for tower in (ours, peer)] for _ in range(ROUNDS + 1)])[1:]
    print_result(
        "small_maps",
        ours=float(np.median(speeds[:, 0])),
        peer=float(np.median(speeds[:, 1])),
        peer_name=f"torch.nn.Conv2d throughout, {options.height} px, {options.threads} threads",
        ratio=float(np.median(speeds[:, 0] / speeds[:, 1])),
        better="higher",
        goal=1.1,
    )


def _tower() -> nn.Module:
    model = load_base("tiny", seed=0, device=torch.device("cpu"))
    return model.module.visual.train().to(memory_format=torch.channels_last)


def _speed(tower: nn.Module, images_BCHW: torch.Tensor) -> float:
    start = time.perf_counter()
    tower(images_BCHW).square().sum().backward()
    return len(images_BCHW) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
