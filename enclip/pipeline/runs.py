"""The records of a run: written by one step, read by the next, each whole or not at all."""

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from enclip.blobs import Blobs
from enclip.errors import ConfigError
from enclip.recipes import RetrainRecipe
from enclip.records import EpochVersion, QueryKind
from enclip.release import Candidate, GallerySettings, Member

RecordType = TypeVar("RecordType", bound="Record")
LAST = "runs/last"
COMMANDS = {"plan": "snapshot", "release": "cluster", "evaluation": "evaluate"}  # where a step and its record differ
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,120}")


class Record(BaseModel):
    """A frozen record of one step."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Origin(Record):
    """Who started a run, and from which code."""

    dag_id: str = ""
    dag_run_id: str = ""
    git_commit: str = ""
    lock_sha256: str = ""


class Plan(Record):
    """What a run is about to do; decided once, by its first step."""

    run_id: str
    kind: Literal["retrain", "refresh"]
    snapshot: str
    num_products: int
    recipe: RetrainRecipe
    base_source: str = Field("", description="models:/m-… where the base is the champion's best member.")
    base_version: int | None = Field(None, description="enclip-epoch version of that member.")
    parent_release: int | None = Field(description="Champion that the run's release is measured against.")
    built_from: int | None = Field(
        None, description="Release whose members, projection and clusters are kept; None: everything is new."
    )
    mlflow_run_id: str
    origin: Origin


class TrainStep(Record):
    """The epochs of a fine-tuning, as registered."""

    epochs: tuple[EpochVersion, ...]
    pixel_side: int
    device: str
    batch_size: int
    images_per_s: float


class ChoiceStep(Record):
    """The ensemble that *select* preferred, and what it was preferred to."""

    members: tuple[Member, ...]
    candidates: tuple[Candidate, ...]
    best_member: int
    chosen_because: str
    text_ms: dict[str, float] = Field({}, description="By weights_sha256 what words take; empty without max_text_ms.")
    needs_student: bool = Field(False, description="Whether the members' own text towers are beyond the budget.")
    gallery: GallerySettings = GallerySettings()
    base: Member | None = Field(None, description="Epoch 0, which a first release must beat.")


class StudentStep(Record):
    """A text tower that answers for all members; without a key, why there is none."""

    key: str = Field("", description="Folder of the blob store that holds it.")
    num_texts: int = 0
    agreement: tuple[float, ...] = ()
    summary: str


class EmbedStep(Record):
    """One shard of one member."""

    key: str
    num_images: int
    num_reused: int
    images_per_s: float
    num_names: int = Field(0, description="Names that had to be embedded; none where names are not searched.")


class ReleaseStep(Record):
    """A registered release."""

    release: int


class QueryRow(Record):
    """A gate query; `master_category` is that of most of its relevant products."""

    query_id: str
    kind: QueryKind
    text: str
    category: str
    master_category: str
    num_relevant: int


class EvaluationStep(Record):
    """AP@10 of every system on every gate query, in the same order, and what a release costs."""

    release: int
    champion: int | None
    best_of_year: int | None
    headline: QueryKind
    queries: tuple[QueryRow, ...]
    systems: dict[str, tuple[float, ...]]
    protocols: dict[str, str] = Field({}, description="What each system searched; not named: image.")
    new_categories: tuple[str, ...]
    overfit_gap: float | None
    search_ratio: float | None
    memory_ratio: float

    def protocol(self, system: str = "challenger") -> str:
        """What a system searched: image, name, hybrid, or BM25."""
        return self.protocols.get(system, "image")

    def by_gallery(self) -> dict[str, dict[str, str]]:
        """Title → label → system, the challenger's first: pictures and names never stand in one table."""
        found: dict[str, dict[str, str]] = {}
        for system in self.systems:
            searched = self.protocol(system)
            is_image = searched == "image"
            title, label = ("image-only", system) if is_image else ("names in the gallery", f"{system} ({searched})")
            found.setdefault(title, {})[label] = system
        return found

    def mean(self, system: str, *, kind: QueryKind | None = None, category: str | None = None) -> float | None:
        """mAP@10 of a system over the queries of a kind (default: the headline) and category."""
        wanted = kind or self.headline
        values = [
            value
            for query, value in zip(self.queries, self.systems[system], strict=True)
            if query.kind is wanted and category in (None, query.category)
        ]
        return sum(values) / len(values) if values else None

    def summary(self) -> dict[str, Any]:
        """The challenger's figures as `enclip evaluate` shows them, and the other systems' mAP@10."""
        categories = {
            name: [query for query in self.queries if query.kind is self.headline and query.category == name]
            for name in self.by_category
        }
        return {
            "release": self.release,
            "gallery": "gate split",
            "gallery_protocol": self.protocol(),
            "galleries": self.by_gallery(),
            "map_at_10": self.mean("challenger"),
            "headline": self.headline.value,
            "by_category": self.by_category,
            "categories": {
                name: {
                    "map_at_10": self.by_category[name],
                    "num_queries": len(queries),
                    "num_relevant": sum(query.num_relevant for query in queries),
                }
                for name, queries in categories.items()
            },
            "by_kind": {
                kind.value: {
                    "num_queries": sum(query.kind is kind for query in self.queries),
                    **{system: self.mean(system, kind=kind) for system in self.systems},
                }
                for kind in QueryKind
                if any(query.kind is kind for query in self.queries)
            },
        }

    @property
    def by_category(self) -> dict[str, float]:
        """The challenger's mAP@10 per category over the headline's queries."""
        categories = sorted({query.category for query in self.queries if query.kind is self.headline})
        return {name: self.mean("challenger", category=name) or 0.0 for name in categories}


