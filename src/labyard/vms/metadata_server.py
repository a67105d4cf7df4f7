"""The EC2-like metadata server that guests ask about themselves (contract section 8)."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

from labyard.vms.service.metadata import Guest

log = structlog.get_logger(__name__)

VERSIONS = ("2009-04-04", "latest")
TOKEN_PATH = "/latest/api/token"
RETRY = 5.0  # seconds between tries to listen
SILENCE = 10  # seconds that a guest may keep a connection without saying anything

FindGuest = Callable[[str], Guest | None]


class MetadataServer:
    """Port 0 takes a free one. `status` is for /health. `retry`: seconds between tries to listen."""

    def __init__(self, address: tuple[str, int], find_guest: FindGuest, retry: float = RETRY) -> None:
        self._wanted = address
        self._find_guest = find_guest
        self._retry = retry
        self._server: ThreadingHTTPServer | None = None
        self._stopping = threading.Event()
        self._trying: threading.Thread | None = None
        self.status = "stopped"

    def start(self) -> None:
        """Serve, in threads of its own. The service does without it while the address is not there: the lab network
        brings it, and may come later."""
        self._stopping.clear()
        if not self._listen():
            log.warning("metadata server not started", error=self.status)
            self._trying = threading.Thread(target=self._try_again, name="metadata-retry", daemon=True)
            self._trying.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._trying is not None:
            self._trying.join()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.status = "stopped"

    def _try_again(self) -> None:
        while not self._stopping.wait(self._retry):
            if self._listen():
                return

    def _listen(self) -> bool:
        try:
            server = _Server(self._wanted, partial(_Handler, self._find_guest))
        except OSError as error:
            host, port = self._wanted
            self.status = f"error: cannot listen on {host} port {port}: {error.strerror or error}"
            return False
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.1,), name="metadata", daemon=True).start()
        self.status = "running"
        return True

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, while it runs."""
        host, port = (self._server.server_address if self._server else self._wanted)[:2]
        return str(host), int(port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE
    server_version = "labyard"
    sys_version = ""

    def __init__(self, find_guest: FindGuest, *arguments: object) -> None:
        self._find_guest = find_guest
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._guarded(self._get)

    def do_PUT(self) -> None:
        self._guarded(self._put)

    def log_message(self, format: str, *arguments: object) -> None:
        log.debug("metadata request", client=self.client_address[0], line=format % arguments)

    def _guarded(self, answer: Callable[[], str | None]) -> None:
        try:
            body = answer()
        except Exception:
            log.exception("metadata request failed", client=self.client_address[0])
            self._send(500, "Internal error\n")
            return
        if body is None:
            self._send(404, "Not Found\n")
        else:
            self._send(200, body)

    def _get(self) -> str | None:
        path = self.path.partition("?")[0]
        if path == "/":
            return "\n".join(VERSIONS)
        version, _, rest = path.removeprefix("/").partition("/")
        if version not in VERSIONS:
            return None
        guest = self._find_guest(self.client_address[0])
        return answer_to(rest, guest) if guest else None

    def _put(self) -> str | None:
        if self.path.partition("?")[0] != TOKEN_PATH:
            return None
        return secrets.token_urlsafe(32) if self._find_guest(self.client_address[0]) else None

    def _send(self, status: int, body: str) -> None:
        content = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def answer_to(path: str, guest: Guest) -> str | None:
    """The body for a path below the version, or None when there is nothing at it."""
    plain = path.removesuffix("/")
    if plain == "user-data" and path == plain:
        return guest.user_data
    values = {
        "meta-data/instance-id": guest.vm_id,
        "meta-data/local-ipv4": guest.ip,
        "meta-data/public-ipv4": guest.ip,
        "meta-data/hostname": guest.hostname,
    }
    if path in values:
        return values[path]
    listings: dict[str, str] = {
        "meta-data": "instance-id\nlocal-ipv4\npublic-ipv4\nhostname\nnetwork/\npublic-keys/",
        "meta-data/network": "interfaces/",
        "meta-data/network/interfaces": "macs/",
        "meta-data/network/interfaces/macs": f"{guest.mac}/",
        "meta-data/public-keys": "0=default" if guest.ssh_keys else "",
    }
    if plain in listings:
        return listings[plain]
    if path == "meta-data/public-keys/0/openssh-key":
        return "\n".join(guest.ssh_keys) if guest.ssh_keys else None
    return _of_interface(plain.removeprefix("meta-data/network/interfaces/macs/"), path == plain, guest)


def _of_interface(rest: str, is_value: bool, guest: Guest) -> str | None:
    mac, _, name = rest.partition("/")
    if mac.lower() != guest.mac.lower():
        return None
    if not name:
        return "local-ipv4\nmac"
    return {"local-ipv4": guest.ip, "mac": guest.mac}.get(name) if is_value else None
