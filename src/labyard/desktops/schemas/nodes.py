"""Requests and answers of nodes and pools (contract section 7)."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from labyard.desktops.fields import Answer, Body, Line, Moment, Name, Prose, TimeIn
from labyard.desktops.names import LOCAL_NODE

# Words of /nodes/{id}, where an id would never be reached, and the service's own host.
RESERVED = ("statistics", "pools", LOCAL_NODE)
NodeType = Literal["worker", "validator", "storage", "compute"]
GIB = 2**30


class Cpu(Body):
    cores: int = Field(ge=1)
    frequency_mhz: float = Field(ge=100, le=10000)
    architecture: Literal["x86_64", "aarch64", "armv7l", "riscv64", "ppc64le", "s390x"]


class Memory(Body):
    total_bytes: int = Field(ge=GIB)
    type: Literal["DDR3", "DDR4", "DDR5", "LPDDR4", "LPDDR5", "ECC", "HBM"]


class Storage(Body):
    total_bytes: int = Field(ge=10 * GIB)
    type: Literal["SSD", "HDD", "NVMe", "eMMC"]
    interface: Literal["SATA", "SAS", "NVMe", "PCIe", "USB", "virtio"] | None = None


class Gpu(Body):
    model: Line = Field(min_length=1, max_length=255)
    memory_bytes: int = Field(ge=1, le=2**63 - 1)


class Interface(Body):
    interface: Line = Field(min_length=1, max_length=64)
    speed_mbps: int = Field(ge=1, le=10**7)
    mac_address: str | None = Field(default=None, pattern=r"^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$")


class Hardware(Body):
    """Upper limits are settings: `Nodes` looks at them."""

    cpu: Cpu
    memory: Memory
    storage: Storage
    gpu: Gpu | None = None
    network: list[Interface] | None = Field(default=None, max_length=64)


class Location(Body):
    country: str = Field(pattern=r"^[A-Z]{2}$")
    region: Line = Field(min_length=1, max_length=100)
    city: Line | None = Field(default=None, max_length=100)
    timezone: Line | None = Field(default=None, max_length=64)


class Limits(Body):
    cpu_percent: float | None = Field(default=None, gt=0, le=100)
    memory_bytes: int | None = Field(default=None, ge=1, le=2**63 - 1)
    disk_bytes: int | None = Field(default=None, ge=1, le=2**63 - 1)
    network_mbps: int | None = Field(default=None, ge=1, le=10**7)


class NodeConfiguration(Body):
    max_sessions: int = Field(default=10, ge=1, le=1000)
    resource_limits: Limits | None = None
    agent_address: str | None = Field(default=None, max_length=255)

    @field_validator("agent_address")
    @classmethod
    def _is_https(cls, address: str | None) -> str | None:
        if address is None:
            return None
        parts = urlsplit(address)
        plain = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username)
        if parts.scheme != "https" or not parts.hostname or not plain:
            raise ValueError("must be https://host:port")
        return address


class NodeIn(Body):
    node_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    name: Name = Field(min_length=3, max_length=100)
    node_type: NodeType
    hardware_info: Hardware
    location: Location | None = None
    configuration: NodeConfiguration = NodeConfiguration()
    initial_pool_id: Line = Field(min_length=1, max_length=64)

    @field_validator("node_id")
    @classmethod
    def _is_reachable(cls, node_id: str | None) -> str | None:
        if node_id in RESERVED:
            raise ValueError("is taken by the service; choose another")
        return node_id


class HeartbeatIn(Body):
    timestamp: TimeIn


class PoolChoice(Body):
    pool_id: Line = Field(min_length=1, max_length=64)


class PoolChange(Body):
    name: Name = Field(min_length=1, max_length=100)
    description: Prose = Field(default="", max_length=500)
    max_nodes: int = Field(default=100, ge=1, le=1000)
    resource_limits: Limits | None = None


class PoolIn(PoolChange):
    pool_id: str = Field(pattern=r"^pool_[A-Za-z0-9_-]{1,59}$")


class PagedOut(Answer):
    total: int
    limit: int
    offset: int
    has_next: bool
    has_previous: bool


class AgentOut(Answer):
    address: str
    version: str | None
    enrolled_at: Moment | None
    last_seen: Moment | None


class NodeOut(Answer):
    node_id: str
    name: str
    node_type: str
    status: str
    pool_id: str
    hardware_info: dict[str, Any]
    hardware_observed: dict[str, Any] | None
    hardware_mismatch: bool
    location: dict[str, Any] | None
    configuration: dict[str, Any]
    last_heartbeat: Moment | None
    clock_skew_seconds: float | None
    reputation: float
    poot_score: float | None
    agent: AgentOut | None
    started_at: Moment | None
    stopped_at: Moment | None
    created_at: Moment
    updated_at: Moment


class NodesOut(PagedOut):
    nodes: list[NodeOut]


class NodeStarted(Answer):
    node_id: str
    status: str
    started_at: Moment


class NodeStopped(Answer):
    node_id: str
    status: str
    stopped_at: Moment


class HeartbeatOut(Answer):
    node_id: str
    status: str
    last_heartbeat: Moment
    clock_skew_seconds: float


class NodePoolOut(Answer):
    node_id: str
    pool_id: str
    node_count: int
    assigned_at: Moment


class UsageOut(Answer):
    cpu_percent: float | None
    memory_percent: float | None
    disk_percent: float | None
    network_in: float | None
    network_out: float | None
    timestamp: Moment
    source: str
    shared: bool
    detail: dict[str, Any]


class NodeUsageOut(UsageOut):
    node_id: str


class UsageHistoryOut(Answer):
    node_id: str
    usage_history: list[UsageOut]


class AlertOut(Answer):
    alert_id: str
    severity: str
    resource_type: str
    resource_id: str
    threshold: float
    current_value: float
    message: str
    created_at: Moment
    resolved_at: Moment | None
    resolved: bool


class AlertsOut(Answer):
    active_alerts: list[AlertOut]
    alert_history: list[AlertOut]


class PoolOut(Answer):
    pool_id: str
    name: str
    description: str
    max_nodes: int
    resource_limits: dict[str, Any] | None
    node_count: int
    created_at: Moment
    updated_at: Moment


class PoolsOut(PagedOut):
    pools: list[PoolOut]


class Sums(Answer):
    total_nodes: int
    active_nodes: int
    inactive_nodes: int
    total_cpu_cores: int
    total_memory_bytes: int
    total_storage_bytes: int


class PoolStatisticsOut(Sums):
    pool_id: str
    average_reputation: float | None


class NodeStatisticsOut(Sums):
    total_pools: int


class EnrolIn(Body):
    token: str = Field(min_length=1, max_length=128)
    # PKCS 10, in PEM.
    request: str = Field(min_length=1, max_length=16384)


class EnrolledOut(Answer):
    node_id: str
    certificate: str
    authority: str


class EnrolmentOut(Answer):
    node_id: str
    enrolment_token: str
    expires_at: Moment
