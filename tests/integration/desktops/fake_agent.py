"""Agents in this process, for what the service does with them: they keep servers in memory, and fail when told to."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from labyard.core.clock import now
from labyard.desktops.adapters.agent import AgentRefused, AgentUnreachable, ServerSpec, ServerStatus, Usage
from labyard.testing.waiting import PATIENCE

GIB = 2**30


class FakeAgent:
    """Of one node with 4 cores and 8 GiB. `fail` maps a verb to the error that it raises."""

    def __init__(self) -> None:
        self.servers: dict[str, ServerStatus] = {}
        self.specs: dict[str, ServerSpec] = {}
        self.fail: dict[str, Exception] = {}
        self.taken_ports: set[int] = set()
        self.free_memory = 4 * GIB
        self.latency_ms = 3.0
        self.usage = Usage("", 50.0, 10.0, 1.0, 100.0, 200.0, "cgroup", {"connections": ["10.0.0.9:5000"]})
        self.gate = threading.Event()
        self.gate.set()

    def _may(self, verb: str) -> None:
        if verb in self.fail:
            raise self.fail[verb]

    def ping(self) -> Mapping[str, Any]:
        self._may("ping")
        return {"version": "1", "node_id": "node_local", "public_key": "AA=="}

    def hardware(self) -> Mapping[str, Any]:
        return {
            "cpu": {"cores": 4, "frequency_mhz": 2000, "architecture": "x86_64"},
            "memory": {"total_bytes": 8 * GIB, "type": None},
            "storage": {"total_bytes": 100 * GIB, "type": "SSD"},
            "network": [],
        }

    def metrics(self) -> Usage:
        self._may("metrics")
        detail = {"memory": {"available_bytes": self.free_memory}, "disk": {"free_bytes": 50 * GIB}}
        return Usage(now().isoformat(), 1.0, 2.0, 3.0, 0.0, 0.0, "agent", detail)

    def server_create(self, spec: ServerSpec, request_id: str) -> ServerStatus:
        self._may("create")
        if spec.port in self.taken_ports:
            raise AgentRefused(f"port {spec.port} is taken", "PORT_TAKEN")
        return self._put(spec, "inactive", None)

    def server_start(self, spec: ServerSpec, request_id: str) -> ServerStatus:
        assert self.gate.wait(PATIENCE)
        self._may("start")
        return self._put(spec, "active", 100)

    def _put(self, spec: ServerSpec, active: str, display: int | None) -> ServerStatus:
        self.specs[spec.server_id] = spec
        status = ServerStatus(
            spec.server_id, active, active, active, "2026-01-31T12:00:00+00:00", 7 if display else None, 0, display,
            "icewm", "ab" * 32,
            {"cpu": "cgroup", "memory": "cgroup", "disk": "none", "network": "nftables", "reasons": {"disk": "no"}},
        )  # fmt: skip
        self.servers[spec.server_id] = status
        return status

    def server_stop(self, server_id: str, request_id: str) -> ServerStatus:
        self._may("stop")
        self.servers[server_id] = replace(
            self.servers[server_id], xrdp="inactive", sesman="inactive", xorg="inactive", display=None, main_pid=None
        )
        return self.servers[server_id]

    def server_delete(self, server_id: str, request_id: str) -> None:
        self._may("delete")
        self.servers.pop(server_id, None)

    def server_status(self, server_id: str) -> ServerStatus:
        self._may("status")
        if server_id not in self.servers:
            raise AgentRefused("no such server", "RDP_NOT_FOUND")
        return self.servers[server_id]

    def server_list(self) -> tuple[str, ...]:
        return tuple(self.servers)

    def server_usage(self, server_id: str) -> Usage:
        self._may("usage")
        return replace(self.usage, at=now().isoformat())

    def server_probe(self, server_id: str, username: str | None, password: str | None) -> Mapping[str, Any]:
        self._may("probe")
        right = password == self.specs[server_id].password and username == self.specs[server_id].account
        return {
            "connection_available": True,
            "port_open": True,
            "tls": {"version": "TLSv1.3", "cipher": "X", "certificate_sha256": "ab" * 32},
            "protocol": "tls",
            "login": {"attempted": username is not None, "succeeded": right, "reason": None},
            "latency_ms": self.latency_ms,
        }


class FakeAgents:
    """`node_local` has one, the others have none."""

    def __init__(self) -> None:
        self.agent = FakeAgent()

    def of(self, node_id: str) -> Any:
        if not self.hosts(node_id):
            raise AgentUnreachable(f"The node {node_id} has no agent")
        return self.agent

    def hosts(self, node_id: str) -> bool:
        return node_id == "node_local"

    def hosting(self, node_ids: Collection[str]) -> set[str]:
        return {"node_local"} & set(node_ids)
