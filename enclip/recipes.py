"""What we believe: hyper-parameters, the search for an ensemble, gate thresholds.

Typed and frozen; the resolved recipe is saved beside what it made. Each field's description is the
sentence that `--help`, Airflow's form and the docs show.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Device = Literal["auto", "cuda", "cpu"]
Strictness = Literal["strict", "normal", "lenient"]
Gallery = Literal["image", "name", "hybrid"]

TINY = "tiny"  # the packaged base, which is trained from nothing
MOST_VIEWS = 4


class Recipe(BaseModel):
    """A frozen set of beliefs; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainRecipe(Recipe):
    """One fine-tuning."""

    base: str = Field(
        TINY,
        description="Base weights: tiny (trained from nothing), NAME:TAG of open_clip, hf-hub:…, "
        "local-dir:PATH, or champion.",
    )
    epochs: int = Field(24, ge=1, le=200, description="Passes over the train split, per instance.")
    instances: int = Field(1, ge=1, le=16, description="Independent fine-tunings (seeds) in one run.")
    seed: int = Field(0, ge=0, le=2**31, description="Seed of the first instance; instance i uses seed + i.")
    batch_size: int = Field(
        0,
        ge=0,
        description="Products per contrastive batch and process; 0: a hundredth of the train products, 16 to 128.",
    )
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are summed before one step.")
    learning_rate: float = Field(
        0.0,
        ge=0,
        description="Peak learning rate; 0: 1e-3 from nothing, 3e-4 where that is taken up again, 1e-5 from pretrained "
        "weights, ten times as much with lora_rank.",
    )
    weight_decay: float = Field(0.1, ge=0, description="AdamW weight decay on matrices.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps with a rising learning rate.")
    schedule: Literal["cosine", "cyclic"] = Field("cosine", description="Learning rate after the warm-up.")
    cycles: int = Field(3, ge=1, description="Cosine cycles of the cyclic schedule.")
    loss: Literal["softmax", "sigmoid"] = Field("softmax", description="Contrastive loss; both take shared targets.")
    low_quality: float = Field(
        0.3, ge=0, le=1, description="Share of training pictures that are blurred, shrunk or made noisy."
    )
    pixel_side: int = Field(
        0, ge=0, le=1024, description="Side of the stored square canvas in px; 0: as the model and the pictures need."
    )
    image_side: int = Field(
        0,
        ge=0,
        le=1024,
        description="Side in px of the pictures that the image tower looks at, where it is convolutional: smaller ones "
        "take less time; 0: the base's.",
    )
    patience: int = Field(0, ge=0, description="Epochs without a better mAP@10 on select before stopping; 0: never.")
    focus: tuple[str, ...] = Field((), description="Categories to fine-tune on; none: the whole catalog.")
    replay: float = Field(
        0.3, ge=0, description="Products of other categories per focus product, so that the rest is not forgotten."
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay per step of a moving average of the weights, which an epoch then keeps; 0: the weights "
        "themselves.",
    )
    mix: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of batches whose pictures are mixed in pairs by mixup or CutMix, but for the last 15% of "
        "the epochs.",
    )
    attribute_dropout: float = Field(
        0.0, ge=0, le=1, description="Chance that an attribute is left out of a training caption; one always stays."
    )
    hard_negatives: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of batches whose products look alike, as hard_negatives_by says.",
    )
    hard_negatives_by: Literal["kind", "cluster"] = Field(
        "kind",
        description="What makes products of a batch look alike: kind, all of one articleType (else subCategory), as "
        "far as it fills a batch; cluster, eights of one cluster of pictures, as the last epoch saw them.",
    )
    progressive_resizing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the epochs, the first ones, whose pictures have 0.6 of the side and take less time; "
        "for convolutional image towers.",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Learning rate of each block of a tower over that of the block above it, for pretrained bases; "
        "1: the same for all.",
    )
    lora_rank: int = Field(
        0,
        ge=0,
        le=512,
        description="Rank of the updates (LoRA) that are trained in the place of whole matrices, for pretrained bases; "
        "an epoch then stores these alone; 0: whole matrices.",
    )
    device: Device = Field("auto", description="auto takes CUDA where there is one.")

    @property
    def left_out_of_digests(self) -> frozenset[str]:
        """Fields that no digest of a training has: the device, and techniques of `ADDED_LATER` that are off.

        So trainings from before a technique keep their digest, and those that were cut off go on.
        """
        return frozenset({"device"} | {name for name, off in ADDED_LATER.items() if getattr(self, name) == off})


