"""The tables (contract section 10); migrations/ makes them."""

from labyard.desktops.models.access import AuditEntry, IdempotencyKey, RefreshFamily, TokenRevocation, User
from labyard.desktops.models.base import MONEY, Base
from labyard.desktops.models.nodes import (
    Agent,
    Alert,
    Heartbeat,
    Node,
    NodeStatus,
    Pool,
    PoolAssignment,
    UsageSample,
)
from labyard.desktops.models.poot import (
    AccountEntry,
    OperationalRecord,
    Payout,
    PayoutStatus,
    Poot,
    PootNonce,
    PootStatus,
    Withdrawal,
)
from labyard.desktops.models.rdp import PortLease, RdpConnection, RdpProbe, RdpServer, RdpStatus
from labyard.desktops.models.sessions import (
    DataKey,
    DeskSession,
    LedgerEntry,
    LedgerHead,
    SessionChunk,
    SessionError,
    SessionStage,
    SessionStatus,
)

__all__ = [
    "MONEY",
    "AccountEntry",
    "Agent",
    "Alert",
    "AuditEntry",
    "Base",
    "DataKey",
    "DeskSession",
    "Heartbeat",
    "IdempotencyKey",
    "LedgerEntry",
    "LedgerHead",
    "Node",
    "NodeStatus",
    "OperationalRecord",
    "Payout",
    "PayoutStatus",
    "Pool",
    "PoolAssignment",
    "Poot",
    "PootNonce",
    "PootStatus",
    "PortLease",
    "RdpConnection",
    "RdpProbe",
    "RdpServer",
    "RdpStatus",
    "RefreshFamily",
    "SessionChunk",
    "SessionError",
    "SessionStage",
    "SessionStatus",
    "TokenRevocation",
    "UsageSample",
    "User",
    "Withdrawal",
]
