"""What the service asks of a node's agent (contract section 2). Fixed verbs, each with a deadline; no shell text.

A mutating verb takes a `request_id` that makes it idempotent. An answer that breaks the schema is AgentBadResponse,
never passed on. What is refused by the agent itself (no such server, a start that failed) is AgentRefused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from labyard.core.adapter import AdapterError


class AgentError(AdapterError):
    """`code` is the contract's, of section 4.3."""

    code = "INTERNAL"


class AgentUnreachable(AgentError):
    code = "AGENT_UNREACHABLE"


class AgentTimeout(AgentError):
    code = "AGENT_TIMEOUT"


class AgentBadResponse(AgentError):
    code = "AGENT_BAD_RESPONSE"


class AgentRefused(AgentError):
    """The agent could not do it: `code` names why, as the agent says it; `log` is what the daemons said last."""

    def __init__(self, message: str, code: str = "INTERNAL", log: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.log = log


@dataclass(frozen=True)
class Usage:
    """What was measured over the last interval. Percent; networks in bytes per second. None: not measured.

    `at` is an aware time, as text; `detail` says more, with the reason for each None.
    """

    at: str
    cpu_percent: float | None
    memory_percent: float | None
    disk_percent: float | None
    network_in: float | None
    network_out: float | None
    source: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerSpec:
    """One RDP server as the agent shall make it. Memory and disk MiB, bandwidth Mbps, cpu cores.

    `fallback`: with another desktop where the one that is asked for is not installed.
    """

    server_id: str
    port: int
    account: str
    password: str = field(repr=False)
    configuration: Mapping[str, Any]
    cpu_limit: float
    memory_limit: int
    disk_limit: int
    network_bandwidth: int
    fallback: bool = True


@dataclass(frozen=True)
class ServerStatus:
    """`xrdp`, `sesman` are systemd's ActiveState; `xorg` is active, inactive or failed."""

    server_id: str
    xrdp: str
    sesman: str
    xorg: str
    since: str | None
    main_pid: int | None
    restarts: int
    display: int | None
    desktop_effective: str | None
    certificate_sha256: str | None
    enforcement: Mapping[str, Any]


@dataclass(frozen=True)
class RecordSpec:
    """What a recorder shall capture. `target` is {kind: display, display, server_id} of this node, or {kind: external,
    host, port, username, domain, password, use_tls, ignore_cert}. `slice_seconds` is the length of a segment."""

    session_id: str
    target: Mapping[str, Any] = field(repr=False)
    frame_rate: int
    width: int
    height: int
    quality: str
    bitrate: int | None
    cursor: bool
    audio: bool
    slice_seconds: float


@dataclass(frozen=True)
class RecordStatus:
    """`state` is starting, recording, paused, stopped or failed. Frames are counted from the first one captured.
    `cpu_seconds` and `memory_bytes` are what the recorder takes itself."""

    session_id: str
    state: str
    display: int | None
    width: int | None
    height: int | None
    first_frame_at: str | None
    last_frame_at: str | None
    frames: int
    dropped_frames: int
    segments: int
    gaps: tuple[Mapping[str, Any], ...]
    audio: Mapping[str, Any] | None
    error: str | None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Segment:
    """One self-contained slice of video, as the recorder closed it. `sequence` counts from 1, without a hole."""

    session_id: str
    sequence: int
    started_at: str
    duration_ms: int
    width: int
    height: int
    frame_count: int
    data: bytes = field(repr=False)


class AgentClient(Protocol):
    """Calls one node's agent. Every method raises AgentError."""

    def ping(self) -> Mapping[str, Any]:
        """version, node_id, public_key (Ed25519, base64)."""

    def hardware(self) -> Mapping[str, Any]:
        """What the machine has, in the form of `hardware_info` (contract 7.2)."""

    def metrics(self) -> Usage:
        """What the node uses now."""

    def sign(self, payload: bytes) -> str:
        """base64 of the agent's Ed25519 signature: of a PoOT submission."""

    def server_create(self, spec: ServerSpec, request_id: str) -> ServerStatus: ...

    def server_start(self, spec: ServerSpec, request_id: str) -> ServerStatus:
        """Answers when the server negotiates on its port. AgentRefused(RDP_START_FAILED), and all is rolled back."""

    def server_stop(self, server_id: str, request_id: str) -> ServerStatus: ...

    def server_delete(self, server_id: str, request_id: str) -> None: ...

    def server_status(self, server_id: str) -> ServerStatus: ...

    def server_list(self) -> tuple[str, ...]:
        """Every server of which anything is on the node: for the reconciler."""

    def server_usage(self, server_id: str) -> Usage: ...

    def server_probe(self, server_id: str, username: str | None, password: str | None) -> Mapping[str, Any]:
        """test-connection's answer (contract 6.1); with no user name the server's own account is tried."""

    def record_start(self, spec: RecordSpec, request_id: str) -> RecordStatus:
        """Answers when the first frame was captured."""

    def record_stop(self, session_id: str, request_id: str) -> RecordStatus:
        """Flushes the open slice: all segments can be streamed afterwards."""

    def record_pause(self, session_id: str, request_id: str) -> RecordStatus: ...

    def record_resume(self, session_id: str, request_id: str) -> RecordStatus: ...

    def record_status(self, session_id: str) -> RecordStatus: ...

    def record_list(self) -> tuple[str, ...]:
        """Every session of which a recorder or a segment is on the node."""

    def segments(self, session_id: str, after: int) -> Iterator[Segment]:
        """The closed segments after a sequence number, in order, as many as there are now."""

    def segments_ack(self, session_id: str, upto: int) -> None:
        """Those up to this number are committed: the node may forget them."""


class Agents(Protocol):
    """Finds the agent of a node."""

    def of(self, node_id: str) -> AgentClient:
        """AgentUnreachable when the node has none."""

    def hosts(self, node_id: str) -> bool:
        """Whether the node has an agent at all, reachable or not."""

    def hosting(self, node_ids: Collection[str]) -> set[str]:
        """Those of the nodes that have one."""


class NoAgents:
    """A service without agents: its nodes are declared only, and host nothing."""

    def of(self, node_id: str) -> AgentClient:
        raise AgentUnreachable(f"The node {node_id} has no agent")

    def hosts(self, node_id: str) -> bool:
        return False

    def hosting(self, node_ids: Collection[str]) -> set[str]:
        return set()
