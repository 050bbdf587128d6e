"""Open a release: index in memory, encoders of its members loaded, one search for words and pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from enclip.catalog.images import decode, fit_square
from enclip.errors import ImageError, QueryError, ReleaseError
from enclip.pipeline.canary import CANARY, Canaries
from enclip.pipeline.platform import Platform
from enclip.pipeline.question import MAX_TEXT, TURN_FROM_KNOWN, TURN_FROM_OTHERS, Question
from enclip.pipeline.texts import KnownTexts
from enclip.recipes import Device
from enclip.records import Encoder, Filters, Floats, Product, Products, Ranking
from enclip.registry import Registry
from enclip.release import Manifest, read_manifest
from enclip.retrieval.atlas import MAP, Atlas
from enclip.retrieval.audit import SUSPECTS, Suspect, load_suspects
from enclip.retrieval.explain import Explanation, explain
from enclip.retrieval.filters import both
from enclip.retrieval.profiles import Profiles
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.spread import DUPLICATES, Spread
from enclip.spans import describe, span

if TYPE_CHECKING:  # torch takes half a gigabyte and seconds; many steps read a release and encode nothing
    from enclip.models.student import TextStudent

STUDENT = "student"
MAX_RESULTS = 1000
KINDS = ("article_type", "sub_category")  # fields that say what a product is
FEW = 2  # texts of one search: its words, and those to turn from


@dataclass(frozen=True, eq=False)
class OpenRelease:
    """An immutable release in memory; safe to search from several threads."""

    version: int
    manifest: Manifest
    searcher: Searcher
    encoders: tuple[Encoder, ...]
    near_duplicates: Spread | None = None  # releases from before there were any lack them
    student: "TextStudent | None" = None  # answers for the members' text towers
    atlas: Atlas | None = None  # as with near_duplicates
    suspects: tuple[Suspect, ...] | None = None
    canaries: Canaries | None = None  # releases from before there were any lack them

    @property
    def products(self) -> Products:
        """The products of its index."""
        return self.searcher.products

    def product(self, product_id: str) -> Product:
        """A product of its index. Raises QueryError for an unknown id."""
        return self.products.row(self._row(product_id))

    def row(self, product_id: str) -> int | None:
        """A product's row in `products`; None for an unknown id."""
        return self.searcher.row(product_id)

    def _row(self, product_id: str) -> int:
        row = self.row(product_id)
        if row is None:
            raise QueryError(f"Product {product_id!r} is not in release {self.version}.")
        return row

    @span("search")
    def search(
        self,
        *,
        text: str | None = None,
        image: bytes | None = None,
        like: str | None = None,
        without: str | None = None,
        weights: Mapping[str, float] | None = None,
        filters: Filters | None = None,
        k: int = 10,
        offset: int = 0,
        withdrawn: frozenset[str] = frozenset(),
        spread: bool = False,
    ) -> Ranking:
        """The k best products for words, a picture, a product of the index, or any of them together.

        Args:
            like: a product_id; the product itself is left out.
            without: words to turn from: what a picture shows of the attributes that they name counts against a product.
            weights: of "text", "image" and "like" where several are given; default: equal.
            offset: the best to pass over. Pages of one release, with the same products withdrawn, neither overlap nor
                leave anything out.
            withdrawn: products that must not appear, whatever the index holds.
            spread: fold near-duplicates under the best of them; a release that stores none folds none.

        Raises:
            QueryError: nothing is asked for, a picture that cannot be read, an unknown product, weights, k or offset
                out of range.
        """
        self._describe_span(k=k, offset=offset)
        question = self._question(text, image, like, without, weights)
        self._check_page(k, offset)
        allowed = self._shown(withdrawn, like)
        blocks = question.mixed(self._parts(question), turn=self._turn(question))
        folding = self.near_duplicates if spread else None

        @span("search index")
        def best(depth: int) -> Ranking:
            describe(k=depth)
            return self.searcher.search(
                blocks,
                k=depth,
                texts=[question.text],
                text_shares=[question.word_share],
                without=[question.without],
                filters=filters,
                allowed=allowed,
            )[0]

        last, first = offset + k, self.searcher.rescored
        if folding:
            return folding.page(best(MAX_RESULTS), self.products, k=last).after(offset)
        if last <= first:
            return best(last).after(offset, k=k)
        # More candidates may bring in one that is better than some before it; what earlier pages held stays.
        before = best(first)
        return before.extended(best(MAX_RESULTS)).after(offset, k=k)

    @span("explain")
    def explain(
        self,
        product_id: str,
        *,
        text: str | None = None,
        image: bytes | None = None,
        like: str | None = None,
        without: str | None = None,
        weights: Mapping[str, float] | None = None,
        withdrawn: frozenset[str] = frozenset(),
    ) -> tuple[Explanation, dict[str, float]]:
        """Why a search gives a product its score; and the ensemble's cosine with each part of what was asked.

        Args:
            text, image, like, without, weights: as `search` has them.
            withdrawn: products that members' ranks do not count, as they do not count the one to be like.

        Raises:
            QueryError: as `search`, or an unknown product.
        """
        self._describe_span()
        question = self._question(text, image, like, without, weights)
        parts = self._parts(question)
        found = explain(
            self.searcher,
            question.mixed(parts, turn=self._turn(question)),
            product_id,
            text=question.text,
            text_share=question.word_share,
            without=question.without,
            allowed=self._shown(withdrawn, like),
        )
        own = self._stored(product_id)
        cosines = {
            name: sum(
                weight * float(asked_1D[0] @ own_1D[0])
                for weight, asked_1D, own_1D in zip(self.searcher.weights, blocks, own, strict=True)
            )
            for name, blocks in parts.items()
        }
        return found, cosines

    @span("similar")
    def similar(
        self, product_id: str, *, k: int = 10, filters: Filters | None = None, withdrawn: frozenset[str] = frozenset()
    ) -> Ranking:
        """The k products most like one of the index, itself left out. Raises QueryError for an unknown id."""
        self._describe_span(k=k)
        self._check_page(k)
        with span("search index"):
            return self.searcher.similar(product_id, k=k, filters=filters, allowed=self.live(withdrawn))

    def counts(
        self, filters: Filters | None = None, *, withdrawn: frozenset[str] = frozenset()
    ) -> dict[str, dict[str, int]]:
        """By "category", "gender" and "colour": value → products that have it and pass the other filters."""
        return self.searcher.counts(filters, self.live(withdrawn))

    def live(self, withdrawn: frozenset[str]) -> NDArray[np.bool_] | None:
        """`[N]`: the products that are not withdrawn; None where that is all."""
        return self.searcher.mask_without(withdrawn) if withdrawn else None

    @cached_property
    def profiles(self) -> Profiles:
        """What its clusters hold; computed on first use."""
        searcher = self.searcher
        return Profiles(self.products, searcher.clusters, searcher.closeness(), self.atlas, self.suspects or ())

    @span("encode texts")
    def encode_texts(self, texts: Sequence[str]) -> list[Floats]:
        """Per member `embedding_QD` of the texts, in one pass where there is a student; single ones are remembered."""
        describe(num_texts=len(texts))
        if not 0 < len(texts) <= FEW:  # many at once are an evaluation's, which would push out what people ask for
            return self._encoding(texts)
        return self._known_texts.embeddings(texts)

    def unknown_texts(
        self, *, text: str | None = None, like: str | None = None, without: str | None = None
    ) -> list[str]:
        """What a search for these would have to encode: none of it where all was asked for lately.

        Raises:
            QueryError: an unknown product.
        """
        words = self._words(text, like), (without or "").strip()
        return self._known_texts.unknown(filter(None, words))

    @span("encode texts")
    def learn_texts(self, texts: Sequence[str]) -> None:
        """Encode the words of several searches in one pass, so that these find them known."""
        describe(num_texts=len(texts))
        self._known_texts.embeddings(texts)

    @span("encode picture")
    def encode_picture(self, image: bytes) -> list[Floats]:
        """Per member `embedding_1D` of a picture. Raises QueryError where it cannot be read."""
        try:
            pixels = decode(image)
        except ImageError as error:
            raise QueryError(f"The picture cannot be read: {error.what}", remedy=error.remedy) from error
        return [
            encoder.encode_images(fit_square(pixels, member.pixel_side)[None])
            for encoder, member in zip(self.encoders, self.manifest.members, strict=True)
        ]

    def _describe_span(self, **numbers: int) -> None:
        describe(release=self.version, num_members=len(self.manifest.members), **numbers)

    def unremembered(self) -> "OpenRelease":
        """The same release, which has encoded no text yet: what it shares with this one takes no memory."""
        return replace(self)

    @cached_property
    def _encoding(self) -> Callable[[Sequence[str]], list[Floats]]:
        # Of the encoders and not of this release: a function that held it would keep it in memory after a swap.
        return self.student.encode_texts if self.student is not None else partial(_by_each, self.encoders)

    @cached_property
    def _known_texts(self) -> KnownTexts:
        return KnownTexts(self._encoding)

    def _shown(self, withdrawn: frozenset[str], like: str | None) -> NDArray[np.bool_] | None:
        """What a search may show. Raises QueryError for a withdrawn product to be like."""
        if like in withdrawn:
            raise QueryError(f"Product {like!r} is withdrawn.", remedy="Choose another one to be like.")
        live = self.live(withdrawn)
        return both(live, self.searcher.mask_without(frozenset({like}), keep=False) if like else None)

    def _question(
        self,
        text: str | None,
        image: bytes | None,
        like: str | None,
        without: str | None,
        weights: Mapping[str, float] | None,
    ) -> Question:
        return Question(self._words(text, like), image, like, (without or "").strip(), weights or {})

    def _words(self, text: str | None, like: str | None) -> str:
        words = (text or "").strip()
        return self._completed(words, self.product(like)) if like and words else words

    def _completed(self, words: str, product: Product) -> str:
        """What is wanted of products like one, with its kind where the words name none: “red” → “red Shirts”.

        A colour alone is like everything of that colour (docs/reports/refining.md).
        """
        heads = self.searcher.heads
        if heads is None or not product.article_type or any(heads.names(words, field) for field in KINDS):
            return words
        completed = f"{words} {product.article_type}"
        return completed if len(completed) <= MAX_TEXT else words

    def _parts(self, question: Question) -> dict[str, list[Floats]]:
        return question.parts(words=self.encode_texts, picture=self.encode_picture, product=self._stored)

    def _turn(self, question: Question) -> float:
        heads = self.searcher.heads
        known = heads is not None and any(heads.turned_from(question.without))
        return TURN_FROM_KNOWN if known else TURN_FROM_OTHERS

    def _stored(self, product_id: str) -> list[Floats]:
        row = self._row(product_id)
        return [
            np.asarray(self.searcher.block(member)[row], np.float32)[None] for member in range(len(self.searcher.dims))
        ]

    @staticmethod
    def _check_page(k: int, offset: int = 0) -> None:
        if not 1 <= k <= MAX_RESULTS:
            raise QueryError(f"k is {k}; it must lie between 1 and {MAX_RESULTS}.")
        if not 0 <= offset <= MAX_RESULTS - k:
            raise QueryError(f"offset is {offset}; with k {k} it must lie between 0 and {MAX_RESULTS - k}.")


