"""`labyard desktops …` against a fake service that answers as the contract says. The chain test has the real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from labyard.cli import app
from labyard.client import commands
from labyard.client.http import ClientError
from labyard.desktops import cli_where
from labyard.desktops.cli_where import Where, issue

SESSION = "sess-0123456789abcdef"
SHOWN: dict[str, Any] = {
    "session_id": SESSION, "name": "Demo", "status": "stopped", "owner": "somebody", "stop_reason": "requested",
    "binding": {"server_id": "rdp-1", "host": "127.0.0.1", "kind": "owner"},
    "started_at": "2026-01-01T00:00:00.000000Z", "stopped_at": "2026-01-01T00:00:10.000000Z",
    "gaps": [{"from": "a", "to": "b", "reason": "recorder_restarted"}],
    "statistics": {
        "recording_stats": {
            "total_duration_seconds": 10.0, "paused_duration_seconds": 1.0, "total_frames": 90, "dropped_frames": 1,
        },
        "storage_stats": {"chunks_count": 9, "compressed_size_bytes": 4711},
    },
}  # fmt: skip
ANSWERS: dict[tuple[str, str], tuple[int, Any]] = {
    ("GET", "/sessions"): (200, {"sessions": [SHOWN], "has_next": False}),
    ("GET", f"/sessions/{SESSION}"): (200, SHOWN),
    ("GET", f"/sessions/{SESSION}/errors"): (200, {"errors": []}),
    ("POST", "/sessions"): (201, {"session_id": SESSION}),
    ("POST", f"/sessions/{SESSION}/start"): (200, {"status": "recording", "binding": SHOWN["binding"]}),
    ("POST", f"/sessions/{SESSION}/stop"): (
        200,
        {"status": "stopped", "anchoring": {"chunk_count": 9, "block_height": 3}},
    ),
    ("POST", f"/sessions/{SESSION}/pause"): (
        409,
        {"error": {"code": "SES_STATE", "message": "The session is stopped and cannot be paused", "details": []}},
    ),
    ("DELETE", f"/sessions/{SESSION}"): (204, None),
}
Run = Callable[..., Result]


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, json.loads(body) if body else None))
        path = self.path.removeprefix("/api/v1").partition("?")[0]
        status, answer = ANSWERS.get((self.command, path), (404, {"error": {"code": "X", "message": "nothing there"}}))
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_DELETE = do_GET

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("LABYARD_DESKTOPS_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("LABYARD_DESKTOPS_TOKEN", "a.b.c")
        monkeypatch.setattr(commands.console, "_width", 200)
        yield server.asked  # type: ignore[attr-defined]
        server.shutdown()


@pytest.fixture
def run(asked: list[Any]) -> Run:
    def call(*words: str, expect: int = 0) -> Result:
        result = CliRunner().invoke(app, ["desktops", *words])
        assert result.exit_code == expect, f"{words}: {result.output} {result.exception!r}"
        return result

    return call


class TestCommands:
    def test_sessions(self, run: Run, asked: list[Any]) -> None:
        assert "rdp-1 (owner)" in run("sessions", "--status", "stopped").output
        assert "status=stopped" in asked[-1][1]
        assert json.loads(run("sessions", "--json").output)[0]["session_id"] == SESSION

    def test_show(self, run: Run) -> None:
        shown = run("show", SESSION).output
        assert "90, dropped 1" in shown
        assert "recorder_restarted" in shown

    def test_record(self, run: Run, asked: list[Any]) -> None:
        run("record", "Demo", "--own-server", "--seconds", "0.01")
        assert [(method, path.rpartition("/")[2]) for method, path, _ in asked] == [
            ("POST", "sessions"),
            ("POST", "start"),
            ("POST", "stop"),
        ]
        assert asked[0][2]["rdp_config"]["provisioning"] == "auto"

    def test_a_refusal_is_one_line(self, run: Run) -> None:
        result = run("pause", SESSION, expect=1)
        assert "The session is stopped and cannot be paused" in result.output
        assert "SES_STATE" not in result.output

    def test_delete(self, run: Run) -> None:
        assert "is deleted" in run("delete", SESSION).output

    def test_a_video_that_is_not_there_leaves_no_file(self, run: Run, tmp_path: Path) -> None:
        run("export", SESSION, "-o", str(tmp_path / "x.mp4"), expect=1)
        assert list(tmp_path.iterdir()) == []


class TestWhere:
    @pytest.fixture
    def values(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        values = {"tls_host": "10.0.0.1", "tls_port": "8443", "tls_certificate": "", "state_dir": "/var/lib/x"}
        ran: list[str] = []

        def run_there(command: str) -> Any:
            ran.append(command)
            return SimpleNamespace(rc=0, stdout="t.o.k\n" if command == issue() else "", stderr="")

        host = SimpleNamespace(name="desk1", run=run_there)
        service = SimpleNamespace(host=host, value=lambda name: values.get(name, ""))
        monkeypatch.setattr(cli_where, "LabService", lambda *_: service)
        values["ran"] = ran  # type: ignore[assignment]
        return values

    def test_from_the_labs_host(self, values: dict[str, str]) -> None:
        assert Where(Path("x"), "", "").client.url == "https://10.0.0.1:8443"
        assert values["ran"] == ["cat /var/lib/x/https.pem", issue()]  # type: ignore[comparison-overlap]

    def test_servers_of_the_labs_host_are_reached_as_it_is(
        self, values: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cli_where, "address", lambda host: f"{host.name}.management")
        local, elsewhere = ({"node_id": node, "host": "10.77.0.8"} for node in ("node_local", "node_1"))
        assert Where(Path("x"), "", "").reach(local) == "desk1.management"
        assert Where(Path("x"), "", "").reach(elsewhere) == "10.77.0.8"
        assert Where(Path("x"), "https://there:8443", "").reach(local) == "10.77.0.8"

    def test_a_service_on_loopback_only(self, values: dict[str, str]) -> None:
        values["tls_host"] = ""
        with pytest.raises(ClientError, match="desktops_tls_host"):
            _ = Where(Path("x"), "", "").client
