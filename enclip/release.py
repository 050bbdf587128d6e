"""The manifest of a release: what is pinned together, and how it is written, read and verified.

A release is a folder: `manifest.json`, and the files that it lists with their SHA-256. Members are
referred to by registry version and source, never copied, so that a refreshed index is cheap (D1).
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enclip.blobs import write_whole
from enclip.errors import ReleaseError
from enclip.recipes import MOST_VIEWS, Gallery

FORMAT = 1
MANIFEST = "manifest.json"
RESTORE = "Restore the file, or name another release: `enclip rollback --to N`."


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ingredient(_Frozen):
    """A checkpoint that a soup averages."""

    version: int = Field(description="Version of the registered model enclip-epoch.")
    instance: int
    epoch: int
    weight: float = Field(description="Share of the mean; the weights of a soup sum to 1.")


class Member(_Frozen):
    """A checkpoint in an ensemble, or a soup of several."""

    version: int = Field(description="Version of the registered model enclip-epoch.")
    source: str = Field(description="models:/m-… of the LoggedModel behind it.")
    instance: int
    epoch: int
    weight: float = Field(description="Share of the score; the weights of an ensemble sum to 1.")
    weights_sha256: str
    init_id: str = Field(description="Initialisation and architecture; equal ids may be averaged in weight space.")
    dim: int
    pixel_side: int
    views: int = Field(1, ge=1, le=MOST_VIEWS, description="Views of a catalog's picture whose mean is its embedding.")
    ingredients: tuple[Ingredient, ...] = Field((), description="What a soup was averaged from; none: no soup.")

    @property
    def checkpoints(self) -> tuple[Ingredient, ...]:
        """The trained epochs behind it, with their shares of it: a soup's ingredients, else itself."""
        alone = Ingredient(version=self.version, instance=self.instance, epoch=self.epoch, weight=1.0)
        return self.ingredients or (alone,)


class Candidate(_Frozen):
    """One ensemble that was considered, and what *select* said of it."""

    name: str
    versions: tuple[int, ...]
    weights: tuple[float, ...]
    map_at_10: float
    text_ms: float | None = Field(None, description="For encoding a query in words; timed where it is bounded.")
    memory_mb: float | None = Field(None, description="Of embeddings and index.")
    within_budget: bool = True


class ClusterSettings(_Frozen):
    """Clusters and how strongly they enter the score; with pull and feedback of 0 they are left out of it."""

    count: int
    pull: float
    narrowing: float = Field(0.0, description="How much less of the pull a narrow query has, 0 to 1.")
    feedback: float = Field(0.0, description="How far a broad query turns toward the clusters of its first results.")
    chosen_because: str = ""


class BankSettings(_Frozen):
    """A bank of likely queries, and what it does to the score of words."""

    num_texts: int = 0
    calibration: float = Field(0.0, description="Of a product's bias that comes off its score.")
    exemplar_share: float = Field(0.0, description="Of the pictures that a text is meant by, in the query.")
    chosen_because: str = ""


class AttributeSettings(_Frozen):
    """Classifiers of attributes by picture and by name, and how strongly those that a query names enter its score."""

    fields: tuple[str, ...] = ()
    num_values: int = 0
    num_colours: int = Field(0, description="Numbers of a picture's own colours that they read beside the members.")
    weight: float = 0.0
    chosen_because: str = ""
    name_weight: float = Field(0.0, description="Of what products' names say of them, where names are searched.")
    name_chosen_because: str = ""


class StudentSettings(_Frozen):
    """One text tower in the members' place for queries in words, or why there is none."""

    num_texts: int = Field(0, description="Texts that it learnt from; 0: each member encodes words itself.")
    agreement: tuple[float, ...] = Field((), description="Per member the mean cosine with its own embeddings.")
    chosen_because: str = ""


class GallerySettings(_Frozen):
    """What a release searches, and what names weigh in it; of a product's text its name alone is searched."""

    protocol: Gallery = "image"
    name_share: float = Field(0.0, description="Share of the name's embedding in a product's.")
    bm25_weight: float = Field(0.0, description="Weight of BM25 over names against the vectors.")
    chosen_because: str = ""


