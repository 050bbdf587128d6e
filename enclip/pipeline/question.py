"""What is asked for, in words, by a picture or by a product, and what to turn from → the members' queries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from enclip.errors import QueryError
from enclip.records import Floats
from enclip.retrieval import fusion

MAX_TEXT = 1000
PARTS = ("text", "image", "like")
# How far a query turns from words: the whole way costs what was asked for. Measured in docs/reports/refining.md.
TURN_FROM_KNOWN = 0.15  # where attribute heads push away besides
TURN_FROM_OTHERS = 0.3

Blocks = list[Floats]  # per member `[1, D_k]`


@dataclass(frozen=True, slots=True)
class Question:
    """One search: any of words, a picture, a product of the index; words to turn from; weights of the parts.

    Raises:
        QueryError: nothing is asked for, words are too long, or weights are out of range.
    """

    text: str = ""
    image: bytes | None = None
    like: str | None = None
    without: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for words in (self.text, self.without):
            if len(words) > MAX_TEXT:
                raise QueryError(f"The text has {len(words)} characters; at most {MAX_TEXT} are searched.")
        unknown = set(self.weights) - set(PARTS)
        if unknown or any(not np.isfinite(value) or value < 0 for value in self.weights.values()):
            raise QueryError("Weights are numbers of at least 0 for 'text', 'image' and 'like'.")
        if not self._given:
            raise QueryError(
                "A search needs words, a picture or a product to be like.", remedy="Give text, image or like."
            )
        if not any(self._given.values()):
            raise QueryError("The weights leave nothing to search for.", remedy="Give one of them more than 0.")

    @property
    def _given(self) -> dict[str, float]:
        """Weight by part."""
        parts = {"text": self.text, "image": self.image, "like": self.like}
        return {name: float(self.weights.get(name, 1.0)) for name, part in parts.items() if part}

    @property
    def word_share(self) -> float:
        """How much names and attributes weigh in its score, 0 to 1: the words' share beside a picture.

        Beside a product that weighs no more than they do, all: “like this, but red” asks for red, whatever the
        product looks like.
        """
        words, picture, product = (self._given.get(part, 0.0) for part in PARTS)
        if not words:
            return 0.0
        return words / (words + picture) * (min(1.0, words / product) if product else 1.0)

    def parts(
        self,
        *,
        words: Callable[[Sequence[str]], Blocks],
        picture: Callable[[bytes], Blocks],
        product: Callable[[str], Blocks],
    ) -> dict[str, Blocks]:
        """What is given of "text", "image", "like" and "without", as the members see it.

        Args:
            words, picture, product: the members' embeddings of each.
        """
        found: dict[str, Blocks] = {}
        given = {name: text for name, text in (("text", self.text), ("without", self.without)) if text}
        if given:
            encoded = words(list(given.values()))
            found = {name: [block[row : row + 1] for block in encoded] for row, name in enumerate(given)}
        if self.image:
            found["image"] = picture(self.image)
        if self.like:
            found["like"] = product(self.like)
        return found

    def mixed(self, parts: Mapping[str, Blocks], *, turn: float) -> Blocks:
        """Per member the query `[1, D_k]` of `parts`, of unit norm.

        Args:
            turn: how far it turns from the words to avoid, as a share of what is asked for.
        """
        most = max(self._given.values(), default=0.0) or 1.0  # only their ratio matters
        weights = {name: weight / most for name, weight in self._given.items()}
        if "without" in parts:
            weights["without"] = -turn * sum(weights.values())
        chosen = [parts[name] for name in weights]
        if len(chosen) == 1:
            return chosen[0]
        return [fusion.mix_queries(of_member, list(weights.values())) for of_member in zip(*chosen, strict=True)]
