"""PoOT, payouts, withdrawals"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "account_entries",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("transfer_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_account_entries_account"), "account_entries", ["account"], unique=False)
    op.create_index(op.f("ix_account_entries_reference"), "account_entries", ["reference"], unique=False)
    op.create_index(op.f("ix_account_entries_transfer_id"), "account_entries", ["transfer_id"], unique=False)
    op.create_table(
        "operational_records",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("session_hours", sa.Double(), nullable=False),
        sa.Column("work_credits", sa.Double(), nullable=False),
        sa.Column("resource_utilization", sa.Double(), nullable=False),
        sa.Column("network_mbps", sa.Double(), nullable=False),
        sa.Column("uptime_percentage", sa.Double(), nullable=False),
        sa.Column("session_quality", sa.Double(), nullable=False),
        sa.Column("trust_score", sa.Double(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("evidence_sha256", sa.Text(), nullable=True),
        sa.Column("imported_by", sa.Text(), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
    )
    op.create_table(
        "poot_nonces",
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=False),
        sa.Column("poot_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subject_id", "nonce"),
    )
    op.create_index(op.f("ix_poot_nonces_expires_at"), "poot_nonces", ["expires_at"], unique=False)
    op.create_table(
        "poots",
        sa.Column("poot_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("node_registered", sa.Boolean(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("output_hash", sa.Text(), nullable=False),
        sa.Column("output_bytes", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("flags", JSONB(), nullable=False),
        sa.Column("submitted_by", sa.Text(), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("validated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("validation_time_ms", sa.Double(), nullable=True),
        sa.Column("score", sa.Numeric(precision=7, scale=4), nullable=True),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("factors", JSONB(), nullable=True),
        sa.Column("inputs", JSONB(), nullable=True),
        sa.Column("weights", JSONB(), nullable=True),
        sa.Column("metrics_source", sa.Text(), nullable=True),
        sa.Column("errors", JSONB(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("poot_id"),
    )
    op.create_index("ix_poots_newest", "poots", ["submitted_at", "poot_id"], unique=False)
    op.create_index(op.f("ix_poots_output_hash"), "poots", ["output_hash"], unique=False)
    op.create_index(op.f("ix_poots_session_id"), "poots", ["session_id"], unique=False)
    op.create_index(op.f("ix_poots_status"), "poots", ["status"], unique=False)
    op.create_index("ix_poots_subject_validated", "poots", ["subject_id", "validated_at"], unique=False)
    op.create_table(
        "withdrawals",
        sa.Column("withdrawal_id", sa.Text(), nullable=False),
        sa.Column("wallet_address", sa.Text(), nullable=False),
        sa.Column("gross_amount", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("fee_amount", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("net_amount", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("transaction_hash", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("processed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("withdrawal_id"),
    )
    op.create_index("ix_withdrawals_day", "withdrawals", ["wallet_address", "created_at"], unique=False)
    op.create_table(
        "payouts",
        sa.Column("payout_id", sa.Text(), nullable=False),
        sa.Column("poot_id", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("wallet_address", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("node_registered", sa.Boolean(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("transaction_hash", sa.Text(), nullable=True),
        sa.Column("withdrawal_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("processed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["poot_id"],
            ["poots.poot_id"],
        ),
        sa.ForeignKeyConstraint(["withdrawal_id"], ["withdrawals.withdrawal_id"], ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("payout_id"),
        sa.UniqueConstraint("poot_id"),
    )
    op.create_index(op.f("ix_payouts_batch_id"), "payouts", ["batch_id"], unique=False)
    op.create_index(op.f("ix_payouts_subject_id"), "payouts", ["subject_id"], unique=False)
    op.create_index(op.f("ix_payouts_wallet_address"), "payouts", ["wallet_address"], unique=False)
    op.create_index(op.f("ix_payouts_withdrawal_id"), "payouts", ["withdrawal_id"], unique=False)


def downgrade() -> None:
    for table in ("payouts", "withdrawals", "poots", "poot_nonces", "operational_records", "account_entries"):
        op.drop_table(table)