class IndexSettings(_Frozen):
    """How much of the catalog a search looks at, what that misses, and the budget that a refresh keeps to."""

    kind: Literal["exact", "cells", "graph"] = "exact"
    effort: int = Field(0, description="Cells looked into, or products in view; 0: all products are looked at.")
    text_recall: float = Field(1.0, description="Share of the exact first ten that is found for words.")
    image_recall: float = Field(1.0, description="The same for pictures.")
    ms: float | None = Field(None, description="Of a search, without encoding; timed where something was to choose.")
    exact_ms: float | None = Field(None, description="The same, looking at all products.")
    exact_up_to: int = 1_000_000
    max_search_ms: float = 0.0
    min_recall: float = 0.99
    max_memory_mb: float = 0.0
    chosen_because: str = ""


class FileEntry(_Frozen):
    sha256: str
    num_bytes: int


class Manifest(_Frozen):
    """Everything that a release is."""

    format: int = Field(FORMAT, ge=1, le=FORMAT)
    kind: Literal["retrain", "refresh"]
    run_id: str = Field(description="The retrain or refresh that built it.")
    parent_release: int | None = Field(None, description="Champion when it was built; what it is measured against.")
    base: str
    base_version: int | None = Field(None, description="enclip-epoch version of the base as epoch 0.")
    snapshot: str = Field(description="Digest of the catalog snapshot it searches.")
    trained_on: str = Field(description="Digest of the snapshot its members were trained on.")
    num_products: int
    members: tuple[Member, ...]
    best_member: int = Field(0, description="Row in members of the best one on select.")
    clusters: ClusterSettings
    gallery: GallerySettings = Field(GallerySettings(), description="Absent before names could be searched: image.")
    bank: BankSettings = Field(BankSettings(), description="Absent before there were banks.")
    attributes: AttributeSettings = Field(AttributeSettings(), description="Absent before there were heads.")
    student: StudentSettings = Field(StudentSettings(), description="Absent before there were students.")
    index: IndexSettings = Field(IndexSettings(), description="Absent before there was anything to choose: exact.")
    rescored: int
    candidates: tuple[Candidate, ...] = ()
    chosen_because: str
    created_at: str
    git_commit: str = ""
    lock_sha256: str = ""
    files: dict[str, FileEntry] = Field(default_factory=dict)

    @property
    def checkpoints(self) -> tuple[Ingredient, ...]:
        """The trained epochs behind the release, each once, with their share of it; the heaviest first."""
        shares: dict[int, Ingredient] = {}
        for member in self.members:
            for part in member.checkpoints:
                before = shares[part.version].weight if part.version in shares else 0.0
                shares[part.version] = part.model_copy(update={"weight": before + member.weight * part.weight})
        return tuple(sorted(shares.values(), key=lambda part: (-part.weight, part.version)))

    @property
    def ensemble_key(self) -> tuple[tuple[str, float], ...]:
        """Equal for releases whose ensembles are the same and search the same, whatever their index holds."""
        key = sorted((member.weights_sha256, round(member.weight, 6)) for member in self.members)
        if self.gallery.protocol != "image":
            key += [("name share", self.gallery.name_share), ("bm25 weight", self.gallery.bm25_weight)]
        if self.attributes.name_weight:
            key += [("attributes by name", self.attributes.name_weight)]
        key += [("views", member.views) for member in self.members if member.views > 1]
        return tuple(key)


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write `manifest.json` over the folder's files, hashes included; the manifest as written."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=file_sha256(path), num_bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    complete = manifest.model_copy(update={"files": files})
    write_whole(folder / MANIFEST, complete.model_dump_json(indent=2).encode())
    return complete


def read_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """The manifest of a release folder; with `verify`, every file is hashed first.

    Raises:
        ReleaseError: no manifest, a newer format, a missing file or one that differs from its hash.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ReleaseError(f"No release at {folder}: {error.strerror}.") from error
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise _not_understood(path, raw, error) from error
    if verify:
        for name, entry in manifest.files.items():
            file = folder / name
            if not file.is_file():
                raise ReleaseError(f"Release file {file} is missing.", remedy=RESTORE)
            if file_sha256(file) != entry.sha256:
                raise ReleaseError(f"Release file {file} is not what the manifest says.", remedy=RESTORE)
    return manifest


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _not_understood(path: Path, raw: bytes, error: ValidationError) -> ReleaseError:
    try:
        value: Any = json.loads(raw)
        newer = isinstance(value, dict) and int(value.get("format", FORMAT)) > FORMAT
    except (ValueError, TypeError):
        newer = False
    if newer:
        what = f"{path} has format {value['format']}; this version reads up to {FORMAT}."
        return ReleaseError(what, remedy="Upgrade enclip.")
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "content"
    return ReleaseError(
        f"{path} is not a manifest: {place}: {first['msg']}.",
        remedy="Upgrade enclip, or build the release again with `enclip refresh`.",
    )
