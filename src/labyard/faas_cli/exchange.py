"""One HTTP request to a function, timed. Standard library only: it also runs on a lab host, as `python3 -c`."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import sys
import time
from typing import Any


def exchange(asked: dict[str, Any]) -> dict[str, Any]:
    """Send what is asked (ip, port, method, path, headers, body in base64, timeout in s).

    Gives status, reason, headers, body in base64, and in ms since the beginning: connected, first (byte), last. Or
    `error`, when there was no answer of HTTP.
    """
    began = time.perf_counter()

    def passed() -> float:
        return round((time.perf_counter() - began) * 1000, 2)

    where = asked["ip"], asked["port"]
    connection = http.client.HTTPConnection(*where, timeout=asked["timeout"])
    try:
        connection.sock = socket.create_connection(where, timeout=asked["timeout"])
        connected = passed()
        body = base64.b64decode(asked["body"]) if asked["body"] else None
        connection.request(asked["method"], asked["path"], body, dict(asked["headers"]))
        answer = connection.getresponse()
        first = passed()
        content = answer.read()
        last = passed()
    except http.client.RemoteDisconnected:
        return {"error": f"the connection was closed after {passed():.0f} ms, without a byte"}
    except (OSError, http.client.HTTPException) as error:
        return {"error": f"after {passed():.0f} ms: {error or type(error).__name__}"}
    finally:
        connection.close()
    return {
        "status": answer.status,
        "reason": answer.reason,
        "headers": answer.getheaders(),
        "body": base64.b64encode(content).decode(),
        "connected": connected,
        "first": first,
        "last": last,
    }


if __name__ == "__main__":
    print(json.dumps(exchange(json.load(sys.stdin))))