def _by_each(encoders: Sequence[Encoder], texts: Sequence[str]) -> list[Floats]:
    return [encoder.encode_texts(texts) for encoder in encoders]


def open_release(
    platform: Platform, release: str | int, *, encoders: bool = True, device: Device = "auto"
) -> OpenRelease:
    """The release of a version or alias, verified against its manifest.

    Raises:
        RegistryError: there is no such release, or a member is gone. ReleaseError: its files are damaged, or do
            not fit each other or its members. WeightsError: a member's are.
    """
    version = platform.registry.resolve(release)
    folder = platform.registry.fetch_release(version)
    return open_release_folder(folder, platform.registry, version=version, encoders=encoders, device=device)


def open_to_serve(platform: Platform, release: str | int, *, device: Device = "auto") -> OpenRelease:
    """A release that still answers its canary queries as it did when it was built.

    Raises:
        RegistryError, ReleaseError, WeightsError: as `open_release`, or its canaries' answers have changed.
    """
    opened = open_release(platform, release, device=device)
    if opened.canaries is not None:
        opened.canaries.check(opened)
    return opened


def verify_release(platform: Platform, version: int) -> None:
    """Open a release as a service would, on the CPU, where memory is left while a GPU trains.

    Raises:
        RegistryError, ReleaseError, WeightsError: as `open_to_serve`.
    """
    open_to_serve(platform, version, device="cpu")


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
    loaded, student = _encoders(folder, registry, manifest, device) if encoders else ((), None)
    atlas = Atlas.load(folder / MAP, num_products=len(searcher.products)) if MAP in manifest.files else None
    suspects = load_suspects(folder / SUSPECTS) if SUSPECTS in manifest.files else None
    canaries = Canaries.load(folder) if CANARY in manifest.files else None
    return OpenRelease(
        version, manifest, searcher, loaded, groups, student, atlas=atlas, suspects=suspects, canaries=canaries
    )


def _encoders(
    folder: Path, registry: Registry, manifest: Manifest, device: Device
) -> "tuple[tuple[Encoder, ...], TextStudent | None]":
    from enclip.models.clip import ClipEncoder
    from enclip.models.device import resolve_device
    from enclip.models.student import TextStudent
    from enclip.pipeline.members import load_member

    members = tuple(ClipEncoder(load_member(registry, member.source, device=device)) for member in manifest.members)
    _check_dims(folder, "checkpoints", tuple(encoder.dim for encoder in members), manifest)
    if not manifest.student.num_texts:
        return members, None
    student = TextStudent.load(folder / STUDENT, device=resolve_device(device))
    _check_dims(folder, "student", student.dims, manifest)
    return members, student


def _check_dims(folder: Path, whose: str, dims: tuple[int, ...], manifest: Manifest) -> None:
    """At once, rather than at the first query."""
    named = tuple(member.dim for member in manifest.members)
    if dims != named:
        raise ReleaseError(
            f"The release at {folder} has members of dimensions {named} by its manifest, but {dims} by its {whose}.",
            remedy="Roll back, or build the release again with `enclip refresh`.",
        )
