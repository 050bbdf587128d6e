"""What serving costs, held against the recipe's budget before qualities are compared (`choose`)."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enclip.errors import ConfigError
from enclip.models.clip import ClipEncoder, ClipModel
from enclip.recipes import ReleaseRecipe
from enclip.retrieval.projection import projected_width

TEXT = "women navy blue casual shoes"
TIMINGS = 15


@dataclass(frozen=True, slots=True)
class Price:
    """One member's share: the width of its embeddings, and ms that its tower takes for a query in words."""

    dim: int
    text_ms: float

    @classmethod
    def of(cls, model: ClipModel, *, text_ms: float | None = None) -> "Price":
        """Timed on this machine, the median of some texts, one at a time; or as it was timed before."""
        if text_ms is not None:
            return cls(model.architecture.dim, text_ms)
        encoder, taken = ClipEncoder(model), []
        encoder.encode_texts([TEXT])
        for _ in range(TIMINGS):
            start = time.perf_counter()
            encoder.encode_texts([TEXT])
            taken.append(1000 * (time.perf_counter() - start))
        return cls(model.architecture.dim, statistics.median(taken))


class Timed:
    """Prices of members by their weights' digest: timed where the recipe bounds the time, and once.

    A second try finds the times of the first: with others it might choose others, and what is made of a run must not
    depend on how often it was tried.

    Attributes:
        text_ms: of those that were asked for; empty where nothing is bounded.
    """

    def __init__(self, recipe: ReleaseRecipe, known: Mapping[str, float]) -> None:
        self._wanted = bool(recipe.max_text_ms)
        self._known = known
        self.text_ms: dict[str, float] = {}

    def price(self, weights_sha256: str, model: ClipModel) -> Price:
        """One member's."""
        if not self._wanted:
            return Price.of(model, text_ms=0.0)
        price = Price.of(model, text_ms=self._known.get(weights_sha256))
        self.text_ms[weights_sha256] = price.text_ms
        return price


@dataclass(frozen=True, slots=True)
class Cost:
    """What a release of some members takes."""

    text_ms: float
    memory_mb: float


class Budget:
    """A recipe's `max_text_ms` and `max_memory_mb`, for a catalog of so many products; 0: any."""

    def __init__(self, recipe: ReleaseRecipe, *, num_products: int) -> None:
        self._recipe = recipe
        self._num_products = num_products

    def cost(self, members: Sequence[Price]) -> Cost:
        """What a release of these members costs. With a student, one tower answers for all."""
        taken = [member.text_ms for member in members]
        dims = [member.dim for member in members] * (1 if self._recipe.gallery == "image" else 2)
        # Half-precision embeddings of pictures and names, and the indexed vector.
        per_product = 2 * sum(dims) + 4 * projected_width(dims)
        return Cost(
            text_ms=round(max(taken) if self._by_student(members) else sum(taken), 2),
            memory_mb=round(self._num_products * per_product / 1e6, 2),
        )

    def allows(self, members: Sequence[Price]) -> bool:
        """Whether a release of these members is within the budget."""
        cost, recipe = self.cost(members), self._recipe
        return (not recipe.max_text_ms or cost.text_ms <= recipe.max_text_ms) and (
            not recipe.max_memory_mb or cost.memory_mb <= recipe.max_memory_mb
        )

    def _by_student(self, members: Sequence[Price]) -> bool:
        return len(members) > 1 and self._recipe.student_epochs > 0

    def needs_student(self, members: Sequence[Price]) -> bool:
        """Whether their own towers together take more time than there is."""
        return 0 < self._recipe.max_text_ms < sum(member.text_ms for member in members)

    def check(self, base: Price) -> None:
        """Before a training: raises ConfigError where not even one member of this base is within the budget."""
        if not self.allows([base]):
            cost = self.cost([base])
            raise ConfigError(
                f"One member of this base takes {cost.text_ms:g} ms for a query in words and {cost.memory_mb:g} MB "
                f"for {self._num_products} products: more than max_text_ms {self._recipe.max_text_ms:g} or "
                f"max_memory_mb {self._recipe.max_memory_mb:g} allow (0: any).",
                remedy="Raise the budget, or take a smaller base.",
            )
