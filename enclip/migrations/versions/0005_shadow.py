"""What shadow queries have shown of a challenger beside a champion.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shadow_totals",
        sa.Column("champion", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("challenger", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("num_compared", sa.Integer(), nullable=False),
        sa.Column("num_failed", sa.Integer(), nullable=False),
        sa.Column("overlap", sa.Float(), nullable=False),
        sa.Column("champion_s", sa.Float(), nullable=False),
        sa.Column("challenger_s", sa.Float(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("champion", "challenger", name=op.f("pk_shadow_totals")),
    )


def downgrade() -> None:
    op.drop_table("shadow_totals")
