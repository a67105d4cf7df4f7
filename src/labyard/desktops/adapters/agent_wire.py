"""How the service and a node's agent talk: one POST for each verb, JSON both ways, checked against a schema both ways.

The schemas are the dataclasses of `agent.py`; here are the requests around them, and the frames that segments come in.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Base64Bytes, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from labyard.desktops.adapters.agent import RecordSpec, RecordStatus, Segment, ServerSpec, ServerStatus, Usage

A = TypeVar("A")
R = TypeVar("R")

MAX_HEADER = 64 * 1024  # bytes, of a segment's header
MAX_SEGMENT = 256 * 2**20  # bytes; two seconds at 50 Mbit/s are 12.5 MB
_LENGTHS = struct.Struct(">II")

ServerId = Annotated[str, Field(pattern=r"^rdp-[0-9a-f]{16}$")]
SessionId = Annotated[str, Field(pattern=r"^sess-[0-9a-f]{16}$")]
RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


@dataclass(frozen=True)
class Nothing:
    """Of verbs that take or give nothing."""


@dataclass(frozen=True)
class ServerCall:
    spec: ServerSpec
    request_id: RequestId


@dataclass(frozen=True)
class ServerNamed:
    server_id: ServerId


@dataclass(frozen=True)
class ServerChange:
    server_id: ServerId
    request_id: RequestId


@dataclass(frozen=True)
class ServerProbe:
    server_id: ServerId
    username: str | None
    password: str | None


@dataclass(frozen=True)
class RecordCall:
    spec: RecordSpec
    request_id: RequestId


@dataclass(frozen=True)
class RecordNamed:
    session_id: SessionId


@dataclass(frozen=True)
class RecordChange:
    session_id: SessionId
    request_id: RequestId


@dataclass(frozen=True)
class SegmentsAfter:
    session_id: SessionId
    after: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class SegmentsDone:
    session_id: SessionId
    upto: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Payload:
    payload: Base64Bytes


@dataclass(frozen=True)
class Signature:
    signature: str


class Verb(Generic[A, R]):
    """`mutating` verbs carry a request id: asked twice with the same one, they are done once."""

    def __init__(self, name: str, asks: type[A], answers: Any, mutating: bool = False) -> None:
        self.name = name
        self.mutating = mutating
        self._asks = TypeAdapter(asks)
        self._answers: TypeAdapter[R] = TypeAdapter(answers)

    def write_request(self, request: A) -> bytes:
        return self._asks.dump_json(request, warnings=False)

    def read_request(self, body: bytes) -> A:
        """ValueError, with the fields that are wrong and without their values."""
        return _read(self._asks, body)

    def write_answer(self, answer: R) -> bytes:
        return self._answers.dump_json(answer, warnings=False)

    def read_answer(self, body: bytes) -> R:
        """ValueError when it breaks the schema."""
        return _read(self._answers, body)


def _read(schema: TypeAdapter[A], body: bytes) -> A:
    try:
        return schema.validate_json(body, strict=True)
    except ValidationError as error:
        items = error.errors(include_url=False, include_context=False, include_input=False)
        raise ValueError(
            "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in items)
        ) from None


# These answers stay mappings, of exactly these keys and kinds.
class Pong(TypedDict):
    version: str
    node_id: str
    public_key: str


class Cpu(TypedDict):
    cores: int
    frequency_mhz: float | None
    architecture: str


class Part(TypedDict):
    total_bytes: int
    type: str | None


class Storage(Part):
    interface: str | None


class Interface(TypedDict):
    interface: str
    speed_mbps: int | None
    mac_address: str | None


class Hardware(TypedDict):
    cpu: Cpu
    memory: Part
    storage: Storage
    gpu: dict[str, Any] | None
    network: list[Interface]


class Login(TypedDict):
    attempted: bool
    succeeded: bool
    reason: str | None


class Probed(TypedDict):
    connection_available: bool
    port_open: bool
    tls: dict[str, Any] | None
    protocol: str | None
    login: Login
    latency_ms: float | None


PING: Verb[Nothing, Mapping[str, Any]] = Verb("node.ping", Nothing, Pong)
HARDWARE: Verb[Nothing, Mapping[str, Any]] = Verb("node.hardware", Nothing, Hardware)
METRICS: Verb[Nothing, Usage] = Verb("node.metrics", Nothing, Usage)
SIGN: Verb[Payload, Signature] = Verb("node.sign", Payload, Signature)
SERVER_CREATE: Verb[ServerCall, ServerStatus] = Verb("server.create", ServerCall, ServerStatus, mutating=True)
SERVER_START: Verb[ServerCall, ServerStatus] = Verb("server.start", ServerCall, ServerStatus, mutating=True)
SERVER_STOP: Verb[ServerChange, ServerStatus] = Verb("server.stop", ServerChange, ServerStatus, mutating=True)
SERVER_DELETE: Verb[ServerChange, Nothing] = Verb("server.delete", ServerChange, Nothing, mutating=True)
SERVER_STATUS: Verb[ServerNamed, ServerStatus] = Verb("server.status", ServerNamed, ServerStatus)
SERVER_LIST: Verb[Nothing, tuple[str, ...]] = Verb("server.list", Nothing, tuple[str, ...])
SERVER_USAGE: Verb[ServerNamed, Usage] = Verb("server.usage", ServerNamed, Usage)
SERVER_PROBE: Verb[ServerProbe, Mapping[str, Any]] = Verb("server.probe", ServerProbe, Probed)
RECORD_START: Verb[RecordCall, RecordStatus] = Verb("record.start", RecordCall, RecordStatus, mutating=True)
RECORD_STOP: Verb[RecordChange, RecordStatus] = Verb("record.stop", RecordChange, RecordStatus, mutating=True)
RECORD_PAUSE: Verb[RecordChange, RecordStatus] = Verb("record.pause", RecordChange, RecordStatus, mutating=True)
RECORD_RESUME: Verb[RecordChange, RecordStatus] = Verb("record.resume", RecordChange, RecordStatus, mutating=True)
RECORD_STATUS: Verb[RecordNamed, RecordStatus] = Verb("record.status", RecordNamed, RecordStatus)
RECORD_LIST: Verb[Nothing, tuple[str, ...]] = Verb("record.list", Nothing, tuple[str, ...])
SEGMENTS_ACK: Verb[SegmentsDone, Nothing] = Verb("segments.ack", SegmentsDone, Nothing)
# Answers with frames, not with JSON.
SEGMENTS_STREAM: Verb[SegmentsAfter, Nothing] = Verb("segments.stream", SegmentsAfter, Nothing)

_HEADER: TypeAdapter[Segment] = TypeAdapter(Segment)


def frame(segment: Segment) -> Iterator[bytes]:
    """Two lengths, a JSON header and the data."""
    header = json.dumps({key: value for key, value in asdict(segment).items() if key != "data"}).encode()
    yield _LENGTHS.pack(len(header), len(segment.data)) + header
    yield segment.data


def unframe(pieces: Iterable[bytes]) -> Iterator[Segment]:
    """The segments in a stream of bytes. ValueError when it is cut off or is no such stream."""
    buffer = bytearray()
    source = iter(pieces)

    def take(count: int) -> bytes:
        while len(buffer) < count:
            piece = next(source, None)
            if piece is None:
                raise ValueError("the stream of segments was cut off")
            buffer.extend(piece)
        taken = bytes(buffer[:count])
        del buffer[:count]
        return taken

    while True:
        while not buffer:
            piece = next(source, None)
            if piece is None:
                return
            buffer.extend(piece)
        header_size, data_size = _LENGTHS.unpack(take(_LENGTHS.size))
        if header_size > MAX_HEADER or data_size > MAX_SEGMENT:
            raise ValueError("this is no stream of segments")
        header = json.loads(take(header_size))
        if not isinstance(header, dict):
            raise ValueError("a segment has no header")
        try:
            yield _HEADER.validate_python({**header, "data": take(data_size)})
        except ValidationError:
            raise ValueError("a segment's header breaks the schema") from None
