"""Named arrays in an npz file, without pickles."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclip.errors import ReleaseError


def read_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """The arrays of these names. Raises ReleaseError where the file is missing, damaged or lacks one."""
    with _opened(path) as file:
        return [file[name] for name in names]


def array_names(path: Path) -> frozenset[str]:
    """What arrays a file holds. Raises ReleaseError where it is missing or damaged."""
    with _opened(path) as file:
        return frozenset(file)


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    try:
        # Opened here: numpy would leave the file open where its content is no zip.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            yield file
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ReleaseError(
            f"Release file {path} cannot be read: {error}.", remedy="Fetch the release again."
        ) from error