class GateRow(Record):
    """What one gate saw, what it asked for, and its verdict."""

    gate: str
    verdict: Literal["pass", "fail", "insufficient", "ask"]
    value: int | float | None = None  # an int is a count of queries
    bound: int | float | None = None
    reason: str


class GateStep(Record):
    """Whether a release may become champion, and why."""

    release: int
    champion: int | None = Field(description="What it was measured against.")
    outcome: Literal["promote", "refuse", "ask"]
    results: tuple[GateRow, ...]
    summary: str = Field(description="One sentence for people: the outcome, and the gates that decided it.")


class PromotionStep(Record):
    """Whether the alias moved."""

    release: int
    promoted: bool
    summary: str


class Timing(Record):
    """What a step took on the machine that ran it."""

    step: str
    started_at: str
    seconds: float
    peak_memory_mb: float


class RunFolder:
    """The records of one run in the blob store."""

    def __init__(self, blobs: Blobs, run_id: str) -> None:
        if not is_run_id(run_id):
            raise ConfigError(
                f"Run id {run_id!r} is not usable as a name.",
                remedy="Use letters, digits, '.', '_' and '-'; \"last\" is taken.",
            )
        self.run_id = run_id
        self._blobs = blobs

    def write(self, step: str, record: Record) -> None:
        """Write the record of a step, replacing an earlier one."""
        self._blobs.put(self._key(step), record.model_dump_json(indent=2).encode())

    def read(self, step: str, kind: type[RecordType]) -> RecordType:
        """The record of a step. Raises ConfigError where that step has not run yet."""
        if not self._blobs.exists(self._key(step)):
            raise ConfigError(
                f"Run {self.run_id} has no {step} record.",
                remedy=f"Run `enclip {COMMANDS.get(step, step)} --run {self.run_id}` first.",
            )
        return kind.model_validate_json(self._blobs.get(self._key(step)))

    def find(self, step: str, kind: type[RecordType]) -> RecordType | None:
        """The record of a step, or None."""
        return self.read(step, kind) if self._blobs.exists(self._key(step)) else None

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Record what the block took. Peak memory is this process's, children included."""
        started, start = datetime.now(UTC), time.monotonic()
        yield
        self._blobs.put(
            f"runs/{self.run_id}/timing/{step}.json",
            Timing(
                step=step,
                started_at=started.isoformat(timespec="milliseconds"),
                seconds=round(time.monotonic() - start, 2),
                peak_memory_mb=round(peak_memory_mb(), 1),
            )
            .model_dump_json()
            .encode(),
        )

    def timings(self) -> list[Timing]:
        """Every step's timing, in the order in which they started."""
        found = self._blobs.listing(f"runs/{self.run_id}/timing/")
        return sorted(
            (Timing.model_validate_json(self._blobs.get(blob.key)) for blob in found),
            key=lambda timing: timing.started_at,
        )

    def _key(self, step: str) -> str:
        return f"runs/{self.run_id}/{step}.json"


def is_run_id(name: str) -> bool:
    """Whether a run may be called so: the store can take it, and it is not the name of what says which was the last."""
    return bool(_RUN_ID.fullmatch(name)) and f"runs/{name}" != LAST


def new_run_id(kind: str) -> str:
    """An id that sorts by time."""
    now = datetime.now(UTC)
    return f"{kind}-{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}"


def run_id_from(dag_run_id: str, kind: str) -> str:
    """The run id of an Airflow DAG run: stable, so that a cleared task finds its records again."""
    return f"{kind}-" + re.sub(r"[^A-Za-z0-9.-]+", "_", dag_run_id)[:100]


def remember_last(blobs: Blobs, run_id: str) -> None:
    """Make a run the one that steps without `--run` act on."""
    blobs.put(LAST, run_id.encode())


def last_run_id(blobs: Blobs) -> str:
    """The run that was planned last. Raises ConfigError where there is none."""
    if not blobs.exists(LAST):
        raise ConfigError("No run yet.", remedy="Start one with `enclip snapshot` or `enclip retrain`.")
    return blobs.get(LAST).decode()


def peak_memory_mb() -> float:
    """High-water mark of this process's resident memory, or its largest child's, in MB."""
    scale = 1024 if sys.platform.startswith("linux") else 1024 * 1024
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / scale
