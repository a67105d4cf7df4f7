"""BMCs of machines, and what sessions do with them"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Plain, not in a batch: that would make the tables anew on SQLite, and others refer to their rows.
    op.add_column("machines", sa.Column("bmc_url", sa.String(length=500), nullable=True))
    op.add_column("machines", sa.Column("bmc_username", sa.String(length=100), nullable=True))
    op.add_column("machines", sa.Column("bmc_password", sa.Text(), nullable=True))
    op.add_column("machines", sa.Column("bmc_verify_tls", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("sessions", sa.Column("power", sa.String(length=10), nullable=False, server_default="none"))
    op.add_column("sessions", sa.Column("power_off", sa.Boolean(), nullable=False, server_default=sa.false()))
