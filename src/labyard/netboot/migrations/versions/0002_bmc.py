"""BMCs of machines, and what sessions do with them"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.add_column(sa.Column("bmc_url", sa.String(length=500), nullable=True))
        batch_op.add_column(sa.Column("bmc_username", sa.String(length=100), nullable=True))
        batch_op.add_column(sa.Column("bmc_password", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("bmc_verify_tls", sa.Boolean(), nullable=False, server_default=sa.true()))
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("power", sa.String(length=10), nullable=False, server_default="none"))
        batch_op.add_column(sa.Column("power_off", sa.Boolean(), nullable=False, server_default=sa.false()))
