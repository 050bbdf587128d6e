"""What requests about single products read and write."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from enclip.catalog.columns import MAX_CELL
from enclip.serving.schemas import Base64Image, Price

Text = Annotated[str, Field(max_length=MAX_CELL)]


class ProductRequest(BaseModel):
    """A product as the catalog is to have it, whole: what is left out is empty afterwards, but for the picture.

    Fields mean what the columns of a catalog's table mean.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "Acme Men Navy Blue Shirt",
                    "image": "/9j/4AAQSkZJRg…",
                    "gender": "Men",
                    "master_category": "Apparel",
                    "sub_category": "Topwear",
                    "article_type": "Shirts",
                    "base_colour": "Navy Blue",
                    "price": 24.9,
                },
                {"name": "Acme Men Navy Blue Shirt", "article_type": "Shirts", "price": 19.9},
            ]
        },
    )

    name: Text = Field("", description="The name, where there is an article_type; one of the two is needed.")
    image: Base64Image | None = Field(
        None, description="JPEG, PNG or WebP of at most 5 MB, as base64. Left out, the product keeps the one it has."
    )
    gender: Text = ""
    master_category: Text = ""
    sub_category: Text = ""
    article_type: Text = ""
    base_colour: Text = ""
    season: Text = ""
    year: Text = Field("", coerce_numbers_to_str=True)
    usage: Text = ""
    price: Price | None = Field(None, description="In the shop's own currency; left out: it has none.")

    def cells(self) -> dict[str, str]:
        """The fields as a table's cells, the picture aside."""
        texts = {name: getattr(self, name) for name in type(self).model_fields if name not in ("image", "price")}
        # -0.0 is a price like 0, and no cell of a table.
        return {**texts, "price": "" if self.price is None else repr(abs(self.price))}


class ProductState(BaseModel):
    """What the catalog has of a product, and what of it the release that answers shows."""

    product_id: str
    name: str
    gender: str
    master_category: str
    sub_category: str
    article_type: str
    base_colour: str
    season: str
    year: str
    usage: str
    price: float | None
    state: Literal["live", "withdrawn"] = Field(description="withdrawn: no release shows it any more.")
    served: Literal["current", "outdated", "absent"] = Field(
        description="In the release that answers: as it is here, as it was before, or not at all. "
        "What is live and not current is so with the next refresh of the index."
    )
    release: int | None = Field(description="The release that answers; null: none does yet.")
    updated_at: datetime


class ProductChange(ProductState):
    """A product after a change."""

    changed: bool = Field(description="false: the catalog had it so already.")
    refresh: Literal["none", "scheduled", "by hand"] = Field(
        description="none: nothing waits for a refresh of the index. scheduled: Airflow's refresh_index is started "
        "within a minute or two. by hand: the service knows no Airflow; the next refresh_index finds the change, "
        "or `enclip refresh`."
    )
