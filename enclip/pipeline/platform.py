"""What a step needs to reach: database, blobs, registry."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy import Engine

from enclip.blobs import Blobs, open_blobs
from enclip.catalog.store import CatalogStore
from enclip.config import Settings
from enclip.database import open_database
from enclip.errors import ConfigError
from enclip.registry import Registry


@dataclass(frozen=True)
class Platform:
    """The opened state of one ENCLIP; each part is opened when it is first used."""

    settings: Settings

    @cached_property
    def database(self) -> Engine:
        """Catalog and ledger."""
        return open_database(self.settings.resolved_database_url)

    @cached_property
    def blobs(self) -> Blobs:
        """Pictures, snapshots, embeddings and the records of runs."""
        return open_blobs(self.settings.resolved_store_url, s3_endpoint_url=self.settings.s3_endpoint_url)

    @cached_property
    def catalog(self) -> CatalogStore:
        """The products."""
        return CatalogStore(self.database)

    @cached_property
    def registry(self) -> Registry:
        """Epochs, releases and aliases in MLflow."""
        embedded = not self.settings.mlflow_tracking_uri
        return Registry(
            self.settings.resolved_tracking_uri,
            artifact_root=self.settings.artifact_root if embedded else None,
            cache=self.settings.scratch / "registry",
        )

    @property
    def scratch(self) -> Path:
        """Local working files."""
        return self.settings.scratch


def open_platform(settings: Settings) -> Platform:
    """The platform at the places that the settings name; makes its home folder.

    Raises:
        ConfigError: the home folder cannot be made or written to.
    """
    try:
        settings.scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"ENCLIP_HOME {settings.home} cannot be used: {error.strerror}.",
            remedy="Set ENCLIP_HOME to a folder you can write to.",
        ) from error
    return Platform(settings)
