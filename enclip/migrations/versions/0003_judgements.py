"""Judgements: which of two releases answers better, and which results are good.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "preferences",
        sa.Column("by", sa.String(100), nullable=False),
        sa.Column("query_key", sa.String(64), nullable=False),
        sa.Column("older_release", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("newer_release", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("like_id", sa.String(200), nullable=False),
        sa.Column("winner", sa.Integer(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("by", "query_key", "older_release", "newer_release", name=op.f("pk_preferences")),
    )
    op.create_table(
        "judged_results",
        sa.Column("by", sa.String(100), nullable=False),
        sa.Column("query_key", sa.String(64), nullable=False),
        sa.Column("product_id", sa.String(200), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("like_id", sa.String(200), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("is_good", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("by", "query_key", "product_id", name=op.f("pk_judged_results")),
    )


def downgrade() -> None:
    op.drop_table("judged_results")
    op.drop_table("preferences")
