"""The desktops service of a lab, called from this machine; RDP clients run on the service's host, which has them."""

from __future__ import annotations

import base64
import inspect
import io
import json
import secrets
import shlex
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import daemons
import httpx
from PIL import Image
from typer.testing import CliRunner

from labyard.cli import app
from labyard.client.where import address
from labyard.desktops.agent.rdp import negotiate
from labyard.desktops.cli_where import issue
from labyard.lab import Lab
from labyard.testing.waiting import PATIENCE, wait_until

Thing = dict[str, Any]
SERVICE, AGENT = "labyard-desktops.service", "labyard-desktop-agent.service"
PYTHON = "/opt/labyard/desktopnode/bin/python"
SERVER: Thing = {
    "name": "check",
    "user_id": "check",
    "configuration": {"desktop_environment": "icewm", "resolution": "1280x720", "color_depth": 24},
    "resources": {"cpu_limit": 1.0, "memory_limit": 512, "disk_limit": 1024, "network_bandwidth": 1000},
}

# An RDP client that stays, and keeps in a file what it sees.
CLIENT = """
import json, pathlib, signal, sys, time
from labyard.desktops.picture import connected, screen

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
access, configuration, file = json.loads(sys.argv[1]), json.loads(sys.argv[2]), pathlib.Path(sys.argv[3])
with connected(access, configuration) as number:
    while True:
        screen(number).save(f"{file}.part", "PNG")
        pathlib.Path(f"{file}.part").replace(file)
        time.sleep(0.3)
"""
# A window above all others and larger than any desktop, which stays when its client has gone.
PAINT = """
import sys
from Xlib import X, display

link = display.Display(sys.argv[1])
link.set_close_down_mode(X.RetainPermanent)
root = link.screen().root
window = root.create_window(
    0, 0, 4000, 3000, 0, link.screen().root_depth, background_pixel=int(sys.argv[2][1:], 16), override_redirect=1
)
window.map()
link.sync()
"""

INSIDE = """
import os, pathlib, pwd, sys

like, name, *command = sys.argv[1:]
root = pathlib.Path("/sys/fs/cgroup")
for line in pathlib.Path(f"/proc/{like}/cgroup").read_text().splitlines():
    _, controllers, path = line.split(":", 2)
    tree = root / (controllers.removeprefix("name=") or "unified")
    members = (tree if tree.exists() else root) / path.lstrip("/") / "cgroup.procs"
    if members.exists():  # not every controller is mounted
        members.write_text(str(os.getpid()))
account = pwd.getpwnam(name)
os.setgroups([])
os.setgid(account.pw_gid)
os.setuid(account.pw_uid)
os.chdir("/")
os.execvp(command[0], command)
"""


