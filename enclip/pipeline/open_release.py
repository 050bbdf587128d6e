"""Open a release: index in memory, encoders of its members loaded, one search for words and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enclip.catalog.images import decode, fit_square
from enclip.errors import ImageError, QueryError, ReleaseError
from enclip.models.clip import ClipEncoder
from enclip.models.device import resolve_device
from enclip.models.student import TextStudent
from enclip.pipeline.members import load_member
from enclip.pipeline.platform import Platform
from enclip.recipes import Device
from enclip.records import Encoder, Filters, Floats, Product, Products, Ranking
from enclip.registry import Registry
from enclip.release import Manifest, read_manifest
from enclip.retrieval import fusion
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.spread import DUPLICATES, Spread

STUDENT = "student"
MAX_TEXT = 1000
MAX_RESULTS = 1000


@dataclass(frozen=True)
class OpenRelease:
    """An immutable release in memory; safe to search from several threads."""

    version: int
    manifest: Manifest
    searcher: Searcher
    encoders: tuple[Encoder, ...]
    near_duplicates: Spread | None = None  # releases from before there were any lack them
    student: TextStudent | None = None  # answers for the members' text towers

    @property
    def products(self) -> Products:
        """The products of its index."""
        return self.searcher.products

    def product(self, product_id: str) -> Product:
        """A product of its index. Raises QueryError for an unknown id."""
        row = int(np.searchsorted(self.products.product_id, product_id))
        if row == len(self.products) or self.products.product_id[row] != product_id:
            raise QueryError(f"Product {product_id!r} is not in release {self.version}.")
        return self.products.row(row)

    def search(
        self,
        *,
        text: str | None = None,
        image: bytes | None = None,
        weights: Mapping[str, float] | None = None,
        filters: Filters | None = None,
        k: int = 10,
        withdrawn: frozenset[str] = frozenset(),
        spread: bool = False,
    ) -> Ranking:
        """The k best products for words, a picture, or both.

        Args:
            weights: of "text" and "image" where both are given; default: equal.
            withdrawn: products that must not appear, whatever the index holds.
            spread: fold near-duplicates under the best of them; a release that stores none folds none.

        Raises:
            QueryError: neither words nor a picture, a picture that cannot be read, weights or k out of range.
        """
        blocks = self._query_blocks(text, image, weights or {})
        self._check_k(k)
        allowed = self.searcher.mask_without(withdrawn) if withdrawn else None
        folding = self.near_duplicates if spread else None
        # What takes the places of those folded is scored already; the page alone is longer.
        depth = max(2 * k, self.searcher.rescored) if folding else k
        share = _word_share(text, image, weights or {})
        ranking = self.searcher.search(
            blocks, k=depth, texts=[text], text_shares=[share], filters=filters, allowed=allowed
        )[0]
        return folding.page(ranking, self.products, k=k) if folding else ranking

    def similar(
        self, product_id: str, *, k: int = 10, filters: Filters | None = None, withdrawn: frozenset[str] = frozenset()
    ) -> Ranking:
        """The k products most like one of the index, itself left out. Raises QueryError for an unknown id."""
        self._check_k(k)
        allowed = self.searcher.mask_without(withdrawn) if withdrawn else None
        return self.searcher.similar(product_id, k=k, filters=filters, allowed=allowed)

    def encode_texts(self, texts: Sequence[str]) -> list[Floats]:
        """Per member `embedding_QD` of the texts, in one pass where there is a student."""
        if self.student is not None:
            return self.student.encode_texts(texts)
        return [encoder.encode_texts(texts) for encoder in self.encoders]

    def _query_blocks(self, text: str | None, image: bytes | None, weights: Mapping[str, float]) -> list[Floats]:
        words = (text or "").strip()
        if not words and not image:
            raise QueryError("A search needs words or a picture.", remedy="Give text, image or both.")
        if len(words) > MAX_TEXT:
            raise QueryError(f"The text has {len(words)} characters; at most {MAX_TEXT} are searched.")
        unknown = set(weights) - {"text", "image"}
        if unknown or any(not np.isfinite(value) or value < 0 for value in weights.values()):
            raise QueryError("Weights are numbers of at least 0 for 'text' and 'image'.")
        share = {"text": float(weights.get("text", 1.0)), "image": float(weights.get("image", 1.0))}
        parts: list[list[Floats]] = []
        if words:
            parts.append(self.encode_texts([words]))
        if image:
            parts.append(self._encode_picture(image))
        given = [share[name] for name, value in (("text", words), ("image", image)) if value]
        blocks = [fusion.mix_queries(of_member, given) for of_member in zip(*parts, strict=True)]
        if not all(block.any() for block in blocks):
            raise QueryError("The weights leave nothing to search for.", remedy="Give one of them more than 0.")
        return blocks

    def _encode_picture(self, image: bytes) -> list[Floats]:
        try:
            pixels = decode(image)
        except ImageError as error:
            raise QueryError(f"The picture cannot be read: {error.what}", remedy=error.remedy) from error
        return [
            encoder.encode_images(fit_square(pixels, member.pixel_side)[None])
            for encoder, member in zip(self.encoders, self.manifest.members, strict=True)
        ]

    @staticmethod
    def _check_k(k: int) -> None:
        if not 1 <= k <= MAX_RESULTS:
            raise QueryError(f"k is {k}; it must lie between 1 and {MAX_RESULTS}.")


def _word_share(text: str | None, image: bytes | None, weights: Mapping[str, float]) -> float:
    """How much of a query its words are, 0 to 1: as much as names may weigh in its score."""
    words = float(weights.get("text", 1.0)) if text else 0.0
    picture = float(weights.get("image", 1.0)) if image else 0.0
    return words / (words + picture)


def open_release(platform: Platform, release: str | int, *, encoders: bool = True) -> OpenRelease:
    """The release of a version or alias, verified against its manifest.

    Raises:
        RegistryError: there is no such release, or a member is gone. ReleaseError: its files are damaged, or do
            not fit each other or its members. WeightsError: a member's are.
    """
    version = platform.registry.resolve(release)
    return open_release_folder(
        platform.registry.fetch_release(version), platform.registry, version=version, encoders=encoders
    )


def verify_release(platform: Platform, version: int) -> None:
    """Open a release as a service would, on the CPU, where memory is left while a GPU trains.

    Raises:
        RegistryError, ReleaseError, WeightsError: as `open_release`.
    """
    folder = platform.registry.fetch_release(version)
    open_release_folder(folder, platform.registry, version=version, device="cpu")


def open_release_folder(
    folder: Path, registry: Registry, *, version: int = 0, encoders: bool = True, device: Device = "auto"
) -> OpenRelease:
    """The release of a folder; its members are fetched from the registry.

    Raises:
        ReleaseError: its files are damaged, or do not fit each other or its members.
    """
    manifest = read_manifest(folder)
    searcher = Searcher.load(folder)
    _check_dims(folder, "stored embeddings", searcher.dims, manifest)
    groups = (
        Spread.load(folder / DUPLICATES, num_products=len(searcher.products)) if DUPLICATES in manifest.files else None
    )
    loaded: tuple[Encoder, ...] = ()
    if encoders:
        loaded = tuple(ClipEncoder(load_member(registry, member.source, device=device)) for member in manifest.members)
        _check_dims(folder, "checkpoints", tuple(encoder.dim for encoder in loaded), manifest)
    student = None
    if encoders and manifest.student.num_texts:
        student = TextStudent.load(folder / STUDENT, device=resolve_device(device))
        _check_dims(folder, "student", student.dims, manifest)
    return OpenRelease(version, manifest, searcher, loaded, groups, student)


def _check_dims(folder: Path, whose: str, dims: tuple[int, ...], manifest: Manifest) -> None:
    """At once, rather than at the first query."""
    named = tuple(member.dim for member in manifest.members)
    if dims != named:
        raise ReleaseError(
            f"The release at {folder} has members of dimensions {named} by its manifest, but {dims} by its {whose}.",
            remedy="Roll back, or build the release again with `enclip refresh`.",
        )
