"""Nodes, pools, agents, usage, alerts"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("resource_type", sa.Text(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("current_value", sa.Double(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("alert_id"),
    )
    op.create_index(
        "uq_alerts_open",
        "alerts",
        ["kind", "subject_id", "resource_type"],
        unique=True,
        postgresql_where=sa.text("resolved_at IS NULL"),
    )
    op.create_table(
        "pool_assignments",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("pool_id", sa.Text(), nullable=False),
        sa.Column("assigned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "uq_pool_assignments_open",
        "pool_assignments",
        ["node_id"],
        unique=True,
        postgresql_where=sa.text("released_at IS NULL"),
    )
    op.create_table(
        "pools",
        sa.Column("pool_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("max_nodes", sa.Integer(), nullable=False),
        sa.Column("resource_limits", JSONB(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pool_id"),
    )
    op.create_table(
        "usage_samples",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cpu_percent", sa.Double(), nullable=True),
        sa.Column("memory_percent", sa.Double(), nullable=True),
        sa.Column("disk_percent", sa.Double(), nullable=True),
        sa.Column("network_in", sa.Double(), nullable=True),
        sa.Column("network_out", sa.Double(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("detail", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "subject_id", "at"),
        postgresql_partition_by="RANGE (at)",
    )
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("node_type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("pool_id", sa.Text(), nullable=False),
        sa.Column("pool_assigned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("hardware_info", JSONB(), nullable=False),
        sa.Column("hardware_observed", JSONB(), nullable=True),
        sa.Column("location", JSONB(), nullable=True),
        sa.Column("configuration", JSONB(), nullable=False),
        sa.Column("overcommit", JSONB(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("last_heartbeat", sa.DateTime(timezone=True), nullable=True),
        sa.Column("clock_skew_seconds", sa.Double(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("poot_score", sa.Numeric(precision=7, scale=4), nullable=True),
        sa.Column("score_average", sa.Numeric(precision=10, scale=6), nullable=True),
        sa.Column("penalty", sa.Numeric(precision=10, scale=6), nullable=False),
        sa.Column("penalty_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["pool_id"],
            ["pools.pool_id"],
        ),
        sa.PrimaryKeyConstraint("node_id"),
        sa.UniqueConstraint("name"),
    )
    op.create_index(op.f("ix_nodes_pool_id"), "nodes", ["pool_id"], unique=False)
    op.create_table(
        "agents",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("public_key", sa.Text(), nullable=True),
        sa.Column("certificate_sha256", sa.Text(), nullable=True),
        sa.Column("enrolment_sha256", sa.Text(), nullable=True),
        sa.Column("enrolment_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node_id"),
        sa.UniqueConstraint("certificate_sha256"),
    )
    op.create_table(
        "heartbeats",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("slot", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node_id", "slot"),
    )
    # What comes before its month has a partition of its own.
    op.execute("CREATE TABLE usage_samples_default PARTITION OF usage_samples DEFAULT")


def downgrade() -> None:
    for table in ("heartbeats", "agents", "nodes", "usage_samples", "pools", "pool_assignments", "alerts"):
        op.drop_table(table)
