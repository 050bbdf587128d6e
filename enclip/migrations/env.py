"""Alembic's entry: runs the migrations on the connection that `enclip.database` hands over.

To write a new one: `alembic -c enclip/migrations/alembic.ini` is not needed; call
`alembic.command.revision(config, autogenerate=True)` with the same `script_location` and connection.
"""

import importlib

from alembic import context

from enclip.database import Base

# Tables live where they are used; importing their homes fills the metadata that is compared.
for home in ("enclip.catalog.tables", "enclip.ledger", "enclip.judgements", "enclip.shadow"):
    importlib.import_module(home)

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes columns by copying the table
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
