"""Promotions, training attempts, and the names that Postgres locks.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("from_release", sa.Integer(), nullable=True),
        sa.Column("to_release", sa.Integer(), nullable=True),
        sa.Column("expected_champion", sa.Integer(), nullable=True),
        sa.Column("by", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("ensemble_key", sa.String(64), nullable=False),
        sa.Column("map_at_10", sa.Float(), nullable=True),
        sa.CheckConstraint("action IN ('promote', 'rollback', 'external')", name=op.f("ck_promotions_action")),
        sa.CheckConstraint("state IN ('pending', 'done', 'dropped')", name=op.f("ck_promotions_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
        sa.UniqueConstraint("sequence", name=op.f("uq_promotions_sequence")),
    )
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.String(200), nullable=False),
        sa.Column("snapshot", sa.String(64), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_attempts")),
    )
    op.create_index(op.f("ix_attempts_started_at"), "attempts", ["started_at"])
    op.create_table(
        "locks",
        sa.Column("name", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_locks")),
    )


def downgrade() -> None:
    op.drop_table("locks")
    op.drop_table("attempts")
    op.drop_table("promotions")