class Desk:
    """The first host of `desktop_hosts`, and a token that may do all 51 operations."""

    def __init__(self, lab: Lab) -> None:
        self.host, self.probe = lab.host("desktop_hosts"), lab.host("probes")
        self._inventory = str(lab.inventory.path)
        certificate = self.host.check(f"cat {self.host.value('desktops_state_dir')}/https.pem")
        self.http = httpx.Client(
            base_url=f"https://{address(self.host)}:{self.host.value('desktops_tls_port')}",
            headers={"Authorization": f"Bearer {self.host.check(issue('check')).strip()}"},
            verify=ssl.create_default_context(cadata=certificate),
            # Not over a link of before a restart.
            limits=httpx.Limits(max_keepalive_connections=0),
            timeout=120,
        )

    def ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        """`path` is below /api/v1."""
        return self.http.request(method, f"/api/v1{path}", json=body or None)

    def good(self, method: str, path: str, **body: Any) -> Any:
        """The answer of a call that must succeed."""
        answer = self.ask(method, path, **body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def token(self, roles: str) -> str:
        """For an hour, from the host."""
        return self.host.check(issue("check", roles)).strip()

    def revoked_token(self) -> str:
        """One that was good a moment ago."""
        token = self.token("auditor")
        assert self.ask_with(token, "GET", "/sessions").is_success
        assert self.ask_with(token, "POST", "/auth/revoke").status_code == 204
        return token

    def ask_with(self, token: str, method: str, path: str) -> httpx.Response:
        """As `ask`, with another token; without one where it is empty."""
        return self.http.request(
            method, f"/api/v1{path}", headers={"Authorization": f"Bearer {token}" if token else ""}
        )

    def refused_with(self, token: str) -> str:
        """The code of the 401 that this token gets."""
        answer = self.ask_with(token, "GET", "/sessions")
        assert answer.status_code == 401 and answer.headers["www-authenticate"], answer.text
        return str(answer.json()["error"]["code"])

    def command(self, *words: str, status: int = 0) -> str:
        """What `labyard desktops …` of this lab prints."""
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["desktops", "--inventory", self._inventory, *words])
        assert done.exit_code == status, f"labyard desktops {shlex.join(words)}: {done.exit_code}\n{done.output}"
        return done.output

    def ready(self) -> Thing:
        """What /ready says; `status` is `away` where nobody answers."""
        try:
            found: Thing = self.http.get("/ready").json()
        except httpx.TransportError:
            found = {"status": "away"}
        return found

    def wait_until_ready(self, seconds: float = PATIENCE) -> None:
        wait_until(lambda: self.ready()["status"] == "ready", lambda: f"the service is ready: {self.ready()}", seconds)

    @property
    def container(self) -> str:
        """The host's container on this machine; empty where the host is none."""
        kind, _, name = self.host.url.partition("://")
        return name if kind == "docker" else ""

    def crash(self) -> None:
        """The host ends at once, as when its power fails, and comes up again; returns when the service is ready."""
        for verb in ("kill", "start"):
            subprocess.run(["docker", verb, self.container], check=True, capture_output=True, timeout=120)
        self.wait_until_ready(seconds=180)

    @contextmanager
    def server(self) -> Iterator[Thing]:
        """An RDP server that runs, and is gone at the end."""
        made = self.good("POST", "/rdp/servers", **SERVER | {"name": f"check-{secrets.token_hex(4)}"})
        path = f"/rdp/servers/{made['server_id']}"
        try:
            self.good("POST", f"{path}/start")
            yield self.good("GET", path)
        finally:
            self.wait_until_ready()
            assert self.ask("DELETE", path).status_code in (204, 404)

    @contextmanager
    def session(self, server: Thing) -> Iterator[str]:
        """A session that records this server, and is gone at the end."""
        target = {"host": server["host"], "port": server["port"], "username": "check"}
        made = self.good("POST", "/sessions", name="check", rdp_config=target, recording_config={"frame_rate": 5})
        path = f"/sessions/{made['session_id']}"
        try:
            self.good("POST", f"{path}/start")
            yield made["session_id"]
        finally:
            self.wait_until_ready()
            self.ask("POST", f"{path}/stop")
            assert self.ask("DELETE", path).status_code in (204, 404)

    def chunks(self, session_id: str) -> list[Thing]:
        """All that are committed."""
        chunks: list[Thing] = []
        more = True
        while more:
            found = self.good("GET", f"/sessions/{session_id}/chunks?limit=100&offset={len(chunks)}")
            chunks += found["chunks"]
            more = found["has_next"]
        return chunks

    def more_chunks(self, session_id: str, count: int = 2) -> list[Thing]:
        """Waits until there are so many more than now."""
        wanted = self._committed(session_id) + count
        wait_until(lambda: self._committed(session_id) >= wanted, "chunks are committed")
        return self.chunks(session_id)

    def new_chunk(self, session_id: str) -> Thing:
        """One that began after now. How many are recorded and not committed yet, nobody knows."""
        now = datetime.fromtimestamp(float(self.host.check("date +%s.%N")), UTC)

        def begun() -> Thing | None:
            last = self.chunks(session_id)[-1]
            return last if datetime.fromisoformat(last["timestamp"]) > now else None

        return wait_until(begun, f"a chunk that begins after {now}")

    def _committed(self, session_id: str) -> int:
        return int(self.good("GET", f"/sessions/{session_id}/chunks?limit=1")["total"])

    def media(self, chunk: Thing) -> bytes:
        """What was recorded in it, decrypted."""
        answer = self.ask("GET", f"/sessions/{chunk['session_id']}/chunks/{chunk['chunk_id']}/content")
        assert answer.is_success, answer.text
        return answer.content

    # On the host

    def paint(self, server: Thing, colour: str) -> None:
        """The whole desktop is of this colour from now on."""
        place = self.place(server)
        display = json.loads(self.host.check(f"cat {place}/made.json"))["display"]
        self.host.check(f"XAUTHORITY={place}/home/.Xauthority {PYTHON} -c %s :{display} %s", PAINT, colour)

    def inside(self, server: Thing, command: str, *arguments: str) -> Any:
        """Run a command as if it came from the desktop: as the server's account, in sesman's control groups."""
        sesman = daemons.process(self.host, f"labyard-sesman@{server['server_id'].removeprefix('rdp-')}.service")
        run = f"python3 -c %s {sesman} {server['server_id']} "
        return self.host.run(run + command, INSIDE, *arguments)

    def throttled(self, server: Thing) -> int:
        """How often the kernel has held its processes back."""
        key = server["server_id"].removeprefix("rdp-")
        counted = self.host.check(f"find /sys/fs/cgroup -path '*/labyard-rdp-{key}.slice/cpu.stat' -exec cat {{}} +")
        return sum(int(line.split()[1]) for line in counted.splitlines() if line.startswith("nr_throttled"))

    def processes(self, server: Thing, name: str) -> list[int]:
        """Those of a server's account with this name."""
        return [
            int(pid) for pid in self.host.run("pgrep --exact --uid %s %s", server["server_id"], name).stdout.split()
        ]

    @contextmanager
    def client(self, server: Thing) -> Iterator[Callable[[], Image.Image | None]]:
        """A FreeRDP client that is logging in; called, what it sees: None until it sees anything."""
        access = self.good("GET", f"/rdp/servers/{server['server_id']}/credentials")
        unit = f"labyard-check-client-{secrets.token_hex(4)}"
        file = f"/run/{unit}.png"
        words = [PYTHON, "-c", CLIENT, json.dumps(access), json.dumps(server["configuration"]), file]
        self.host.check(f"systemd-run --quiet --unit {unit}" + " %s" * len(words), *words)

        def look() -> Image.Image | None:
            found = self.host.run(f"base64 {file}")
            if found.rc:
                state = self.host.run(f"systemctl is-active {unit}").stdout.strip()
                said = self.host.run(f"journalctl --no-pager --output cat --unit {unit}").stdout
                assert state == "active", f"the client ended:\n{said}"
                return None
            return Image.open(io.BytesIO(base64.b64decode(found.stdout)))

        try:
            yield look
        finally:
            self.host.run(f"systemctl stop {unit}; systemctl reset-failed {unit}; rm -f {file} {file}.part")

    def negotiated_from_the_probe(self, server: Thing) -> str:
        """The fingerprint of the certificate that a client on the segment is shown, after X.224 and TLS."""
        program = inspect.getsource(negotiate) + (
            "\nimport sys\nprint(negotiate(sys.argv[1], int(sys.argv[2]), True, 10).certificate_sha256)\n"
        )
        where = (self.host.address, str(server["port"]))
        return self.probe.check("python3 -c %s %s %s", program, *where).strip()

    def left_of(self, server: Thing) -> str:
        """What there still is of a server on its host: account, files, units, processes, rules."""
        key, account = server["server_id"].removeprefix("rdp-"), server["server_id"]
        return str(
            self.host.run(
                f"getent passwd {account}; systemctl list-units --plain --no-legend '*{key}*';"
                # A control group is there as long as any process is in it.
                f"find /run /sys/fs/cgroup {self.host.value('desktop_node_state_dir')} -name '*{key}*' 2>/dev/null;"
                f"nft list ruleset | grep -w {server['port']}; ss -H -lnt sport = :{server['port']}"
            ).stdout
        )

    def place(self, server: Thing) -> Path:
        """Its folder on the node."""
        folder = Path(self.host.value("desktop_node_state_dir"))
        return folder / "rdp" / server["server_id"].removeprefix("rdp-")
