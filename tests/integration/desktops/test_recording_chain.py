"""Each part of a recording is killed in turn, as a process of its own, with the real wire between them: no committed
chunk is lost, and none is committed twice."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from integration import postgresql as pg
from integration import redis_server
from labyard.cli import app
from labyard.core.clock import as_text, now
from labyard.core.database import Database
from labyard.desktops.adapters.agent import ServerStatus, Usage
from labyard.desktops.agent.listen import serve_until, unix_socket
from labyard.desktops.agent.node import NodeFacts
from labyard.desktops.agent.verbs import Verbs
from labyard.testing.waiting import wait_until

from .display import display, needs_display
from .media import colours, without_stalls
from .node import Desk, RecordingAgent, add_desk, recording_agent
from .service_process import ServiceProcess
from .test_sessions import chunks, started, stopped, verified

pytestmark = needs_display


class OneServer:
    """What the agent says of the only RDP server: it runs. Real ones are in test_rdp_servers.py."""

    def __init__(self) -> None:
        self.desk: Desk | None = None

    def known(self) -> tuple[str, ...]:
        return (self.desk.server_id,) if self.desk else ()

    def status(self, server_id: str) -> ServerStatus:
        assert self.desk
        number = self.desk.display.number
        return ServerStatus(server_id, "active", "active", "active", None, None, 0, number, "icewm", None, {})

    def usage(self, server_id: str) -> Usage:
        return Usage(as_text(now()), 1.0, 1.0, 1.0, 1.0, 1.0, "cgroup", {})


@contextmanager
def agent_on(socket: Path, state: Path, servers: Any, agent: RecordingAgent) -> Iterator[None]:
    """The agent's own HTTP server on a Unix socket."""
    state.mkdir()
    end = threading.Event()
    verbs = Verbs(NodeFacts("node_local", state), servers, agent.recorders)
    listening = [(unix_socket(socket, ""), None)]
    thread = threading.Thread(target=lambda: asyncio.run(serve_until(verbs, listening, end)))
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


class Caller:
    """As conftest's, over real HTTP."""

    def __init__(self, process: ServiceProcess, token: str) -> None:
        self._process = process
        self._headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str, **given: Any) -> Any:
        return self._process.http.get(f"/api/v1{path}", headers=self._headers, **given)

    def post(self, path: str, **given: Any) -> Any:
        return self._process.http.post(f"/api/v1{path}", headers=self._headers, **given)

    def put(self, path: str, **given: Any) -> Any:
        return self._process.http.put(f"/api/v1{path}", headers=self._headers, **given)


def check_commands(process: ServiceProcess, session_id: str, folder: Path, count: int) -> None:
    """What `labyard desktops` says of the session, from outside."""
    token = process.token("session_manager")
    environment = {"LABYARD_DESKTOPS_URL": str(process.http.base_url), "LABYARD_DESKTOPS_TOKEN": token}

    def run(*words: str, status: int = 0) -> str:
        done = CliRunner(env=environment).invoke(app, ["desktops", *words])
        assert done.exit_code == status, done.output
        return done.output

    assert session_id in run("sessions", "--status", "stopped", "--json")
    assert "recorder_restarted" in run("show", session_id)
    assert f"{count} chunks" in run("verify", session_id)
    assert f"{count} chunks" in run("verify", session_id, "--key", str(folder / "key.pem"))
    (folder / "other.pem").write_text("11" * 32)
    assert "is BAD" in run("verify", session_id, "--key", str(folder / "other.pem"), status=1)
    run("export", session_id, "-o", str(folder / "all.mp4"))
    assert colours((folder / "all.mp4").read_bytes())
    assert "There is no session" in run("show", "sess-0000000000000000", status=1)


def test_everything_is_killed_in_turn(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    (tmp_path / "x").mkdir()
    servers = OneServer()
    with (
        pg.server(synchronous_commit="on") as postgresql,
        redis_server.server() as redis,
        postgresql.database() as url,
        display(tmp_path / "x") as screen,
        recording_agent(tmp_path / "node") as agent,
        agent_on(tmp_path / "agent.sock", tmp_path / "agent", servers, agent),
    ):
        process = ServiceProcess(tmp_path, url, redis.url, DESKTOPS_AGENT_SOCKET=str(tmp_path / "agent.sock"))
        try:
            who: Any = Caller(process, process.token("session_manager"))
            wait_until(lambda: process.http.get("/ready").status_code == 200, "the service is ready")
            database = Database(url)
            desk = servers.desk = add_desk(database, agent, screen, "cli")
            database.close()
            screen.paint("#405060")
            session_id = started(who)
            assert who.get(f"/sessions/{session_id}").json()["binding"]["server_id"] == desk.server_id

            committed: list[dict[str, Any]] = []

            def go_on() -> None:
                """Two chunks more, and all that were there before."""
                nonlocal committed
                found = chunks(who, session_id, len(committed) + 2)
                assert found[: len(committed)] == committed
                committed = found

            go_on()
            agent.kill_recorder(session_id)
            go_on()
            process.stop(signal.SIGKILL)
            process.start()
            go_on()
            postgresql.crash()
            postgresql.start()
            go_on()
            redis.kill()
            redis.start()
            go_on()

            stopped(who, session_id)
            found = chunks(who, session_id, len(committed))
            assert [chunk["sequence_number"] for chunk in found] == list(range(1, len(found) + 1))
            record_property("lost_chunks", sum(chunk not in found for chunk in committed))
            assert found[: len(committed)] == committed
            gaps = without_stalls(who.get(f"/sessions/{session_id}").json()["gaps"])
            assert [gap["reason"] for gap in gaps] == ["recorder_restarted"]
            content = who.get(f"/sessions/{session_id}/chunks/{found[-1]['chunk_id']}/content").content
            assert len(colours(content)) == found[-1]["frame_count"]
            assert verified(who, session_id, tmp_path) == 0
            check_commands(process, session_id, tmp_path, len(found))
            # The agent has nothing left of it.
            assert agent.record_list() == ()
        finally:
            process.stop(signal.SIGKILL)
