"""Two releases beside each other, as it is asked and told; and what people say of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from enclip.records import MAX_JUDGE, overlap
from enclip.serving.schemas import MAX_PRODUCT_ID, MAX_TEXT, SearchHit, SearchRequest

Change = Literal["same", "up", "down", "entered", "left"]
Verdict = Literal["better", "same", "worse", "good", "bad", "none"]


def _as_name(value: Any) -> Any:
    """A version may be sent as the number that it is."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ReleaseName = Annotated[
    str,
    BeforeValidator(_as_name),
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="A version of `enclip`, or an alias: champion, challenger, previous.",
    ),
]


class ReleaseChoice(BaseModel):
    """A release that can be compared."""

    version: int
    aliases: list[str]
    created_at: datetime
    kind: str = Field(description="retrain, or refresh: the same ensemble over a newer catalog.")
    map_at_10: float | None = Field(description="Over the headline's queries, where it was measured.")


class ReleasesAnswer(BaseModel):
    """Releases that can be compared, newest first; `served` answers searches."""

    served: int
    releases: list[ReleaseChoice]


class CompareRequest(SearchRequest):
    """One search, asked of two releases."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "navy blue shirt", "k": 10},
                {"text": "navy blue shirt", "left": "champion", "right": "previous", "k": 10},
                {"text": "white t-shirt", "left": 3, "right": 4, "filters": {"gender": ["Men"]}},
            ]
        }
    )

    left: ReleaseName = "champion"
    right: ReleaseName = "challenger"


class ComparedHit(SearchHit):
    """A result, where the other release has it, and what becomes of it from left to right."""

    rank: int = Field(description="1 is the best, over all pages.")
    other_rank: int | None = Field(description="On the other side; null: not among its results asked for.")
    change: Change = Field(description="From left to right: the same on both sides.")


class ComparedSide(BaseModel):
    """What one of the releases answers."""

    release: int
    took_ms: float
    results: list[ComparedHit]


class CompareAnswer(BaseModel):
    """Two rankings of one search."""

    left: ComparedSide
    right: ComparedSide
    num_shared: int = Field(description="Products that both sides have.")
    overlap: float = Field(description="Shared products as a share of the longer side; 1 where both are empty.")

    @classmethod
    def of(cls, left: ComparedSide, right: ComparedSide) -> Self:
        """The answer, counted from its sides."""
        lefts, rights = ([hit.product_id for hit in side.results] for side in (left, right))
        num_shared = len(set(lefts) & set(rights))
        return cls(left=left, right=right, num_shared=num_shared, overlap=round(overlap(lefts, rights), 4))


def compared(
    left: Sequence[SearchHit], right: Sequence[SearchHit], *, offset: int = 0
) -> tuple[list[ComparedHit], list[ComparedHit]]:
    """Both sides' hits, each with its rank on the other side; `offset` results were passed over on both."""
    left_rank = {hit.product_id: rank for rank, hit in enumerate(left, offset + 1)}
    right_rank = {hit.product_id: rank for rank, hit in enumerate(right, offset + 1)}

    def side(hits: Sequence[SearchHit], own: dict[str, int], other: dict[str, int]) -> list[ComparedHit]:
        return [
            ComparedHit(
                **hit.model_dump(),
                rank=own[hit.product_id],
                other_rank=other.get(hit.product_id),
                change=_change(left_rank.get(hit.product_id), right_rank.get(hit.product_id)),
            )
            for hit in hits
        ]

    return side(left, left_rank, right_rank), side(right, right_rank, left_rank)


class JudgementRequest(BaseModel):
    """A judgement of one query: of two releases' answers, or of one product that a release found."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {"text": "navy blue shirt", "left": 3, "right": 4, "verdict": "worse"},
                {"text": "navy blue shirt", "release": 3, "product_id": "15970", "verdict": "good", "by": "ann"},
            ]
        },
    )

    text: str | None = Field(None, max_length=MAX_TEXT, description="The query in words; this or `like`.")
    like: str | None = Field(
        None, min_length=1, max_length=MAX_PRODUCT_ID, description="The product that others were to be like."
    )
    left: ReleaseName | None = None
    right: ReleaseName | None = None
    release: ReleaseName | None = None
    product_id: str | None = Field(None, min_length=1, max_length=MAX_PRODUCT_ID, description="A product it found.")
    verdict: Verdict = Field(
        description="better, same or worse: the left answer than the right one; good or bad: the product; "
        "none takes back what was said."
    )
    by: str = Field("", max_length=MAX_JUDGE, description="Who says so; a judge's last word on a matter counts.")

    @field_validator("text", "by")
    @classmethod
    def _printable(cls, text: str | None) -> str | None:
        return None if text is None else cleaned(text)

    @field_validator("like", "product_id")
    @classmethod
    def _an_id(cls, product_id: str | None) -> str | None:
        if product_id is not None and not product_id.isprintable():
            raise ValueError("this is not the id of a product")
        return product_id

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if bool(self.text) == bool(self.like):
            raise ValueError("give either text or like: what was searched for")
        result, pair = (self.release, self.product_id), (self.left, self.right)
        wanted, other = (result, pair) if self.is_of_result else (pair, result)
        if None in wanted or other != (None, None):
            names = "release and product_id" if self.is_of_result else "left and right"
            raise ValueError(f"a verdict of {self.verdict} needs {names}, and nothing else to be judged")
        return self

    @property
    def is_of_result(self) -> bool:
        """Whether a product is judged; else two answers are."""
        return self.product_id is not None if self.verdict == "none" else self.verdict in ("good", "bad")


class JudgementAnswer(BaseModel):
    """What was stored, with the releases by their versions."""

    text: str
    like: str
    left: int | None = None
    right: int | None = None
    release: int | None = None
    product_id: str | None = None
    verdict: Verdict
    by: str


class SaidAnswer(BaseModel):
    """What one judge said of one query; of pairs, `left` is the older release."""

    judgements: list[JudgementAnswer]


class StandingAnswer(BaseModel):
    """How a release stands against an older one, in judgements."""

    release: int
    against: int
    wins: int
    ties: int
    losses: int


class JudgementsAnswer(BaseModel):
    """What was judged so far; `says` it in a sentence, also where there is nothing yet."""

    num_queries: int = Field(description="Queries in words that have a judged result.")
    num_good: int = Field(description="Their results that more judges found good than bad.")
    num_bad: int = Field(description="Their other judged results.")
    num_like: int = Field(description="Judged results of products to be like; they make no qrels.")
    standings: list[StandingAnswer] = Field(description="Pairs of releases, the newest first.")
    says: str


def cleaned(text: str) -> str:
    """Without control characters and surplus space, as a query is known by."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _change(left: int | None, right: int | None) -> Change:
    if left is None:
        return "entered"
    if right is None:
        return "left"
    return "same" if left == right else "up" if right < left else "down"
