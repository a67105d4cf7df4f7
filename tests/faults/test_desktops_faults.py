"""Desktops when something dies: what is concerned says so, all of it comes back by itself, no chunk is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import daemons
import pytest
from desks import AGENT, SERVER, SERVICE, Desk, Thing

from labyard.lab import Lab
from labyard.testing.waiting import wait_until

Committed = set[tuple[int, str]]
# Two processes that do nothing but count, for so many seconds; what they used of the processor.
HOG_SECONDS = 3
HOG = f"""
import os, resource, time
end = time.monotonic() + {HOG_SECONDS}
children = [os.fork() for _ in range(2)]
while 0 in children and time.monotonic() < end: pass
if 0 in children: os._exit(0)
for child in children: os.wait()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


@dataclass
class Recording:
    """A session that records a server, over all of this file."""

    desk: Desk
    server: Thing
    session_id: str

    def committed(self) -> Committed:
        """Number and hash of every chunk."""
        return {(chunk["sequence_number"], chunk["merkle_hash"]) for chunk in self.desk.chunks(self.session_id)}

    def goes_on(self, before: Committed) -> None:
        """What was committed is, and more comes; not one is missing."""
        self.desk.more_chunks(self.session_id)
        after = self.committed()
        assert before <= after
        assert sorted(number for number, _ in after) == list(range(1, len(after) + 1))
        assert self.desk.good("GET", f"/sessions/{self.session_id}")["status"] == "recording"

    def holes(self) -> set[str]:
        """Why pictures are missing."""
        return {hole["reason"] for hole in self.desk.good("GET", f"/sessions/{self.session_id}")["gaps"]}

    @property
    def recorder(self) -> str:
        return f"labyard-recorder@{self.session_id.removeprefix('sess-')}.service"


@pytest.fixture(scope="module")
def desk(lab: Lab) -> Iterator[Desk]:
    found = Desk(lab)
    yield found
    # Whatever a test that failed has left.
    found.host.run("systemctl start postgresql.service redis-server.service")
    found.wait_until_ready()


@pytest.fixture(scope="module")
def recording(desk: Desk) -> Iterator[Recording]:
    with desk.server() as server, desk.session(server) as session_id:
        yield Recording(desk, server, session_id)


def refused(desk: Desk, method: str, path: str, **body: str) -> tuple[int, str]:
    answer = desk.ask(method, path, **body)
    return answer.status_code, answer.json()["error"]["code"]


def test_postgresql_is_down_and_comes_back(desk: Desk, recording: Recording) -> None:
    """Clear answers meanwhile, also to what would change something; what is recorded meanwhile is committed later."""
    desk.more_chunks(recording.session_id)
    before = recording.committed()
    # The cluster's own unit too: to stop the other alone does not wait for it.
    desk.host.check("systemctl stop postgresql.service 'postgresql@*'")
    try:
        begun = time.monotonic()
        assert refused(desk, "GET", "/sessions") == (503, "DB_UNAVAILABLE")
        assert time.monotonic() - begun < 30
        assert refused(desk, "POST", f"/sessions/{recording.session_id}/stop") == (503, "DB_UNAVAILABLE")
        unheard = {
            "node_id": "nobody",
            "output_data": "x",
            "nonce": "unheard",
            "timestamp": datetime.now(UTC).isoformat(),
        }
        assert refused(desk, "POST", "/poot/submit", **unheard) == (503, "DB_UNAVAILABLE")
        assert desk.ready()["checks"]["postgresql"]["status"] != "healthy"
    finally:
        desk.host.check("systemctl start postgresql.service")
    desk.wait_until_ready()
    recording.goes_on(before)


def test_postgresql_is_killed(desk: Desk, recording: Recording) -> None:
    before = recording.committed()
    daemons.kill(desk.host, desk.host.check("systemctl list-units --plain --no-legend 'postgresql@*'").split()[0])
    desk.wait_until_ready()
    recording.goes_on(before)


def test_redis_is_down_and_comes_back(desk: Desk, recording: Recording) -> None:
    """All goes on without it, and it is said that it is away; a revoked token stays so."""
    before = recording.committed()
    revoked = desk.revoked_token()
    desk.host.check("systemctl stop redis-server.service")
    try:
        wait_until(lambda: desk.ready()["status"] == "degraded", "it is said")
        assert desk.refused_with(revoked) == "AUTH_REVOKED"
        assert desk.good("GET", f"/rdp/servers/{recording.server['server_id']}")["status"] == "running"
        recording.goes_on(before)
    finally:
        desk.host.check("systemctl start redis-server.service")
    desk.wait_until_ready()


@pytest.mark.parametrize("what", ["service", "agent", "recorder"])
def test_a_part_is_killed(desk: Desk, recording: Recording, what: str) -> None:
    before = recording.committed()
    daemons.kill(desk.host, {"service": SERVICE, "agent": AGENT, "recorder": recording.recorder}[what])
    desk.wait_until_ready()
    recording.goes_on(before)
    if what == "recorder":
        wait_until(lambda: "recorder_restarted" in recording.holes(), "the hole is on record")
    assert not recording.holes() & {"storage_full", "spool_full", "internal"}


def test_xrdp_is_killed(desk: Desk, recording: Recording) -> None:
    """Clients can come again, to the same desktop."""
    before, server_id = recording.committed(), recording.server["server_id"]
    (desktop,) = desk.processes(recording.server, "Xorg")
    daemons.kill(desk.host, f"labyard-xrdp@{server_id.removeprefix('rdp-')}.service")
    path = f"/rdp/servers/{server_id}"
    wait_until(lambda: desk.good("POST", f"{path}/test-connection")["login"]["succeeded"], "a login works again")
    assert desk.processes(recording.server, "Xorg") == [desktop]
    assert desk.good("GET", f"{path}/service-status")["restarts"] >= 1
    recording.goes_on(before)


