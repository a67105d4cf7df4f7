"""PoOT that the service makes of its nodes' work, signed by their agents (contract 8.3)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, update

from labyard.core.clock import now
from labyard.desktops.adapters.agent import AgentUnreachable
from labyard.desktops.models import DeskSession, Node, Poot
from labyard.desktops.service import Desktops
from labyard.desktops.settings import Settings

from .conftest import Caller
from .fake_agent import FakeAgent, FakeAgents


class SigningAgent(FakeAgent):
    def __init__(self) -> None:
        super().__init__()
        self.key = Ed25519PrivateKey.generate()

    def ping(self) -> Mapping[str, Any]:
        public = base64.b64encode(self.key.public_key().public_bytes_raw()).decode()
        return {**super().ping(), "public_key": public}

    def sign(self, payload: bytes) -> str:
        return base64.b64encode(self.key.sign(payload)).decode()


@pytest.fixture
def agents() -> FakeAgents:
    found = FakeAgents()
    found.agent = SigningAgent()
    return found


@pytest.fixture
def settings(settings: Settings, tmp_path: Any) -> Settings:
    return Settings.model_validate(settings.model_dump() | {"agent_socket": tmp_path / "agent.sock"})


@pytest.fixture
def service(service: Desktops) -> Desktops:
    """Without its background work, which submits, too."""
    service.watch.stop()
    return service


def test_at_the_end_of_a_session(operator: Caller, service: Desktops) -> None:
    with service.database.transaction() as session:
        session.add(
            DeskSession(
                session_id="sess-1", owner="o", name="n", node_id="node_local", rdp_config={}, recording_config={},
                storage_config={}, meta={}, provisioning={},
            )
        )  # fmt: skip
    poot = service.own_poot.submit("node_local", "sess-1", "ab" * 32)
    found = operator.get(f"/poot/{poot}").json()
    assert found["flags"] == [] and found["session_id"] == "sess-1" and found["node_registered"]
    assert operator.post(f"/poot/{poot}/validate").json()["is_valid"]


def test_hourly_while_it_is_active(service: Desktops) -> None:
    def count() -> int:
        with service.database.read() as session:
            return len(session.scalars(select(Poot)).all())

    service.own_poot.hourly()
    assert count() == 0, "it has not been active for an hour"
    with service.database.transaction() as session:
        session.execute(update(Node).values(started_at=now() - timedelta(hours=2)))
    service.own_poot.hourly()
    service.own_poot.hourly()
    assert count() == 1


def test_an_agent_that_is_away_fails_nobody(service: Desktops, agents: FakeAgents) -> None:
    agents.agent.fail["ping"] = AgentUnreachable("gone")
    assert service.own_poot.submit("node_local") is None
    assert service.own_poot.submit("a node without an agent") is None
