"""RDP servers"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "rdp_probes",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("server_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered", sa.Boolean(), nullable=False),
        sa.Column("latency_ms", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_rdp_probes_at"), "rdp_probes", ["at"], unique=False)
    op.create_index(op.f("ix_rdp_probes_node_id"), "rdp_probes", ["node_id"], unique=False)
    op.create_table(
        "rdp_servers",
        sa.Column("server_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("configuration", JSONB(), nullable=False),
        sa.Column("configuration_applied", JSONB(), nullable=True),
        sa.Column("cpu_limit", sa.Numeric(precision=4, scale=2), nullable=False),
        sa.Column("memory_limit", sa.Integer(), nullable=False),
        sa.Column("disk_limit", sa.Integer(), nullable=False),
        sa.Column("network_bandwidth", sa.Integer(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("password_sealed", sa.Text(), nullable=False),
        sa.Column("certificate_sha256", sa.Text(), nullable=True),
        sa.Column("display", sa.Integer(), nullable=True),
        sa.Column("desktop_effective", sa.Text(), nullable=True),
        sa.Column("enforcement", JSONB(), nullable=True),
        sa.Column("last_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["node_id"],
            ["nodes.node_id"],
        ),
        sa.PrimaryKeyConstraint("server_id"),
    )
    op.create_index(op.f("ix_rdp_servers_node_id"), "rdp_servers", ["node_id"], unique=False)
    op.create_index(op.f("ix_rdp_servers_owner"), "rdp_servers", ["owner"], unique=False)
    op.create_index(op.f("ix_rdp_servers_user_id"), "rdp_servers", ["user_id"], unique=False)
    op.create_table(
        "port_leases",
        sa.Column("port", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("server_id", sa.Text(), nullable=False),
        sa.Column("leased_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["node_id"],
            ["nodes.node_id"],
        ),
        sa.ForeignKeyConstraint(["server_id"], ["rdp_servers.server_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("port"),
        sa.UniqueConstraint("server_id"),
    )
    op.create_table(
        "rdp_connections",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("server_id", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("connected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disconnected_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["server_id"], ["rdp_servers.server_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_rdp_connections_server_id"), "rdp_connections", ["server_id"], unique=False)


def downgrade() -> None:
    for table in ("rdp_connections", "port_leases", "rdp_servers", "rdp_probes"):
        op.drop_table(table)
