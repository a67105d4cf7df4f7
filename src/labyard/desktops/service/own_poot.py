"""PoOT that the service makes of what its nodes did: at the end of a session, and hourly (contract 8.3).

The node's agent signs it, so only nodes with an agent have such records.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict
from datetime import timedelta

import structlog
from sqlalchemy import exists, select
from sqlalchemy.exc import SQLAlchemyError

from labyard.core.adapter import AdapterError
from labyard.core.clock import as_text, now
from labyard.desktops.errors import Refusal
from labyard.desktops.models import Agent, Node, NodeStatus, Poot
from labyard.desktops.roles import Principal, Role
from labyard.desktops.schemas.poot import PootIn
from labyard.desktops.service.measures import measure
from labyard.desktops.service.node_life import NodeLife
from labyard.desktops.service.poots import Poots, signed_payload
from labyard.desktops.service.shared import Shared

log = structlog.get_logger(__name__)

INTERVAL = timedelta(hours=1)


class OwnPoot:
    def __init__(self, shared: Shared, life: NodeLife, poots: Poots) -> None:
        self._database = shared.database
        self._agents = shared.agents
        self._wanted = shared.settings.poot_auto_submit
        self._life = life
        self._poots = poots

    def submit(self, node_id: str, session_id: str | None = None, merkle_root: str | None = None) -> str | None:
        """What was measured of a node, signed by its agent: the id of the PoOT. None when it cannot be made now."""
        if not self._wanted or not self._agents.hosts(node_id):
            return None
        try:
            agent = self._agents.of(node_id)
            self._life.met(node_id, agent.ping())
            body = self._record(node_id, session_id, merkle_root)
            digest = hashlib.sha256(body.output_data.encode()).hexdigest()
            body.signature = agent.sign(signed_payload(node_id, digest, body.timestamp, body.nonce))
            return self._poots.submit(body, _as_agent(node_id)).poot_id
        except (AdapterError, Refusal, SQLAlchemyError) as error:
            # The session or the hour is over all the same: this is no reason for its caller to fail.
            log.warning("no PoOT of the service's own", node=node_id, session=session_id, error=str(error))
            return None

    def hourly(self) -> None:
        """For every active node with an agent that has had none for an hour."""
        if not self._wanted:
            return
        since = now() - INTERVAL
        recent = exists().where(
            Poot.subject_id == Node.node_id,
            Poot.submitted_by == "agent:" + Node.node_id,
            Poot.submitted_at > since,
        )
        with self._database.read() as session:
            due = session.scalars(
                select(Node.node_id)
                .join(Agent, Agent.node_id == Node.node_id)
                .where(Node.status == NodeStatus.ACTIVE, Node.started_at <= since, ~recent)
            ).all()
        for node_id in due:
            self.submit(node_id)

    def _record(self, node_id: str, session_id: str | None, merkle_root: str | None) -> PootIn:
        moment = now()
        with self._database.read() as session:
            node = session.get(Node, node_id)
            found = measure(session, [node_id], {node_id: node} if node else {}, moment)[node_id]
        content = {
            "node_id": node_id,
            "at": as_text(moment),
            "inputs": {name: str(value) for name, value in asdict(found.inputs).items()},
            "session_id": session_id,
            "merkle_root": merkle_root,
        }
        return PootIn(
            node_id=node_id,
            output_data=json.dumps(content, sort_keys=True, separators=(",", ":")),
            timestamp=as_text(moment),
            nonce=secrets.token_hex(16),
            session_id=session_id,
        )


def _as_agent(node_id: str) -> Principal:
    return Principal(f"agent:{node_id}", frozenset({Role.AGENT}), node_id=node_id)
