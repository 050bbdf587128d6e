"""What the service says of a release's clusters, and of the map they lie on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, Field

from enclip.serving.schemas import ProductCard

if TYPE_CHECKING:  # the client reads these answers without FAISS
    from enclip.retrieval.audit import Suspect
    from enclip.retrieval.profiles import Counts, Profile

MAX_CLUSTERS = 500
DEFAULT_CLUSTERS = 100
MAX_POINTS = 20_000
MAX_ROW = 10_000_000  # of a product in its cluster, or of a cluster


class LabelCount(BaseModel):
    """A value of a label, and how many of the cluster's products have it."""

    value: str
    num_products: int


class ClusterCard(BaseModel):
    """A cluster, as far as its products are not withdrawn."""

    cluster: int
    name: str = Field(description="What most of it is, by its labels.")
    num_products: int
    category: str = Field(description="The commonest; empty where no product has one.")
    purity: float | None = Field(description="Share of the commonest category; null where no product has one.")
    types: list[LabelCount]
    colours: list[LabelCount]
    tightness: float = Field(description="Mean cosine of its products with its centre.")
    num_suspects: int | None = Field(
        description="Products with a label that their neighbours contradict; null: see `has_suspects`."
    )
    centre: tuple[float, float] | None = Field(description="Where its middle lies on the map; null: see `has_map`.")
    pictures: list[ProductCard] = Field(description="Products nearest to its centre.")

    @classmethod
    def of(cls, profile: "Profile", pictures: Sequence[ProductCard], *, has_suspects: bool) -> Self:
        """The card of a profile."""
        return cls(
            cluster=profile.cluster,
            name=profile.name,
            num_products=profile.num_products,
            category=profile.category,
            purity=profile.purity,
            types=_counts(profile.types),
            colours=_counts(profile.colours),
            tightness=round(profile.tightness, 4),
            num_suspects=profile.num_suspects if has_suspects else None,
            centre=profile.centre,
            pictures=list(pictures),
        )


class ClustersAnswer(BaseModel):
    """A page of the clusters that hold products, the largest first, all from one release."""

    release: int
    num_products: int
    num_clusters: int
    has_map: bool = Field(description="False for a release from before maps were stored; `enclip refresh` adds one.")
    has_suspects: bool = Field(description="Likewise, of labels to look at.")
    clusters: list[ClusterCard]


class SuspectLabel(BaseModel):
    """A label that the product's neighbours contradict."""

    attribute: str
    given: str
    proposed: str = Field(description="What the neighbours say.")
    confidence: float = Field(description="0.5 to 1; it ranks, and is no probability.")
    support: float = Field(description="The proposed label's share of the neighbours' vote.")
    given_support: float
    evidence: list[str] = Field(description="Ids of the nearest products with the proposed label.")

    @classmethod
    def of(cls, suspect: "Suspect", evidence: list[str]) -> Self:
        """From the audit's finding, with what of its evidence may be shown."""
        return cls(
            attribute=suspect.attribute,
            given=suspect.given,
            proposed=suspect.proposed,
            confidence=suspect.confidence,
            support=suspect.support,
            given_support=suspect.given_support,
            evidence=evidence,
        )


class ClusterProduct(ProductCard):
    """A product of a cluster. `closeness` is its cosine with the centre."""

    closeness: float
    suspects: list[SuspectLabel]


class ClusterAnswer(BaseModel):
    """A page of a cluster's products, nearest to its centre first; or of its suspects, the surest first."""

    release: int
    cluster: ClusterCard
    total: int = Field(description="Products on all pages.")
    products: list[ClusterProduct]


class MapAnswer(BaseModel):
    """Products on the map, in columns of equal length; `category` counts in `categories`, -1: it has none."""

    release: int
    num_products: int = Field(description="Of the release; more than the columns hold where they are a sample.")
    categories: list[str] = Field(description="Of these products, the commonest first.")
    product_id: list[str]
    name: list[str]
    x: list[float]
    y: list[float]
    cluster: list[int]
    category: list[int]
    suspect: list[int] = Field(description="Places in the columns of products with a label to look at.")


def _counts(counts: "Counts") -> list[LabelCount]:
    return [LabelCount(value=value, num_products=count) for value, count in counts]
