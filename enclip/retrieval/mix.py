"""What enters a product's score beside the members' cosines, and how much."""

from dataclasses import dataclass, fields

from enclip.errors import ReleaseError


@dataclass(frozen=True, slots=True)
class Mix:
    """Weights of the parts of a score, each 0 to 1; 0 leaves a part out. Chosen on *select*.

    Attributes:
        pull: toward the mean score of the product's cluster, for the broadest query.
        narrowing: how much less of it a narrow query has: all of the difference in breadth (1), or none (0).
        feedback: of the clusters of its first results in a broad query (`Scorer.toward`); a narrow one has less.
        name_share: of the name's embedding in a member's score of words.
        bm25_weight: of BM25 over names in the score of words.
        calibration: of the bank's bias that comes off the score of words.
        exemplar_share: of the bank's exemplars in a query in words.
        attribute_weight: of the heads' log-probability of the attributes that words name, by the picture.
        name_attribute_weight: of the same by the product's name.
    """

    pull: float = 0.0
    narrowing: float = 0.0
    feedback: float = 0.0
    name_share: float = 0.0
    bm25_weight: float = 0.0
    calibration: float = 0.0
    exemplar_share: float = 0.0
    attribute_weight: float = 0.0
    name_attribute_weight: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise ReleaseError(f"A {field.name} of {value} cannot be used.", remedy="Choose 0 to 1.")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The parts, in order."""
        return tuple(field.name for field in fields(cls))


NOTHING = Mix()
WITHOUT_CLUSTERS = {"pull": 0.0, "narrowing": 0.0, "feedback": 0.0}  # for `Searcher.with_mix`
WITHOUT_ATTRIBUTES = {"attribute_weight": 0.0, "name_attribute_weight": 0.0}
WITHOUT_WORDS_OF_NAMES = {"bm25_weight": 0.0, "name_attribute_weight": 0.0}
WITHOUT_NAMES = {"name_share": 0.0, **WITHOUT_WORDS_OF_NAMES}
