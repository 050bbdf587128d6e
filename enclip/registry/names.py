"""Names under which MLflow knows our things, and how free text becomes a name it accepts."""

import hashlib
import math
import re
from collections.abc import Mapping

EXPERIMENT = "enclip"
EPOCH_MODEL = "enclip-epoch"
RELEASE_MODEL = "enclip"

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"

# Folders inside a LoggedModel's `artifacts/`.
CHECKPOINT = "checkpoint"
RELEASE = "release"

RUN_ID = "enclip.run_id"
KIND = "enclip.kind"
INSTANCE = "enclip.instance"
EPOCH = "enclip.epoch"
WEIGHTS = "enclip.weights_sha256"
INIT_ID = "enclip.init_id"
DIM = "enclip.dim"
BASE = "enclip.base"
INGREDIENTS = "enclip.ingredients"  # only of a soup
DELTA_OF = "enclip.delta_of"  # only of a delta: the version whose weights it changes, and needs
PARENT_VERSION = "enclip.parent_version"
CONTENT = "enclip.content"
PRUNED = "enclip.pruned"  # when its files were given up; nobody may rely on them from then on
FREED = "enclip.freed"  # when they had gone, all of them
SNAPSHOT = "enclip.snapshot"
MAP_AT_10 = "map_at_10"
VAL_MAP_AT_10 = "val_map_at_10"
PARENT_RUN = "mlflow.parentRunId"

_DATASET_DIGEST_CHARS = 36  # MLflow refuses longer ones
_METRIC_CHARS = 250  # likewise


def model_name(text: str) -> str:
    """A LoggedModel's name: MLflow refuses slashes, colons, dots, percent signs and quotes."""
    return re.sub(r"[^\w-]+", "-", text).strip("-") or "model"


def metric_name(text: str) -> str:
    """A metric's name: MLflow refuses most punctuation, what is no plain path, and long names.

    `Lips & Eyes` → `Lips _ Eyes`, `Tops/` → `Tops`; what is cut ends in a digest, so that names stay distinct.
    """
    plain = [part for part in re.sub(r"[^\w\-. /:]", "_", text).split("/") if part not in ("", ".", "..")]
    name = "/".join(plain) or "_"
    if len(name) <= _METRIC_CHARS:
        return name
    return f"{name[: _METRIC_CHARS - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are numbers, under accepted names; stores disagree about NaN and infinity."""
    return {metric_name(key): float(value) for key, value in metrics.items() if math.isfinite(value)}


def dataset_digest(snapshot: str) -> str:
    """A snapshot's digest as MLflow stores it for a dataset."""
    return snapshot[:_DATASET_DIGEST_CHARS]


def quoted(text: str) -> str:
    """A value inside a filter string. MLflow's filters have no escape for a quote, so it must not occur."""
    if "'" in text or '"' in text or "\\" in text:
        raise ValueError(f"{text!r} cannot stand in an MLflow filter")
    return f"'{text}'"
