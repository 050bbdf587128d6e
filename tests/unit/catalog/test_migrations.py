"""The migrations build exactly the tables that the code declares, on both databases."""

import importlib
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

import enclip.migrations
from enclip.catalog.store import CatalogStore
from enclip.database import Base, open_database
from enclip.errors import ConfigError

for home in ("enclip.ledger", "enclip.judgements", "enclip.shadow"):
    importlib.import_module(home)


def test_migrated_and_declared_schema_are_the_same(store: CatalogStore) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_migration_can_be_undone(store: CatalogStore) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(enclip.migrations.__file__).parent))
    with store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert set(inspect(store.engine).get_table_names()) <= {"alembic_version"}


def test_opening_again_changes_nothing(store: CatalogStore) -> None:
    url = store.engine.url.render_as_string(hide_password=False)
    again = open_database(url)
    assert set(inspect(again).get_table_names()) >= {"products", "pictures", "product_keys", "alembic_version"}
    again.dispose()


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg2//ann:secret@host/db", "postgresql://ann:secret@host:port/db", "secret"]
)
def test_what_is_no_url_is_one_error_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="URL") as caught:
        open_database(url)
    assert "secret" not in f"{caught.value.what} {caught.value.remedy}"
