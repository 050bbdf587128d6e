"""A picture's colours: a coarse histogram of what it shows, which attribute heads read beside the members.

An image tower that learnt from a small catalog's captions confuses colours more than anything else, and a histogram
does so otherwise: together they know more than each (docs/decisions/0008).
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from enclip.records import Floats

LEVELS = 3  # of brightness, of blue against yellow, of red against green
NUM_COLOURS = LEVELS**3
REACH = 40  # of Cb and Cr around grey, beyond which a colour is as strong as can be
WHITE, CALM = 240, 6  # from this brightness on, with less than this colour, it is the ground
WIDTH = 0.67  # of the Gauss bell by which the middle counts more, in half sides
SIDE = 32  # px, as many of a picture's as are read
BLOCK = 256  # pictures at once


def colours_of(pixels_NSSC: NDArray[np.uint8]) -> NDArray[np.float16]:
    """`colour_NC`, unit norm: the roots of the shares that each of NUM_COLOURS has of a picture's middle.

    A pixel counts for the levels around it in each channel of YCbCr, by how near they are; white ground does not.
    Roots make Euclidean distances those of Hellinger.

    Args:
        pixels_NSSC: square canvases in RGB.
    """
    colour_NC = np.empty((len(pixels_NSSC), NUM_COLOURS), np.float16)
    for start in range(0, len(pixels_NSSC), BLOCK):
        colour_NC[start : start + BLOCK] = _colours(pixels_NSSC[start : start + BLOCK])
    return colour_NC


def _colours(pixels_BSSC: NDArray[np.uint8]) -> Floats:
    step = max(1, pixels_BSSC.shape[1] // SIDE)
    seen = np.ascontiguousarray(pixels_BSSC[:, step // 2 :: step, step // 2 :: step])
    count, side = seen.shape[:2]
    flat = Image.fromarray(seen.reshape(count * side, side, 3)).convert("YCbCr")
    bright_BP, blue_BP, red_BP = np.moveaxis(np.asarray(flat, np.float32).reshape(count, side * side, 3), 2, 0)
    ground_BP = (bright_BP > WHITE) & (np.abs(blue_BP - 128) < CALM) & (np.abs(red_BP - 128) < CALM)
    bell_S = np.exp(-((np.linspace(-1, 1, side, dtype=np.float32) / WIDTH) ** 2))
    # A picture that is white all over still has a colour: white.
    weight_BP = np.where(ground_BP, np.float32(1e-6), np.outer(bell_S, bell_S).ravel())
    hue_BPLL = (
        _levels(blue_BP, 128 - REACH, 128 + REACH)[..., None] * _levels(red_BP, 128 - REACH, 128 + REACH)[..., None, :]
    )
    bright_BPL = _levels(bright_BP, 0, 255) * weight_BP[..., None]
    found_BC = (bright_BPL.transpose(0, 2, 1) @ hue_BPLL.reshape(count, side * side, -1)).reshape(count, -1)
    return np.asarray(np.sqrt(found_BC / found_BC.sum(axis=1, keepdims=True)), np.float32)


def _levels(value_BP: Floats, low: float, high: float) -> Floats:
    """`[B, P, LEVELS]`: how much of a value each level has, the two around it by nearness; they add up to 1."""
    place_BP1 = (np.clip((value_BP - low) / (high - low), 0, 1) * (LEVELS - 1))[..., None]
    level_L = np.arange(LEVELS, dtype=np.float32)
    return np.asarray(np.maximum(0, 1 - np.abs(place_BP1 - level_L)), np.float32)
