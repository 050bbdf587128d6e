"""The plain files behind a searcher: products, arrays and settings, and the one error for what is damaged."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from enclip.blobs import write_whole
from enclip.errors import ReleaseError
from enclip.product_table import from_table, to_table
from enclip.records import Floats, Products

PRODUCTS, EMBEDDINGS, MEANS, SETTINGS = "products.parquet", "embeddings.npy", "cluster-means.npy", "searcher.json"


@dataclass(frozen=True, eq=False)
class Parts:
    """What a searcher holds beside the parts that have modules and files of their own."""

    products: Products
    embedding_ND: NDArray[np.float16]
    cluster_mean_CD: Floats
    settings: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write the files into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(to_table(self.products), folder / PRODUCTS)
        np.save(folder / EMBEDDINGS, self.embedding_ND, allow_pickle=False)
        np.save(folder / MEANS, self.cluster_mean_CD, allow_pickle=False)
        write_whole(folder / SETTINGS, json.dumps(self.settings, indent=2).encode())

    @classmethod
    def read(cls, folder: Path, *settings: str, **defaults: Any) -> "Parts":
        """Read the files. The half-precision embeddings stay on disk, shared between processes.

        Args:
            settings: names that must be there.
            defaults: values of names that files of an earlier version lack.

        Raises:
            ReleaseError: a file is missing or damaged, or a setting is not there.
        """
        try:
            found = json.loads((folder / SETTINGS).read_bytes())
            return cls(
                from_table(pq.read_table(folder / PRODUCTS)),
                np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False),
                np.load(folder / MEANS, allow_pickle=False),
                {name: found[name] for name in settings}
                | {name: found.get(name, value) for name, value in defaults.items()},
            )
        except (OSError, ValueError, KeyError, EOFError, pa.ArrowException) as error:
            raise ReleaseError(f"The release at {folder} cannot be opened: {error}.") from error
