"""The price of a product, where the catalog has one.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("products", sa.Column("price", sa.Float(53), nullable=True))


def downgrade() -> None:
    op.drop_column("products", "price")