# What trains as before the field was there. Not the field's default, which a study may change.
ADDED_LATER = {
    "ema": 0.0,
    "mix": 0.0,
    "attribute_dropout": 0.0,
    "hard_negatives": 0.0,
    "hard_negatives_by": "kind",
    "progressive_resizing": 0.0,
    "image_side": 0,
    "layer_decay": 1.0,
    "lora_rank": 0,
}


class ReleaseRecipe(Recipe):
    """How members, clusters and the index are chosen on *select*."""

    min_members: int = Field(
        2, ge=1, le=32, description="Fewest checkpoints of an ensemble; a soup counts as what it averages."
    )
    max_members: int = Field(5, ge=1, le=32, description="Most members of the ensemble.")
    max_text_ms: float = Field(
        0.0,
        ge=0,
        description="Most ms for encoding a query in words, on the machine that chooses; one student counts as one "
        "member. 0: any.",
    )
    max_memory_mb: float = Field(
        0.0, ge=0, description="Most memory of the index and the embeddings behind it, in MB; 0: any."
    )
    exact_up_to: int = Field(
        1_000_000, ge=0, description="Products up to which all are looked at in a search; beyond, part of them."
    )
    max_search_ms: float = Field(
        0.0, ge=0, description="Most ms that looking at all products may take, on the machine that indexes; 0: any."
    )
    min_recall: float = Field(
        0.99, gt=0, le=1, description="Least share of the exact first ten that looking at part of them must find."
    )
    soup_epochs: int = Field(
        3, ge=0, le=32, description="Last epochs of an instance averaged into a soup, as one more candidate; 0: none."
    )
    use_champion: bool = Field(True, description="Offer the champion's members as candidates too.")
    cluster_counts: tuple[int, ...] = Field(
        (), description="Numbers of clusters to try; none: a grid that follows the catalog's size."
    )
    pulls: tuple[float, ...] = Field(
        (0.0, 0.15, 0.3, 0.6), description="Pulls of products toward their cluster's mean score to try; 0: none."
    )
    feedbacks: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.25),
        min_length=1,
        description="How far a broad query turns toward the clusters of its first results, to try; 0: it does not. The "
        "first stands unless select proves another better; the last where neither attributes nor names are searched.",
    )
    gallery: Gallery = Field(
        "image",
        description="What is searched: image (pictures alone, the paper's protocol), name (pictures and product "
        "names, and what these say of attributes), hybrid (both, and BM25 over names).",
    )
    name_shares: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (0.3, 0.5, 0.7, 0.85), min_length=1, description="Shares of the name in a product's embedding to try."
    )
    bm25_weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.15, 0.3, 0.45, 0.6), min_length=1, description="Weights of BM25 in a hybrid's score to try; 0: none."
    )
    narrowings: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 1.0), min_length=1, description="How much less of the pull a narrow query has, to try; 0: as much."
    )
    calibrations: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 1.0), min_length=1, description="Parts of the likely queries' bias to take off the score, to try."
    )
    exemplar_shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.35), min_length=1, description="Parts of known pictures in a query of words to try."
    )
    attribute_weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.5, 1.0),
        min_length=1,
        description="Weights of what pictures say of the attributes that a query names, to try; 0: none.",
    )
    name_attribute_weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.25, 0.5, 1.0),
        min_length=1,
        description="Weights of what names say of the attributes that a query names, to try where names are searched; "
        "0: none.",
    )
    student_epochs: int = Field(
        12,
        ge=0,
        le=200,
        description="Passes over likely queries that teach one text tower to answer for all members; 0: none.",
    )
    student_loss: float = Field(
        0.005, ge=0, le=1, description="Loss of mAP@10 on select for which that tower still takes the members' place."
    )
    views: int = Field(
        0,
        ge=0,
        le=MOST_VIEWS,
        description="Views of a catalog's picture, zoomed and mirrored, whose mean is its embedding; indexing takes "
        f"as many times as long, a search does not. 0: {MOST_VIEWS} where trained from nothing, else 1.",
    )
    rescored: int = Field(100, ge=10, le=10_000, description="Best products scored again at full dimension.")
    shards: int = Field(1, ge=1, le=256, description="Parts in which a member embeds the catalog.")


