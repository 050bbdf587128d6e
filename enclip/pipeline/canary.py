"""Canary queries: a few that a release was asked when it was built, with its answers; asked again before it serves.

Hashes show that files are whole. They do not show that members, tokenizers, projection, heads and index still belong
together: that shows in the answers alone.
"""

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enclip.blobs import write_whole
from enclip.catalog.images import decode, fit_square
from enclip.errors import EnclipError, ReleaseError
from enclip.evaluation.queries import build_queries
from enclip.pipeline.question import MAX_TEXT
from enclip.records import Products, QueryKind, Ranking

CANARY = "canary.json"
NUM_TEXTS, NUM_PICTURES, NUM_LIKES = 16, 4, 4
DEPTH = 10
# Other hardware and library versions move scores in their last digits, which swaps neighbours where answers end: each
# query may lose one of ten. On the public catalog noise of bfloat16's size on every query keeps 0.99, noise ten times
# that 0.98; another member in the place of one of two leaves 0.7 or less of the answers to pictures.
LEAST_OVERLAP = 0.9
JPEG_QUALITY = 90
REMEDY = "Restore its files and its members', name another (`enclip rollback --to N`), or build it again."

Kind = Literal["words", "pictures", "products"]


class Answering(Protocol):
    """What a canary is asked of."""

    @property
    def products(self) -> Products: ...

    def search(self, *, text: str | None, image: bytes | None, like: str | None, k: int) -> Ranking: ...


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class Expected(_Frozen):
    """A product of an answer. Its score is for people: other hardware makes other last digits."""

    product_id: str
    score: float


class Canary(_Frozen):
    """One query, by words, a picture or a product; and the first of its answer, the best first."""

    text: str | None = None
    image: bytes | None = Field(None, description="A JPEG, small: none of the members sees more of it.")
    like: str | None = None
    expected: tuple[Expected, ...] = ()

    @property
    def kind(self) -> Kind:
        """By what it asks."""
        return "words" if self.text else "products" if self.like else "pictures"

    @property
    def named(self) -> str:
        """The query, for people."""
        return (
            f"“{textwrap.shorten(self.text, 60)}”" if self.text else f"like {self.like}" if self.like else "a picture"
        )

    def ask(self, release: Answering, *, k: int) -> Ranking:
        """What the release says to it, with nothing withdrawn. Raises ReleaseError where it does not answer."""
        try:
            return release.search(text=self.text, image=self.image, like=self.like, k=k)
        except EnclipError as error:
            raise ReleaseError(f"The canary query {self.named} is not answered: {error.what}", remedy=REMEDY) from error

    def overlap(self, found: Ranking) -> float:
        """The share of what was expected that was found, 0 to 1."""
        expected = {hit.product_id for hit in self.expected}
        return len(expected & set(found.product_ids)) / len(expected)


class Canaries(_Frozen):
    """A release's canary queries, with the answers it gave when it was built."""

    format: Literal[1] = 1
    queries: tuple[Canary, ...]

    @classmethod
    def of(cls, release: Answering, picture: Callable[[str], bytes], *, pixel_side: int, seed: int = 0) -> "Canaries":
        """Queries about the release's own products, and its answers; equal for equal releases.

        Args:
            picture: bytes by `image_sha256`.
            pixel_side: in px, of what its members look at; kept pictures are no larger.
        """
        # Of a small catalog less: where an answer holds most of the products, any other answer does too.
        k = min(DEPTH, max(1, len(release.products) // 4))
        queries = []
        for canary in _asked(release.products, picture, pixel_side, np.random.default_rng(seed)):
            hits = canary.ask(release, k=k).hits
            if not hits:  # nothing is like the only product
                continue
            expected = tuple(Expected(product_id=hit.product_id, score=round(float(hit.score), 4)) for hit in hits)
            queries.append(canary.model_copy(update={"expected": expected}))
        return cls(queries=tuple(queries))

    def save(self, folder: Path) -> None:
        """Write `canary.json` into a release's folder."""
        write_whole(folder / CANARY, self.model_dump_json(indent=1, exclude_defaults=True).encode())

    @classmethod
    def load(cls, folder: Path) -> "Canaries":
        """Those of a release's folder. Raises ReleaseError."""
        try:
            return cls.model_validate_json((folder / CANARY).read_bytes())
        except (OSError, ValidationError) as error:
            raise ReleaseError(f"{folder / CANARY} cannot be read: {error}.", remedy=REMEDY) from error

    def check(self, release: Answering) -> None:
        """Ask all of them again.

        Raises:
            ReleaseError: of one kind of query the mean overlap with the recorded answers is below `LEAST_OVERLAP`;
                names the worst query, what was expected and what was found.
        """
        by_kind: dict[Kind, list[tuple[float, Canary, Ranking]]] = {}
        for canary in self.queries:
            found = canary.ask(release, k=len(canary.expected))
            by_kind.setdefault(canary.kind, []).append((canary.overlap(found), canary, found))
        for kind, answers in by_kind.items():  # one by one: few pictures must not hide behind many words
            mean = float(np.mean([overlap for overlap, _, _ in answers]))
            if not mean >= LEAST_OVERLAP:
                _, worst, found = min(answers, key=lambda answer: answer[0])
                expected = [hit.product_id for hit in worst.expected]
                raise ReleaseError(
                    f"Its canary queries by {kind} find {mean:.0%} of what they found when it was built; "
                    f"{LEAST_OVERLAP:.0%} are asked. {worst.named[:1].upper() + worst.named[1:]} was to find "
                    f"{_first(expected)} and found {_first(found.product_ids)}.",
                    remedy=REMEDY,
                )


def _asked(
    products: Products, picture: Callable[[str], bytes], pixel_side: int, chance: np.random.Generator
) -> Iterator[Canary]:
    """Half of the texts attributes, half names, as far as there are; pictures and products."""
    queries = build_queries(products)
    captions = [query.text for query in queries if query.kind is not QueryKind.NAME]
    names = [query.text for query in queries if query.kind is QueryKind.NAME]
    half = NUM_TEXTS // 2
    num_names = min(len(names), max(half, NUM_TEXTS - len(captions)))
    chosen = _some(captions, NUM_TEXTS - num_names, chance) + _some(names, num_names, chance)
    for text in chosen:
        yield Canary(text=text[:MAX_TEXT])
    for sha256 in _some(list(products.image_sha256), NUM_PICTURES, chance):
        yield Canary(image=_small(picture(str(sha256)), pixel_side))
    for product_id in _some(list(products.product_id), NUM_LIKES, chance):
        yield Canary(like=str(product_id))


def _some(values: Sequence[str], count: int, chance: np.random.Generator) -> list[str]:
    rows = chance.choice(len(values), size=min(count, len(values)), replace=False) if values else ()
    return [values[row] for row in sorted(rows)]


def _small(picture: bytes, side: int) -> bytes:
    """As a JPEG on a canvas of that side."""
    buffer = io.BytesIO()
    Image.fromarray(fit_square(decode(picture), side)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _first(product_ids: Sequence[str]) -> str:
    return ", ".join(product_ids[:3]) + ("…" if len(product_ids) > 3 else "") if product_ids else "nothing"
