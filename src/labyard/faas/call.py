"""One client's connection to a function, from its acceptance to its end."""

from __future__ import annotations

import socket
import struct
import time
import uuid
from dataclasses import dataclass, field

# struct tcp_info, linux/tcp.h: tcpi_bytes_sent, since Linux 4.19.
BYTES_SENT = 200


@dataclass
class Call:
    """`accepted` is of the monotonic clock."""

    sock: socket.socket
    function: str
    client: str
    accepted: float = field(default_factory=time.monotonic)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def answered(self) -> bool:
        """Has anything been sent to the client, by whoever holds the connection?"""
        info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_SENT + 8)
        return len(info) >= BYTES_SENT + 8 and struct.unpack_from("Q", info, BYTES_SENT)[0] > 0

    def milliseconds(self) -> float:
        return (time.monotonic() - self.accepted) * 1000
