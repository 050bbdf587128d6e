"""What a release has made of pictures or names already, and so is not made again."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

Known = Mapping[str, NDArray[np.float16]]  # a picture's hash or a name → its vector


def recalled(keys: Iterable[str], known: Known, *, width: int) -> tuple[NDArray[np.float16], list[int]]:
    """`[n, width]`: the known vectors, zeros for the others; and the rows of those others."""
    found = [known.get(key) for key in keys]
    vectors = np.zeros((len(found), width), np.float16)
    missing = []
    for row, vector in enumerate(found):
        if vector is None:
            missing.append(row)
        else:
            vectors[row] = vector
    return vectors, missing
