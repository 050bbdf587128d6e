"""Alembic migrations of every table; `enclip.database.open_database` applies them on first use."""
