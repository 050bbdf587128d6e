"""Products → batches, in an order that depends on seed, epoch and rank alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enclip.errors import TrainingError
from enclip.models.architecture import Tokenizer
from enclip.models.captions import UNKNOWN, Captions, Ints
from enclip.models.distributed import Ranks
from enclip.models.hard_negatives import kinds, of_few_clusters, of_one_kind
from enclip.records import Products

MAX_CACHED_CAPTIONS = 200_000
ALONE = Ranks()


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a fine-tuning sees.

    `pixels` is uint8 `[N, S, S, 3]`, an array or a memory map, aligned with `products`; only `rows`
    are trained on.
    """

    products: Products
    pixels: NDArray[np.uint8]
    rows: Ints


@dataclass(frozen=True, slots=True)
class HostBatch:
    """B products and their 2B captions, on the CPU. Captions 2b and 2b+1 were made for product b."""

    pixels_BHWC: Tensor
    token_CL: Tensor
    key_BT: Tensor
    template_C: Tensor
    key_C: Tensor

    def rows(self, start: int, stop: int) -> "HostBatch":
        """The products from start up to stop, with their captions."""
        products, captions = slice(start, stop), slice(2 * start, 2 * stop)
        return HostBatch(
            pixels_BHWC=self.pixels_BHWC[products],
            token_CL=self.token_CL[captions],
            key_BT=self.key_BT[products],
            template_C=self.template_C[captions],
            key_C=self.key_C[captions],
        )


class Batches:
    """Batches of one process, over all epochs."""

    def __init__(
        self,
        data: TrainingData,
        tokenize: Tokenizer,
        *,
        batch_size: int,
        seed: int,
        ranks: Ranks = ALONE,
        attribute_dropout: float = 0.0,
        hard_negatives: float = 0.0,
        by_clusters: bool = False,
    ) -> None:
        """As `TrainRecipe` has the options; with `by_clusters` an epoch asks for those of its hard negatives.

        Raises:
            TrainingError: fewer than two products per process have a name or attributes, or look-alikes are
                asked for and no product has an articleType or a subCategory.
        """
        if batch_size < 2:
            raise TrainingError(
                f"A batch of {batch_size} has nothing to contrast.", remedy="Use a batch_size of 2 or more."
            )
        self._data = data
        self._captions = Captions(data.products, attribute_dropout=attribute_dropout)
        self._tokenize = _Cached(tokenize)
        self._batch_size = batch_size
        self._seed = seed
        self._ranks = ranks
        rows = np.asarray(data.rows, dtype=np.int64)
        self.rows = rows[self._captions.usable[rows]]
        if len(self.rows) < 2 * ranks.world_size:
            raise TrainingError(
                f"{len(self.rows)} of {len(rows)} products have a name or attributes to learn from; "
                f"{ranks.world_size} process(es) need {2 * ranks.world_size}.",
                remedy="Take in more products.",
            )
        if self._captions.all_alike(self.rows):
            raise TrainingError(
                f"All {len(self.rows)} products have the same captions: there is nothing to tell apart.",
                remedy="Take in names, or attributes that differ.",
            )
        self._hard_negatives = hard_negatives
        if hard_negatives and not by_clusters and (self._kinds[self.rows] == UNKNOWN).all():
            raise TrainingError(
                "No product has an articleType or a subCategory, by which products would look alike.",
                remedy="Use hard_negatives=0, hard_negatives_by=cluster, or take in attributes.",
            )

    @cached_property
    def _kinds(self) -> Ints:
        return kinds(self._data.products)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch, the same in every process."""
        most = self._batch_size * self._ranks.world_size
        # Equal shares rather than a small rest: few products make a poor contrastive batch.
        return min(-(-len(self.rows) // most), len(self.rows) // (2 * self._ranks.world_size))

    def epoch(self, epoch: int, cluster_N: Ints | None = None) -> Iterator[HostBatch]:
        """The batches of an epoch, each made while the one before it is in use.

        Args:
            cluster_N: the products' clusters, where hard negatives are drawn by them; equal in every process.
        """
        common = np.random.default_rng([self._seed, epoch])  # of all processes
        batches = np.array_split(common.permutation(self.rows), self.per_epoch)
        if self._hard_negatives and cluster_N is not None:
            batches = of_few_clusters(batches, cluster_N, self._hard_negatives, common)
        elif self._hard_negatives:
            batches = of_one_kind(batches, self._kinds, self._hard_negatives, common)
        random = np.random.default_rng([self._seed, epoch, self._ranks.rank])
        # Processes hold equally many, as gathering wants: up to world_size - 1 products sit a batch out.
        parts = [
            part[: len(part) // self._ranks.world_size * self._ranks.world_size][
                self._ranks.rank :: self._ranks.world_size
            ]
            for part in batches
        ]
        with ThreadPoolExecutor(max_workers=1) as maker:
            coming = maker.submit(self.make, parts[0], random)
            for part in parts[1:]:
                ready, coming = coming.result(), maker.submit(self.make, part, random)
                yield ready
            yield coming.result()

    def sample(self, size: int) -> HostBatch:
        """A fixed sample of the products that are trained on, for figures that compare over epochs."""
        random = np.random.default_rng(self._seed)
        rows = random.choice(self.rows, size=min(size, len(self.rows)), replace=False)
        return self.make(rows, random)

    def make(self, rows: Ints, random: np.random.Generator) -> HostBatch:
        """One batch of these products, with captions drawn for each."""
        template_B2 = self._captions.draw(rows, random)
        key_BT = self._captions.key_NT[rows]
        texts = [
            self._captions.text(int(row), int(template))
            for row, pair in zip(rows, template_B2, strict=True)
            for template in pair
        ]
        return HostBatch(
            pixels_BHWC=torch.from_numpy(np.ascontiguousarray(self._data.pixels[rows])),
            token_CL=self._tokenize(texts),
            key_BT=torch.from_numpy(key_BT),
            template_C=torch.from_numpy(template_B2.reshape(-1)),
            key_C=torch.from_numpy(np.take_along_axis(key_BT, template_B2, axis=1).reshape(-1)),
        )


class _Cached:
    """Tokens by text: attribute captions come back all the time, and byte-pair encoding is slow."""

    def __init__(self, tokenize: Tokenizer) -> None:
        self._tokenize = tokenize
        self._known: dict[str, Tensor] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        if len(self._known) > MAX_CACHED_CAPTIONS:
            self._known.clear()
        new = sorted({text for text in texts if text not in self._known})
        if new:
            self._known.update(zip(new, self._tokenize(new), strict=True))
        return torch.stack([self._known[text] for text in texts])