class GatePolicy(Recipe):
    """Thresholds of the gates, as data. mAP@10 differences are absolute."""

    margin: float = Field(
        0.028, ge=0, description="Loss of mAP@10 against the champion that must be ruled out, by the lower bound."
    )
    category_margin: float = Field(
        0.03, ge=0, description="Loss in one category that is tolerated; evidence of more refuses."
    )
    tolerance: float = Field(
        0.01, ge=0, description="The same for the year's best release and for the ensemble's best member."
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="One-sided error of each test, Holm-adjusted over categories.")
    min_queries: int = Field(20, ge=1, description="Queries below which there can be no evidence of a loss.")
    floor: float = Field(0.2, ge=0, le=1, description="Least mAP@10 of a first release.")
    max_overfit: float = Field(0.35, ge=0, description="Most mAP@10 of a train sample above that of gate.")
    max_search_ratio: float = Field(2.0, gt=0, description="Most search time over one member's.")
    max_memory_ratio: float = Field(8.0, gt=0, description="Most index memory over one member's.")
    min_shadow_queries: int = Field(
        0,
        ge=0,
        description="Live queries that it answered in the champion's shadow, at least; fewer ask. 0: not asked.",
    )
    min_shadow_overlap: float = Field(
        0.0, ge=0, le=1, description="Least mean share of the champion's first 10 that it found there; 0: not asked."
    )
    max_shadow_ratio: float = Field(
        0.0, ge=0, description="Most time there over the champion's for the same queries; 0: not asked."
    )
    bootstrap: int = Field(2000, ge=200, description="Resamples behind each interval.")
    require_approval: bool = Field(False, description="Ask a person before a promotion.")

    @classmethod
    def named(cls, strictness: Strictness, *, require_approval: bool = False, **more: Any) -> "GatePolicy":
        """The policy of a strictness, and what more it asks; its rates of error are in docs/reports/gate-errors.md."""
        margin, category_margin, tolerance = {
            "strict": (0.01, 0.02, 0.005),
            "normal": (0.028, 0.03, 0.01),
            "lenient": (0.05, 0.08, 0.03),
        }[strictness]
        margins = {"margin": margin, "category_margin": category_margin, "tolerance": tolerance}
        return cls(**margins, require_approval=require_approval, **more)


# What the gates ask of a challenger that has answered live queries; for forms and options.
SHADOW_FIELDS = tuple(name for name in GatePolicy.model_fields if "_shadow_" in name)


class Retention(Recipe):
    """What keeps its files when old versions are pruned, beside what an alias names and the year's best."""

    keep_releases: int = Field(10, ge=1, le=10_000, description="Newest releases that keep their files.")
    keep_days: int = Field(
        30,
        ge=8,
        le=3650,
        description="Days for which everything keeps its files; 8 at least: a run may wait 7 for a person.",
    )


class RetrainRecipe(Recipe):
    """Everything a retraining believes."""

    train: TrainRecipe = TrainRecipe()
    release: ReleaseRecipe = ReleaseRecipe()
    gate: GatePolicy = GatePolicy()