def test_what_was_recorded_through_all_of_it_is_proven(desk: Desk, recording: Recording) -> None:
    desk.more_chunks(recording.session_id)
    before = recording.committed()
    stopped = desk.good("POST", f"/sessions/{recording.session_id}/stop")
    assert (stopped["status"], stopped["anchoring"]["status"]) == ("stopped", "anchored")
    assert before <= recording.committed()
    assert f"{stopped['anchoring']['chunk_count']} chunks" in desk.command("verify", recording.session_id)
    # Nobody records any more, and nothing waits.
    key = recording.session_id.removeprefix("sess-")
    wait_until(lambda: not left_of_recorder(desk, key), "nothing is left of the recorder")


def left_of_recorder(desk: Desk, key: str) -> str:
    looked = f"/run /sys/fs/cgroup {desk.host.value('desktop_node_state_dir')}"
    return str(
        desk.host.run(
            f"systemctl list-units --plain --no-legend '*{key}*'; find {looked} -name '*{key}*' 2>/dev/null"
        ).stdout
    )


def test_sesman_is_killed(desk: Desk) -> None:
    """The desktop is gone with it: it is said, nothing of it runs on, and it can be started again."""
    with desk.server() as server:
        path, key = f"/rdp/servers/{server['server_id']}", server["server_id"].removeprefix("rdp-")
        desk.host.check(f"systemctl kill --kill-whom main --signal KILL labyard-sesman@{key}.service")
        wait_until(lambda: desk.good("GET", path)["status"] == "error", "it is said")
        wait_until(lambda: not desk.host.run("pgrep --uid %s", server["server_id"]).stdout, "nothing of it runs")
        assert desk.good("POST", f"{path}/start")["status"] == "running"
        assert desk.good("POST", f"{path}/test-connection")["login"]["succeeded"]
    assert desk.left_of(server) == ""


def test_a_desktop_that_takes_too_much_harms_nobody(desk: Desk) -> None:
    """It is held to its processors, killed where it takes memory, and refused more disk; it is said, and it lives."""
    with desk.server() as server:
        path, limits = f"/rdp/servers/{server['server_id']}", server["resources"]
        (desktop,) = desk.processes(server, "Xorg")

        def held_back() -> bool:
            used = float(desk.inside(server, "python3 -c %s", HOG).stdout)
            assert used <= 1.2 * limits["cpu_limit"] * HOG_SECONDS
            return desk.throttled(server) > 0

        # While other tests have the host's processors it may not come to its limit.
        wait_until(held_back, "the kernel holds it back")

        greedy = f"kept = [b'x' * 2**20 for _ in range({2 * limits['memory_limit']})]"
        assert desk.inside(server, "python3 -c %s", greedy).rc != 0
        wait_until(lambda: "memory" in alerted(desk, path), "an alert")

        full = desk.host.run(f"fallocate --length {limits['disk_limit']}M {desk.place(server)}/home/full")
        assert full.rc != 0 and "No space left" in full.stderr

        assert desk.processes(server, "Xorg") == [desktop]
        assert desk.good("POST", f"{path}/test-connection")["login"]["succeeded"]
        desk.wait_until_ready()


def alerted(desk: Desk, path: str) -> set[str]:
    """For which resources of a server there were alerts."""
    found = desk.good("GET", f"{path}/alerts")
    return {alert["resource_type"] for alert in found["active_alerts"] + found["alert_history"]}


def test_the_host_crashes(desk: Desk) -> None:
    """What was committed is sealed and proven; the server says that it failed, keeps its port, and starts again."""
    if not desk.container:
        pytest.skip(f"{desk.host.name} is no container of this machine, and only such a host is made to crash")
    with desk.server() as server, desk.session(server) as session_id:
        recording, idle = Recording(desk, server, session_id), desk.good("POST", "/rdp/servers", **SERVER)
        desk.more_chunks(session_id)
        before, revoked = recording.committed(), desk.revoked_token()
        desk.crash()

        path = f"/sessions/{session_id}"
        wait_until(lambda: desk.good("GET", path)["status"] == "stopped", "it is sealed")
        assert desk.good("GET", path)["stop_reason"] == "crash_recovered"
        assert desk.good("GET", f"{path}/anchoring")["status"] == "anchored"
        assert before <= recording.committed()
        assert f"{len(recording.committed())} chunks" in desk.command("verify", session_id)
        assert desk.refused_with(revoked) == "AUTH_REVOKED"

        path = f"/rdp/servers/{server['server_id']}"
        wait_until(lambda: desk.good("GET", path)["status"] == "error", "it is said")
        started = desk.good("POST", f"{path}/start")
        assert (started["status"], started["port"]) == ("running", server["port"])
        assert desk.good("POST", f"{path}/test-connection")["login"]["succeeded"]
        assert desk.good("GET", path)["enforcement"] == server["enforcement"]

        other = f"/rdp/servers/{idle['server_id']}"
        assert desk.good("GET", other)["status"] == "stopped"
        assert desk.ask("DELETE", other).status_code == 204
    assert desk.left_of(server) == desk.left_of(idle) == ""


def test_the_audit_log_is_whole_after_all_of_it(desk: Desk) -> None:
    found = desk.good("GET", "/audit/verify")
    assert (found["valid"], found["first_bad"]) == (True, None)
