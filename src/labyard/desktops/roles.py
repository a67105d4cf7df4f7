"""Roles, and which of them may do what (contract 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    SESSION_VIEWER = "session_viewer"
    SESSION_OPERATOR = "session_operator"
    SESSION_MANAGER = "session_manager"
    RDP_USER = "rdp_user"
    RDP_OPERATOR = "rdp_operator"
    NODE_VIEWER = "node_viewer"
    NODE_OPERATOR = "node_operator"
    PAYOUT_OFFICER = "payout_officer"
    AUDITOR = "auditor"
    ADMIN = "admin"
    AGENT = "agent"  # of a client certificate, never of a token


Roles = frozenset[Role]

# Those that a token or a user may have.
GIVEN = {str(role) for role in Role} - {str(Role.AGENT)}

ADMIN: Roles = frozenset({Role.ADMIN})
AUDIT: Roles = ADMIN | {Role.AUDITOR}

SESSION_MANAGE: Roles = ADMIN | {Role.SESSION_MANAGER}
SESSION_OPERATE: Roles = SESSION_MANAGE | {Role.SESSION_OPERATOR}
SESSION_SEE_ALL: Roles = SESSION_MANAGE | {Role.AUDITOR}
SESSION_READ: Roles = SESSION_OPERATE | SESSION_SEE_ALL | {Role.SESSION_VIEWER}

RDP_OPERATE: Roles = ADMIN | {Role.RDP_OPERATOR}
RDP_USE: Roles = RDP_OPERATE | {Role.RDP_USER}
RDP_SEE_ALL: Roles = RDP_OPERATE | {Role.AUDITOR}
RDP_READ: Roles = RDP_USE | RDP_SEE_ALL

NODE_OPERATE: Roles = ADMIN | {Role.NODE_OPERATOR}
NODE_READ: Roles = NODE_OPERATE | {Role.NODE_VIEWER, Role.AUDITOR}
# An agent does these for its own node only: the service looks at `Principal.node_id`.
NODE_REPORT: Roles = NODE_OPERATE | {Role.AGENT}

PAYOUT_READ: Roles = NODE_READ | {Role.PAYOUT_OFFICER}
WITHDRAW: Roles = ADMIN | {Role.PAYOUT_OFFICER}
WITHDRAWAL_READ: Roles = WITHDRAW | {Role.AUDITOR}


@dataclass(frozen=True)
class Principal:
    """Who asks. `jti` is the token's; `node_id` is set for an agent, which has no token."""

    subject: str
    roles: Roles
    jti: str = ""
    node_id: str | None = None

    def may(self, roles: Roles) -> bool:
        return not self.roles.isdisjoint(roles)
