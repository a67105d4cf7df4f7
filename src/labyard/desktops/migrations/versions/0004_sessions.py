"""Sessions, chunks, keys, ledger"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"


# As migration 0001 makes it: module names that begin with a digit cannot be imported.
APPEND_ONLY = """
REVOKE UPDATE, DELETE, TRUNCATE ON {0} FROM PUBLIC, CURRENT_USER;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {0}
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""


def upgrade() -> None:
    op.create_table(
        "data_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("wrapped", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key_id"),
        sa.UniqueConstraint("session_id"),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("block_height", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("transaction_hash", sa.Text(), nullable=False),
        sa.Column("prev_hash", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("merkle_root", sa.Text(), nullable=False),
        sa.Column("chunk_count", sa.Integer(), nullable=False),
        sa.Column("total_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("manifest_sha256", sa.Text(), nullable=False),
        sa.Column("ledger_key_id", sa.Text(), nullable=False),
        sa.Column("entry_version", sa.Integer(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("block_height"),
        sa.UniqueConstraint("kind", "subject_id"),
        sa.UniqueConstraint("transaction_hash"),
    )
    op.create_table(
        "ledger_heads",
        sa.Column("tree_size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root_hash", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.Text(), nullable=False),
        sa.Column("ledger_key_id", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tree_size"),
    )
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("rdp_config", JSONB(), nullable=False),
        sa.Column("password_sealed", sa.Text(), nullable=True),
        sa.Column("recording_config", JSONB(), nullable=False),
        sa.Column("storage_config", JSONB(), nullable=False),
        sa.Column("metadata", JSONB(), nullable=False),
        sa.Column("provisioning", JSONB(), nullable=False),
        sa.Column("binding", JSONB(), nullable=True),
        sa.Column("server_id", sa.Text(), nullable=True),
        sa.Column("node_id", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stop_reason", sa.Text(), nullable=True),
        sa.Column("gaps", JSONB(), nullable=False),
        sa.Column("pauses", JSONB(), nullable=False),
        sa.Column("audio", JSONB(), nullable=True),
        sa.Column("frames", sa.BigInteger(), nullable=False),
        sa.Column("dropped_frames", sa.BigInteger(), nullable=False),
        sa.Column("degraded", sa.Boolean(), nullable=False),
        sa.Column("anchoring_status", sa.Text(), nullable=False),
        sa.Column("manifest", JSONB(), nullable=True),
        sa.Column("final_statistics", JSONB(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["server_id"], ["rdp_servers.server_id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("session_id"),
    )
    op.create_index(op.f("ix_sessions_node_id"), "sessions", ["node_id"], unique=False)
    op.create_index(op.f("ix_sessions_owner"), "sessions", ["owner"], unique=False)
    op.create_index(op.f("ix_sessions_server_id"), "sessions", ["server_id"], unique=False)
    op.create_index(op.f("ix_sessions_status"), "sessions", ["status"], unique=False)
    op.create_table(
        "session_chunks",
        sa.Column("chunk_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("sequence_number", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("compressed_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("duration_seconds", sa.Double(), nullable=False),
        sa.Column("frame_count", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("merkle_hash", sa.Text(), nullable=False),
        sa.Column("encryption_key_id", sa.Text(), nullable=True),
        sa.Column("nonce", sa.Text(), nullable=True),
        sa.Column("processing_time_ms", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("processed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("chunk_id"),
        sa.UniqueConstraint("session_id", "sequence_number"),
    )
    op.create_index(op.f("ix_session_chunks_checked_at"), "session_chunks", ["checked_at"], unique=False)
    op.create_index(
        "uq_session_chunks_nonce",
        "session_chunks",
        ["encryption_key_id", "nonce"],
        unique=True,
        postgresql_where=sa.text("encryption_key_id IS NOT NULL"),
    )
    op.create_table(
        "session_errors",
        sa.Column("error_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recovered", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("error_id"),
    )
    op.create_index(op.f("ix_session_errors_session_id"), "session_errors", ["session_id"], unique=False)
    op.create_table(
        "session_stages",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("stage_name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("last_processed", sa.DateTime(timezone=True), nullable=True),
        sa.Column("items_processed", sa.BigInteger(), nullable=False),
        sa.Column("errors_count", sa.Integer(), nullable=False),
        sa.Column("processing_time_ms", sa.Double(), nullable=False),
        sa.Column("cpu_time_ms", sa.Double(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("retry_count", sa.Integer(), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("session_id", "stage_name"),
    )
    for table in ("ledger_entries", "ledger_heads"):
        op.execute(APPEND_ONLY.format(table))


def downgrade() -> None:
    for table in (
        "session_stages",
        "session_errors",
        "session_chunks",
        "sessions",
        "ledger_heads",
        "ledger_entries",
        "data_keys",
    ):
        op.drop_table(table)
