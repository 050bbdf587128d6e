"""What requests of many at once read and write: batches of searches, and embeddings."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from enclip.serving.schemas import MAX_TEXT, Base64Image, SearchAnswer, SearchRequest

MAX_SEARCHES = 32
MAX_INPUTS = 64


class BatchRequest(BaseModel):
    """Searches to be answered by one release."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "searches": [
                        {"text": "navy blue shirt", "k": 5},
                        {"text": "white t-shirt", "filters": {"gender": ["Men"]}, "k": 5, "spread": True},
                    ]
                }
            ]
        },
    )

    searches: list[SearchRequest] = Field(
        min_length=1,
        max_length=MAX_SEARCHES,
        description="Each as for /v1/search. One that cannot be answered refuses all, and is named.",
    )


class BatchAnswer(BaseModel):
    """An answer for each search, in their order, all from one release and set of withdrawn products."""

    release: int
    took_ms: float
    answers: list[SearchAnswer]


class EmbedInput(BaseModel):
    """A text or a picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | None = Field(None, max_length=MAX_TEXT)
    image: Base64Image | None = Field(None, description="JPEG, PNG or WebP of at most 5 MB, as base64.")

    @field_validator("text")
    @classmethod
    def _read_as_a_search_reads_it(cls, text: str | None) -> str | None:
        try:
            return text if text is None else SearchRequest(text=text).text
        except ValidationError:
            raise ValueError("the text is empty; give words") from None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("give either text or an image; each has an embedding of its own")
        return self


class EmbedRequest(BaseModel):
    """Texts and pictures in any order."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"inputs": [{"text": "navy blue shirt"}, {"text": "red watch"}]}]},
    )

    inputs: list[EmbedInput] = Field(
        min_length=1,
        max_length=MAX_INPUTS,
        description="A text or a picture each, all of them at most 7 MB. One that cannot be read refuses all.",
    )


class EmbedAnswer(BaseModel):
    """An embedding for each input, in their order, all from one release.

    An embedding is that of every member of the ensemble, one block after the other, each of length 1.
    The score of two inputs is the weighted sum of their blocks' cosines: with `a[k]` and `b[k]` the
    blocks of `dims[k]` numbers, `sum(weights[k] * dot(a[k], b[k]))`. Embeddings of two releases do not compare.

    It is what a search by picture ranks products by, before clusters. To words a release may add more:
    its bank of likely queries, attribute heads and products' names; use /v1/search for those.
    """

    release: int
    took_ms: float
    dims: list[int] = Field(description="How many numbers each member's block has.")
    weights: list[float] = Field(description="Each member's share of the score; their sum is 1.")
    embeddings: list[Annotated[list[float], Field(description="float32; as many numbers as the sum of `dims`.")]]
