"""PostgreSQL's advisory locks of this service: one number for each, in one place.

Each is held until the transaction ends. The one of the audit log comes last in every transaction, so that who holds it
waits for nobody.
"""

from __future__ import annotations

from sqlalchemy import TextClause, text

AUDIT = 20257701
WATCH = 20257702  # of a connection, not of a transaction
LEDGER = 20257703
WITHDRAWALS = 20257704
PORTS = 20257705
PARTITIONS = 20257706


def hold(number: int) -> TextClause:
    """Waits for the lock."""
    return text(f"SELECT pg_advisory_xact_lock({number})")
