"""Every error a user can cause or must act on.

    EnclipError
    ├── ConfigError         a setting or recipe that cannot be used
    ├── StoreError          a blob (picture, snapshot, embedding) or the database that cannot be read or written
    ├── CatalogError        a catalog file, its columns or its rows
    │   ├── ImageError      one picture that cannot be decoded
    │   ├── CatalogBusy     another writer has held the catalog for too long
    │   └── SnapshotError   a snapshot that is missing or damaged
    ├── WeightsError        base weights or a checkpoint that cannot be loaded or averaged
    ├── TrainingError       a training that cannot start or go on
    │   └── DeviceError     the device asked for is absent or has no memory left
    ├── RegistryError       a release, epoch or alias that the registry does not have
    │   └── ReleaseError    a release whose files are missing, damaged or of another format
    ├── PromotionConflict   the champion is not the one the challenger was measured against
    ├── QueryError          a search request that cannot be answered as asked
    └── ServiceError, ReleaseChanged    what a service answers other programs (`enclip.client`)

A gate that fails is a result with reasons (`enclip.gates`), not an exception.
"""


class EnclipError(Exception):
    """What failed, which value, where; and, in `remedy`, what to try.

    Args:
        what: one sentence naming the thing and the place (file, row, column, release).
        remedy: one sentence in the imperative, or empty where there is nothing to try.
    """

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling that process pools use.
        return (_rebuild, (type(self), self.what, self.remedy))


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line without a full stop; its name where it says nothing."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")


def _rebuild(kind: type[EnclipError], what: str, remedy: str) -> EnclipError:
    return kind(what, remedy=remedy)


class ConfigError(EnclipError):
    """A setting or recipe that cannot be used."""


class StoreError(EnclipError):
    """A blob or the database that cannot be read or written."""


class CatalogError(EnclipError):
    """A catalog file, its columns or its rows."""


class ImageError(CatalogError):
    """One picture that cannot be decoded."""


class CatalogBusy(CatalogError):
    """Another writer has held the catalog for too long."""


class SnapshotError(CatalogError):
    """A snapshot that is missing or damaged."""


class WeightsError(EnclipError):
    """Base weights or a checkpoint that cannot be loaded or averaged."""


class TrainingError(EnclipError):
    """A training that cannot start or go on."""


class DeviceError(TrainingError):
    """The device asked for is absent or has no memory left."""


class RegistryError(EnclipError):
    """A release, epoch or alias that the registry does not have."""


class ReleaseError(RegistryError):
    """A release whose files are missing, damaged or of another format."""


class PromotionConflict(EnclipError):
    """The champion is not the one that the challenger was measured against."""


class QueryError(EnclipError):
    """A search request that cannot be answered as asked."""
