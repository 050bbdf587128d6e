"""Catalog: products, their pictures and the keys by which they are grouped."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pictures",
        sa.Column("image_sha256", sa.String(64), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("thumb", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("image_sha256", name="pk_pictures"),
    )
    op.create_table(
        "products",
        sa.Column("product_id", sa.String(128), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("image_sha256", sa.String(64), nullable=False),
        *(
            sa.Column(attribute, sa.Text(), nullable=False)
            for attribute in (
                "gender",
                "master_category",
                "sub_category",
                "article_type",
                "base_colour",
                "season",
                "year",
                "usage",
            )
        ),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("group_id", sa.String(16), nullable=False),
        sa.Column("split", sa.String(8), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["image_sha256"], ["pictures.image_sha256"], name="fk_products_image_sha256_pictures"),
        sa.PrimaryKeyConstraint("product_id", name="pk_products"),
    )
    for column in ("source", "group_id", "withdrawn_at"):
        op.create_index(f"ix_products_{column}", "products", [column])
    op.create_table(
        "product_keys",
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("value", sa.String(32), nullable=False),
        sa.Column("product_id", sa.String(128), nullable=False),
        sa.ForeignKeyConstraint(["product_id"], ["products.product_id"], name="fk_product_keys_product_id_products"),
        sa.PrimaryKeyConstraint("kind", "value", "product_id", name="pk_product_keys"),
    )
    op.create_index("ix_product_keys_product_id", "product_keys", ["product_id"])


def downgrade() -> None:
    op.drop_table("product_keys")
    op.drop_table("products")
    op.drop_table("pictures")
