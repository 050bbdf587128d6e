"""What studies share: trainings by recipe, fold and seed, and what their epochs make of pictures and words. Cached."""

import fcntl
import hashlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from enclip.blobs import write_whole
from enclip.catalog.snapshot import load_snapshot, pixel_map, stored_side, take_snapshot, typical_aspect
from enclip.errors import CatalogError
from enclip.models import training
from enclip.models.bases import at_frame, at_side, load_base
from enclip.models.checkpoint import load_checkpoint, read_card, save_checkpoint
from enclip.models.clip import ClipEncoder, ClipModel, embed_pixels
from enclip.models.colours import NUM_COLOURS, colours_of
from enclip.models.device import resolve_device
from enclip.models.soup import average_checkpoints
from enclip.models.student import CARD, TextStudent, distil
from enclip.models.views import views_of
from enclip.pipeline.bank import BankTexts, bank_texts
from enclip.pipeline.distil import student_texts
from enclip.pipeline.heads import UNSEEN, FittedHeads, FittedNameHeads, Values, ensemble_heads, name_heads, train_values
from enclip.pipeline.platform import Platform
from enclip.pipeline.shards import array_bytes
from enclip.pipeline.soups import STATISTICS_FROM
from enclip.pipeline.train import sized, training_rows
from enclip.pipeline.validate import Validator
from enclip.recipes import Recipe, ReleaseRecipe, TrainRecipe
from enclip.records import Floats, Products, Split
from enclip.retrieval.heads import AttributeHeads
from enclip.studies.folds import rotated

log = logging.getLogger(__name__)

Tell = Callable[[str], None]
CHANGED_AT_ONCE = 1024  # pictures: more would take memory by the gigabyte
LONGEST_NAME = 200  # of a soup's folder: file systems take 255 bytes


class Training(Recipe):
    """One training that a study asks for; equal ones are run once."""

    recipe: TrainRecipe = Field(description="One instance; `instances` is not read.")
    fold: int = Field(0, ge=0, description="Which assignment of groups to splits.")
    share: float = Field(1.0, gt=0, le=1, description="Share of the train split's products that are used.")
    trunk: "Trunk | None" = Field(None, description="Where it starts, in the place of the recipe's base.")

    def varied(self, **changes: Any) -> "Training":
        """The same by a recipe with some fields changed."""
        recipe = TrainRecipe.model_validate({**self.recipe.model_dump(), **changes})
        return self.model_copy(update={"recipe": recipe})


class Trunk(Recipe):
    """An epoch of another training, from which branches start."""

    training: Training
    epoch: int = Field(ge=1)


@dataclass(frozen=True)
class Epoch:
    """A trained epoch: its checkpoint, and its figures on *select* and of the training."""

    training: Training
    epoch: int
    folder: Path
    quality: float  # mAP@10 on select over specific and type queries together
    figures: dict[str, float]
    seconds: float


@dataclass(frozen=True, eq=False)
class Embedded:
    """A checkpoint's view of a fold: unit norm, float16."""

    image_ND: NDArray[np.float16]
    query_QD: NDArray[np.float16]  # the queries of select, then those of gate
    bank_JD: NDArray[np.float16]
    name_ND: NDArray[np.float16]
    sharpness: float


class Fold:
    """The catalog with one assignment of splits: queries, galleries and the bank.

    Args:
        seen: rows of the train split that it is cut down to; the others stand aside. None: all of it.

    Raises:
        CatalogError: nothing can be measured in it.
    """

    def __init__(self, number: int, products: Products, *, seen: NDArray[np.int64] | None = None) -> None:
        self.number = number
        self.products = rotated(products, number)
        if seen is not None:
            split_N = self.products.split.copy()
            split_N[np.setdiff1d(np.flatnonzero(split_N == Split.TRAIN), seen)] = str(Split.ASIDE)
            self.products = replace(self.products, split=split_N)
        self.select = Validator(self.products, split=Split.SELECT)
        self.gate = Validator(self.products, split=Split.GATE)
        for split, side in ((Split.SELECT, self.select), (Split.GATE, self.gate)):
            if not side.queries:
                raise CatalogError(
                    f"Fold {number} has no query to ask of its {len(side.gallery)} products in {split}.",
                    remedy="Take in a catalog with more products, and with an articleType for them.",
                )

    @cached_property
    def bank(self) -> BankTexts:
        """Likely queries, from captions of the train split."""
        return bank_texts(self.products)

    @cached_property
    def values(self) -> Values:
        """What attribute heads tell apart."""
        return train_values(self.products)

    @cached_property
    def name_heads(self) -> FittedNameHeads | None:
        """What reads these values in names."""
        return name_heads(self.products, self.values)

    @property
    def texts(self) -> list[str]:
        """All queries in the order of `Embedded.query_QD`."""
        return [*self.select.texts, *self.gate.texts]

    def of(self, split: Split, embedded: Embedded) -> tuple[Floats, Floats]:
        """`(query_QD, image_ND)` of one split's queries and gallery."""
        count = len(self.select.texts)
        query_QD = embedded.query_QD[:count] if split is Split.SELECT else embedded.query_QD[count:]
        rows = np.flatnonzero(self.products.split == split)
        return query_QD.astype(np.float32), embedded.image_ND[rows].astype(np.float32)


