"""HTTP of which no request grows without end: what comes before the body is bounded here, the body in api/http.py."""

from __future__ import annotations

import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 1024  # bytes


class BoundedProtocol(HttpToolsProtocol):
    """Hangs up on a request line and headers that are longer."""

    _head = 0  # bytes of a head that is not complete
    _in_head = True
    _moved = False

    def data_received(self, data: bytes) -> None:
        self._moved = False
        super().data_received(data)
        if not self._in_head or self._moved:
            self._head = 0
        else:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """In JSON, like all other refusals."""
        content = json.dumps({"msg": msg}).encode()
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(b"%scontent-length: %d\r\n\r\n%s" % (head, len(content), content))
        self.transport.close()

    def on_headers_complete(self) -> None:
        self._in_head, self._moved = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._moved = True, True
        super().on_message_complete()
