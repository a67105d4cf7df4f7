"""How an agent gets its certificate: a token, once and within 15 minutes (contract section 2)."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops import audit
from labyard.desktops.authority import Authority, fingerprint
from labyard.desktops.errors import Refusal, invalid
from labyard.desktops.models import Agent

GOOD_FOR = timedelta(minutes=15)


class Enrolment:
    def __init__(self, database: Database, authority: Authority) -> None:
        self._database = database
        self._authority = authority

    def offer(self, node_id: str) -> tuple[str, datetime]:
        """A token for the node's agent, and when it ends. 409 for a node without an agent elsewhere."""
        token, until = secrets.token_urlsafe(32), now() + GOOD_FOR
        with self._database.transaction() as session:
            agent = session.get(Agent, node_id, with_for_update=True)
            if agent is None or not agent.address.startswith("https://"):
                raise Refusal("NODE_STATE", f"The node {node_id} was registered without configuration.agent_address")
            agent.enrolment_sha256, agent.enrolment_expires_at = _hashed(token), until
            audit.record(session, "node", "enrolment", resource=("node", node_id))
        return token, until

    def take(self, token: str, request_pem: str) -> tuple[str, str, str]:
        """Node id, certificate and authority, in PEM. 401 for a token that is unknown, used or too old."""
        with self._database.transaction() as session:
            query = select(Agent).where(Agent.enrolment_sha256 == _hashed(token)).with_for_update()
            agent = session.scalar(query)
            if agent is None or agent.enrolment_expires_at is None or agent.enrolment_expires_at <= now():
                raise Refusal("AUTH_INVALID", "The enrolment token is unknown, was used, or is too old")
            try:
                host = urlsplit(agent.address).hostname or ""
                certificate = self._authority.sign(request_pem, agent.node_id, host)
            except ValueError:
                raise invalid("request", "is no certificate signing request in PEM") from None
            agent.certificate_sha256 = fingerprint(certificate.public_bytes(Encoding.DER))
            agent.enrolment_sha256 = agent.enrolment_expires_at = None
            agent.enrolled_at = now()
            audit.record(session, "node", "enrolled", resource=("node", agent.node_id))
            return agent.node_id, certificate.public_bytes(Encoding.PEM).decode(), self._authority.pem

    def node_of(self, certificate: bytes) -> str | None:
        """Whose certificate it is, in DER; None when it was replaced, or its node is gone."""
        with self._database.read() as session:
            return session.scalar(select(Agent.node_id).where(Agent.certificate_sha256 == fingerprint(certificate)))


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