class Lab:
    """Trains and embeds on demand; what is done lies in `scratch/studies` by a digest of all that matters.

    A training that was cut off goes on after its last finished epoch.
    """

    def __init__(self, platform: Platform, *, tell: Tell = log.info) -> None:
        self._platform = platform
        self._tell = tell
        self.snapshot = take_snapshot(platform.catalog, platform.blobs).digest
        self._products = load_snapshot(platform.blobs, self.snapshot)
        self._folds: dict[int, Fold] = {}
        self._cut_down: dict[str, Fold] = {}
        self._colours: dict[int, NDArray[np.float16]] = {}
        self.aspect = typical_aspect(self._products, platform.blobs)
        # What a base from nothing makes of a catalog depends on the shape that it looks at.
        shape = "" if self.aspect == 1 else f"-{self.aspect:.2f}"
        self._root = platform.scratch / "studies" / f"{self.snapshot[:16]}{shape}"
        self.device = resolve_device("auto")

    def fold(self, number: int) -> Fold:
        """One assignment of splits."""
        if number not in self._folds:
            self._folds[number] = Fold(number, self._products)
        return self._folds[number]

    def world(self, training: Training) -> Fold:
        """A training's fold, with no more of its train split than the training sees."""
        if training.share == 1:
            return self.fold(training.fold)
        key = digest(training)
        if key not in self._cut_down:
            self._cut_down[key] = Fold(training.fold, self._products, seen=self._rows(training))
        return self._cut_down[key]

    def train(self, wanted: Training) -> list[Epoch]:
        """The epochs of a training, the untuned base first. What another process is training is waited for."""
        folder = self._folder(wanted)
        known = folder / "epochs.json"
        if not known.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "lock", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process
                if not known.is_file():
                    write_whole(known, json.dumps(self._trained(wanted, folder)).encode())
                    (folder / "state.pt").unlink(missing_ok=True)
        return [self._epoch(wanted, folder, row) for row in json.loads(known.read_bytes())]

    def _trained(self, wanted: Training, folder: Path) -> list[dict[str, Any]]:
        """Train; the rows of `Epoch`."""
        fold, model, rows = self.fold(wanted.fold), self._start(wanted), self._rows(wanted)
        pixels = self.pixels(model)
        found: list[dict[str, Any]] = []
        for result in training.fit(
            model,
            training.TrainingData(products=fold.products, pixels=pixels, rows=rows),
            sized(wanted.recipe, len(rows)),
            instance=0,
            device=self.device,
            state_dir=folder,
            validate=lambda trained: _validated(fold.select, trained, pixels),
        ):
            found.append(
                {
                    "epoch": result.epoch,
                    "quality": result.metrics["quality"],
                    "figures": dict(result.metrics),
                    "seconds": result.seconds,
                }
            )
            self._tell(f"{_name(wanted)}, epoch {result.epoch}: {result.metrics['quality']:.3f} on select")
        self._log(wanted, folder.name, found)
        return found

    def soup(self, epochs: Sequence[Epoch], weights: Sequence[float] | None = None) -> Epoch:
        """One checkpoint with the mean of the epochs' weights, uniform without `weights`; beside the last of them.

        Raises:
            WeightsError: their weights cannot be averaged.
        """
        last = epochs[-1]
        folder = last.folder.with_name(_soup_name(epochs, weights))
        known = folder / "figures.json"
        if not known.is_file():
            pixels = self.pixels(load_checkpoint(last.folder, device=self.device))
            rows = np.random.default_rng(0).permutation(self._rows(last.training))[:STATISTICS_FROM]
            model = average_checkpoints(
                [epoch.folder for epoch in epochs], pixels=pixels[np.sort(rows)], device=self.device, weights=weights
            )
            save_checkpoint(folder, model, pixel_side=pixels.shape[1])
            figures = _validated(self.fold(last.training.fold).select, model, pixels)
            write_whole(known, json.dumps(figures).encode())
        figures = json.loads(known.read_bytes())
        return Epoch(last.training, last.epoch, folder, figures["quality"], figures, seconds=0.0)

    def embed(self, epoch: Epoch) -> Embedded:
        """All products, queries, bank texts and names by one epoch."""
        world, share = self.world(epoch.training), epoch.training.share
        path = epoch.folder / f"embedded-{world.number}{'' if share == 1 else f'-{share:g}'}.npz"
        names = ("image", "query", "bank", "name", "sharpness")
        if path.is_file():
            with np.load(path, allow_pickle=False) as file:
                image, query, bank, name, sharpness = (file[key] for key in names)
            return Embedded(image, query, bank, name, float(sharpness))
        model = load_checkpoint(epoch.folder, device=self.device)
        encoder = ClipEncoder(model)
        made = Embedded(
            image_ND=embed_pixels(model, self.pixels(model), self.device).astype(np.float16),
            query_QD=encoder.encode_texts(world.texts).astype(np.float16),
            bank_JD=encoder.encode_texts(world.bank.texts).astype(np.float16),
            name_ND=encoder.encode_texts([str(name) for name in world.products.name]).astype(np.float16),
            sharpness=model.sharpness,
        )
        buffer = io.BytesIO()
        np.savez(
            buffer,
            image=made.image_ND,
            query=made.query_QD,
            bank=made.bank_JD,
            name=made.name_ND,
            sharpness=np.float32(made.sharpness),
        )
        write_whole(path, buffer.getvalue())
        return made

    def views(self, epoch: Epoch, recipe: ReleaseRecipe) -> int:
        """How many views of each picture a release of this recipe has, by an epoch."""
        return views_of(recipe.views, from_scratch=read_card(epoch.folder).from_scratch)

    def pictures(self, epoch: Epoch, *, views: int) -> NDArray[np.float16]:
        """`image_ND` of all products by so many views of each, unit norm."""
        if views == 1:
            return self.embed(epoch).image_ND
        path = epoch.folder / f"pictures-{views}-views.npy"
        if not path.is_file():
            model = load_checkpoint(epoch.folder, device=self.device)
            made = embed_pixels(model, self.pixels(model), self.device, views=views)
            write_whole(path, array_bytes(made.astype(np.float16)))
        image_ND: NDArray[np.float16] = np.load(path, allow_pickle=False)
        return image_ND

    def colours(self, epoch: Epoch) -> NDArray[np.float16]:
        """`colour_NC` of all pictures, on canvases as an epoch's are."""
        side = read_card(epoch.folder).pixel_side
        if side not in self._colours:
            self._colours[side] = colours_of(self._pixels_at(side))
        return self._colours[side]

    def colours_changed(
        self, epoch: Epoch, split: Split, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    ) -> NDArray[np.float16]:
        """`colour_GC` of one split's pictures after a change to their stored pixels; see `embed_changed`."""
        pixels = self._pixels_at(read_card(epoch.folder).pixel_side)
        rows = np.flatnonzero(self.fold(epoch.training.fold).products.split == split)
        parts = [rows[start : start + CHANGED_AT_ONCE] for start in range(0, len(rows), CHANGED_AT_ONCE)]
        return np.concatenate([colours_of(change(pixels[part])) for part in parts])

    def heads(self, members: Sequence[Epoch], weights: Sequence[float], *, views: Sequence[int]) -> FittedHeads | None:
        """The attribute heads of an ensemble on its fold's splits, by so many views of each member's pictures."""
        world = self.world(members[0].training)
        known = [list(views), world.values, NUM_COLOURS, UNSEEN]
        digest = self._digest(members, weights, *known)
        paths = [self._root / f"heads-{digest}{name}.npz" for name in ("-judged", "")]
        if paths[1].is_file():
            return FittedHeads(*(AttributeHeads.load(path)[0] for path in paths))
        blocks = [self.pictures(member, views=count) for member, count in zip(members, views, strict=True)]
        sharpnesses = [self.embed(member).sharpness for member in members]
        colour_NC = self.colours(members[0])
        made = ensemble_heads(world.products, blocks, weights, sharpnesses, world.values, colour_NC=colour_NC)
        if made is not None:
            for path, heads in zip(paths, (made.judged, made.final), strict=True):
                buffer = io.BytesIO()
                heads.save(buffer, np.zeros((0, len(heads.fields)), np.float32))
                write_whole(path, buffer.getvalue())
        return made

    def student(self, members: Sequence[Epoch], weights: Sequence[float], *, own: int) -> TextStudent:
        """One text tower for an ensemble, as a release has it; it goes on where it was cut off."""
        fold, recipe = members[0].training.fold, ReleaseRecipe()
        folder = self._root / f"student-{self._digest(members, weights, own, recipe.student_epochs)}"
        if not (folder / CARD).is_file():
            texts = student_texts(self.world(members[0].training).products)
            models = [load_checkpoint(member.folder, device=self.device) for member in members]
            targets = [ClipEncoder(model).encode_texts(texts) for model in models]
            self._tell(f"fold {fold}: one text tower for {len(members)} members")
            distil(
                models[own],
                texts,
                targets,
                own=own,
                weights=weights,
                epochs=recipe.student_epochs,
                seed=fold,
                device=self.device,
                state_dir=folder,
            ).save(folder)
            (folder / "state.pt").unlink(missing_ok=True)
        return TextStudent.load(folder, device=self.device)

    def embed_changed(
        self,
        epoch: Epoch,
        split: Split,
        change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
        *,
        name: str,
        views: int = 1,
    ) -> Floats:
        """`image_GD` of one split's pictures after a change to their stored pixels: unit norm, float32.

        Args:
            change: uint8 `[n, S, S, 3]` → the same shape, each picture by itself.
            name: of the change, for a file's name: what is cached is known by it.
            views: of each picture.
        """
        fold = epoch.training.fold
        seen = "" if views == 1 else f"-{views}-views"
        path = epoch.folder / f"embedded-{fold}-{split}-{name}{seen}.npy"
        if not path.is_file():
            model = load_checkpoint(epoch.folder, device=self.device)
            pixels, rows = self.pixels(model), np.flatnonzero(self.fold(fold).products.split == split)
            parts = [rows[start : start + CHANGED_AT_ONCE] for start in range(0, len(rows), CHANGED_AT_ONCE)]
            made = [embed_pixels(model, change(pixels[part]), self.device, views=views) for part in parts]
            write_whole(path, array_bytes(np.concatenate(made).astype(np.float16)))
        image_GD: NDArray[np.float16] = np.load(path, allow_pickle=False)
        return image_GD.astype(np.float32)

    def pixels(self, model: ClipModel) -> NDArray[np.uint8]:
        """The catalog's pictures at what the model needs."""
        return self._pixels_at(stored_side(self._products, self._platform.blobs, model.side))

    def _pixels_at(self, side: int) -> NDArray[np.uint8]:
        return pixel_map(
            self._products, self._platform.blobs, side=side, scratch=self._platform.scratch, digest=self.snapshot
        )

    def _start(self, wanted: Training) -> ClipModel:
        """The weights that a training starts from: its trunk's, or its base's."""
        if wanted.trunk:
            trunk = next(epoch for epoch in self.train(wanted.trunk.training) if epoch.epoch == wanted.trunk.epoch)
            model = load_checkpoint(trunk.folder, device=self.device)
        else:
            model = load_base(wanted.recipe.base, seed=wanted.recipe.seed, device=self.device)
        return at_frame(at_side(model, wanted.recipe.image_side), self.aspect)

    def _rows(self, wanted: Training) -> NDArray[np.int64]:
        """The products that a training sees."""
        rows = training_rows(self.fold(wanted.fold).products, wanted.recipe)
        return _some(rows, wanted.share, seed=wanted.recipe.seed)

    def _log(self, wanted: Training, name: str, epochs: Sequence[dict[str, Any]]) -> None:
        """The training as a run in MLflow, its figures by epoch."""
        registry = self._platform.registry
        params = {"snapshot": self.snapshot, "fold": wanted.fold, "share": wanted.share}
        if wanted.trunk:
            params["trunk"] = f"{digest(wanted.trunk.training)}, epoch {wanted.trunk.epoch}"
        mlflow_run_id = registry.open_run(
            f"study-training-{self.snapshot[:8]}-{name}",
            kind="study training",
            params={**params, **wanted.recipe.model_dump(mode="json")},
        )
        for epoch in epochs:
            registry.log_figures(mlflow_run_id, metrics=epoch["figures"], step=epoch["epoch"])
        registry.close_run(mlflow_run_id)

    def _digest(self, members: Sequence[Epoch], weights: Sequence[float], *how: Any) -> str:
        """20 hex digits that name what is made of an ensemble."""
        named = [
            [str(member.folder.relative_to(self._root)), round(weight, 6)]
            for member, weight in zip(members, weights, strict=True)
        ]
        return hashlib.sha256(json.dumps([named, *how]).encode()).hexdigest()[:20]

    def _folder(self, wanted: Training) -> Path:
        return self._root / digest(wanted)

    def _epoch(self, wanted: Training, folder: Path, row: dict[str, Any]) -> Epoch:
        return Epoch(training=wanted, folder=folder / f"epoch-{row['epoch']:02d}", **row)


