"""First tables"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "vm_templates",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("cpu_count", sa.Integer(), nullable=False),
        sa.Column("ram_amount", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "vms",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("template_name", sa.String(length=128), nullable=True),
        sa.Column("state", sa.String(length=20), server_default="stopped", nullable=False),
        sa.Column("local_ip", sa.String(length=45), nullable=True),
        sa.Column("domain_uuid", sa.String(length=36), nullable=True),
        sa.Column("mac", sa.String(length=17), nullable=True),
        sa.Column("last_ip", sa.String(length=45), nullable=True),
        sa.Column("desired_state", sa.String(length=20), nullable=True),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("network_mode", sa.String(length=20), nullable=True),
        sa.Column("created_at", sa.String(length=40), nullable=True),
        sa.ForeignKeyConstraint(["template_name"], ["vm_templates.name"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("mac"),
    )
    op.create_table(
        "disks",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("mount_point", sa.String(length=255), nullable=True),
        sa.Column("state", sa.String(length=20), server_default="available", nullable=False),
        sa.Column("vm_id", sa.String(length=255), nullable=True),
        sa.Column("target", sa.String(length=10), nullable=True),
        sa.Column("created_at", sa.String(length=40), nullable=True),
        sa.ForeignKeyConstraint(["vm_id"], ["vms.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("disks", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_disks_vm_id"), ["vm_id"], unique=False)
    op.create_table(
        "vm_metadata",
        sa.Column("vm_id", sa.String(length=255), nullable=False),
        sa.Column("hostname", sa.String(length=253), nullable=True),
        sa.Column("user_data", sa.Text(), nullable=True),
        sa.Column("ssh_keys", sa.Text(), nullable=True),
        sa.Column("created_at", sa.String(length=40), server_default=sa.text("CURRENT_TIMESTAMP"), nullable=True),
        sa.Column("updated_at", sa.String(length=40), server_default=sa.text("CURRENT_TIMESTAMP"), nullable=True),
        sa.ForeignKeyConstraint(["vm_id"], ["vms.id"]),
        sa.PrimaryKeyConstraint("vm_id"),
    )
    op.create_table(
        "leases",
        sa.Column("ip", sa.String(length=45), nullable=False),
        sa.Column("mac", sa.String(length=17), nullable=False),
        sa.Column("vm_id", sa.String(length=255), nullable=False),
        sa.Column("acquired_at", sa.String(length=40), nullable=True),
        sa.ForeignKeyConstraint(["vm_id"], ["vms.id"]),
        sa.PrimaryKeyConstraint("ip"),
        sa.UniqueConstraint("mac"),
        sa.UniqueConstraint("vm_id"),
    )


def downgrade() -> None:
    for table in ("leases", "vm_metadata", "disks", "vms", "vm_templates"):
        op.drop_table(table)