def digest(wanted: Training) -> str:
    """20 hex digits that name a training by all that it learns from, wherever it lies."""
    left_out = {"instances", *wanted.recipe.left_out_of_digests}
    asked = wanted.model_dump(mode="json", exclude={"recipe": left_out, "trunk": True})
    if wanted.trunk:
        asked["trunk"] = [digest(wanted.trunk.training), wanted.trunk.epoch]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:20]


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """The epoch with the highest quality on *select*, the untuned base left out; the earliest of equals."""
    return max((epoch for epoch in epochs if epoch.epoch > 0), key=lambda epoch: epoch.quality)


def _validated(select: Validator, model: ClipModel, pixels: NDArray[np.uint8]) -> dict[str, float]:
    score_QN = select.scores(model, pixels)
    evaluation = select.evaluate(score_QN)
    return {"quality": select.quality(score_QN), "val_map_at_10": evaluation.map_at_10}


def _some(rows: NDArray[np.int64], share: float, *, seed: int) -> NDArray[np.int64]:
    if share == 1:
        return rows
    chosen = np.random.default_rng(seed).permutation(rows)[: max(2, round(share * len(rows)))]
    return np.sort(chosen)


def _name(wanted: Training) -> str:
    """All that a reader needs to tell trainings of one study apart."""
    side = f" at {wanted.recipe.image_side} px" if wanted.recipe.image_side else ""
    start = f" after {wanted.trunk.epoch} of seed {wanted.trunk.training.recipe.seed}" if wanted.trunk else ""
    share = f", {wanted.share:.0%} of train" if wanted.share < 1 else ""
    shown = {"epochs", "instances", "seed", "device", "image_side"}
    said = wanted.recipe.model_dump(exclude=shown, exclude_defaults=True)
    how = "".join(
        f", {field} {value:g}" if isinstance(value, float) else f", {field} {value}" for field, value in said.items()
    )
    return f"fold {wanted.fold}, seed {wanted.recipe.seed}, {wanted.recipe.epochs} epochs{side}{start}{share}{how}"


def _soup_name(epochs: Sequence[Epoch], weights: Sequence[float] | None) -> str:
    """`soup-of-46-48`; `2bf8e581.24` is of another training than the last one, and `48x0.25` has a weight."""
    home = epochs[-1].folder.parent
    named = [
        ("" if epoch.folder.parent == home else f"{epoch.folder.parent.name[:8]}.") + f"{epoch.epoch:02d}"
        for epoch in epochs
    ]
    if weights is not None:
        named = [f"{name}x{weight:g}" for name, weight in zip(named, weights, strict=True)]
    name = f"soup-of-{'-'.join(named)}"
    if len(name) > LONGEST_NAME:
        return f"soup-of-{len(named)}-{hashlib.sha256(name.encode()).hexdigest()[:20]}"
    return name
