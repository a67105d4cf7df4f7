"""Faults of a charger group that is in use: what breaks is said, the budget holds, and all is well again afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from labyard.lab import LabHost
from labyard.testing.charger_group import EvseGroup, EvsePair, wait_for_pairs

PEERS = "/loadsharing/peers"
# A peer whose status is out of this world. It never opens a web socket.
LIAR = """
import http.server, json
class Liar(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"amp": "lots", "voltage": -1, "pilot": 1e9, "state": 3, "vehicle": 1, "wifi_serial": "666",
                           "loadsharing_min_current": -50, "hostname": ["x"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("", 8099), Liar).serve_forever()
"""


def cars(group: EvseGroup) -> list[EvsePair]:
    """The chargers that are in use, the last member's among them."""
    return [group.controller, *group.members[-3:]]


def await_fair_shares(group: EvseGroup) -> None:
    using = cars(group)
    fair = int(group.budget / len(using) + 1e-6)
    wait_for_pairs(lambda: [pair.draw for pair in using] == [fair] * len(using), f"{fair} A for each car")


@pytest.fixture(scope="module")
def used(evse_group: EvseGroup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EvseGroup]:
    """Four cars charge while the monitor watches."""
    try:
        for pair in cars(evse_group):
            pair.charge()
        await_fair_shares(evse_group)
        with evse_group.watched(tmp_path_factory.mktemp("monitor")):
            yield evse_group
    finally:
        for pair in evse_group.pairs:
            pair.car("disconnect")


@pytest.fixture
def group(used: EvseGroup) -> Iterator[EvseGroup]:
    """All is well before and after."""
    yield used
    wait_for_pairs(lambda: used.is_whole, "the group is whole again")
    await_fair_shares(used)


@pytest.fixture
def member(group: EvseGroup) -> EvsePair:
    """One that charges, on another host than the controller."""
    return group.members[-1]


@contextmanager
def link_faults(pair: EvsePair, **rule: Any) -> Iterator[None]:
    """On the line between its gateway and its EVSE."""
    try:
        answer = pair.emulator.post("/link/faults", json={"seed": 5, "rules": [rule]})
        assert answer.is_success, answer.text
        yield
    finally:
        pair.emulator.delete("/link/faults")


@contextmanager
def running(host: LabHost, unit: str, *command: str) -> Iterator[None]:
    """A process on the host, as a unit that is gone afterwards."""
    host.check("systemd-run --collect --unit %s" + " %s" * len(command), unit, *command)
    try:
        yield
    finally:
        host.check("systemctl stop %s", unit)


def injected(pair: EvsePair) -> list[str]:
    return [entry["kind"] for entry in pair.emulator.get("/link/log").json()]


def test_an_emulator_reboots_in_mid_command(member: EvsePair) -> None:
    offered = member.offer
    with link_faults(member, kind="reboot", direction="rx", match=r"\$GM", count=1):
        answer = member.gateway.get("/r", params={"json": 1, "rapi": "$GM"})
        # Its answer went with the reboot.
        assert answer.status_code == 500 and answer.json()["error"].startswith("RAPI_RESPONSE_"), answer.text
        assert injected(member) == ["reboot"]
    wait_for_pairs(
        lambda: member.get("/status")["evse_connected"] == 1 and member.offer == offered, "it has its offer again"
    )


def test_a_corrupt_line_is_never_believed(member: EvsePair) -> None:
    with link_faults(member, kind="corrupt", direction="both", probability=0.5):
        for _ in range(20):
            answer = member.gateway.get("/r", params={"json": 1, "rapi": "$GE"}).json()
            assert answer.get("error", "").startswith("RAPI_RESPONSE_") or answer["ret"][:3] in ("$OK", "$NK"), answer
            if answer.get("ret", "").startswith("$OK"):
                assert answer["ret"].split()[1].isdecimal(), answer
        assert "corrupt" in injected(member)
    wait_for_pairs(lambda: member.get("/status")["evse_connected"] == 1, "the line is good again")


def test_a_member_without_mdns_is_known_and_falls_back(group: EvseGroup, member: EvsePair) -> None:
    """It was joined by address, so that its controller has it all the same; but it cannot know that controller."""
    folder = f"/run/systemd/system/{member.unit('gateway')}.d"
    member.host.check(
        "mkdir -p %s && printf '[Service]\\nEnvironment=LABYARD_MDNS=off\\n' > %s", folder, f"{folder}/silent.conf"
    )
    silent = member.id
    try:
        member.host.check("systemctl daemon-reload")
        member.systemctl("restart", "gateway")
        wait_for_pairs(lambda: member.get("/status")["evse_connected"] == 1, "it is there")
        other = group.members[0]
        # Looked at once each time: a peer may be listed no more, or not yet by its id.
        wait_for_pairs(lambda: not other.peers.get(silent, {}).get("online"), "others do not see it")
        wait_for_pairs(lambda: group.controller.peers.get(silent, {}).get("online"), "its controller does")
        safe = member.get("/config")["loadsharing_failsafe_safe_current"]
        wait_for_pairs(lambda: member.sharing == "failsafe" and member.draw == safe, "it obeys nobody")
    finally:
        member.host.check("rm -r %s && systemctl daemon-reload", folder)
        member.systemctl("restart", "gateway")


def test_a_peer_is_never_in_a_group_twice(group: EvseGroup, member: EvsePair) -> None:
    controller, config = group.controller, member.get("/config")
    port = member.url.rpartition(":")[2]
    wait_for_pairs(lambda: controller.peers.get(member.id, {}).get("ip"), "the controller knows it")
    for host in (member.peer, f" {member.peer} ", f"{config['hostname']}.local:{port}", config["wifi_serial"] + "."):
        answer = controller.gateway.post(PEERS, json={"host": host})
        assert (answer.status_code, answer.json()["msg"]) == (400, "Peer already in group"), host
    joined = [entry for entry in controller.get(PEERS) if entry["joined"]]
    assert len(joined) == len(group.members)
    unknown = controller.gateway.delete(f"{PEERS}/nobody.local")
    assert (unknown.status_code, unknown.json()["msg"]) == (404, "Peer not found")


def test_a_peer_that_lies_gets_nothing_and_takes_nothing(group: EvseGroup, member: EvsePair) -> None:
    liar = f"{member.host.address}:8099"
    # The contract counts one that is not heard with what is assumed of it: the others have that much less.
    assumed = group.controller.get("/config")["loadsharing_failsafe_peer_assumed_current"]
    with running(member.host, "labyard-evse-liar", "python3", "-c", LIAR):
        try:
            assert group.controller.post(PEERS, {"host": liar}) == {"msg": "done"}

            def counted() -> bool:
                (entry,) = [one for one in group.status["allocations"] if one["id"] == liar]
                return bool(entry["target_current"] == 0 and entry["committed_current"] == assumed)

            wait_for_pairs(lambda: any(one["id"] == liar for one in group.status["allocations"]), "it is looked at")
            wait_for_pairs(counted, "it gets nothing")
            wait_for_pairs(
                lambda: sum(group.draws()) <= group.budget - assumed, "the others leave it what is assumed of it"
            )
        finally:
            assert group.controller.gateway.delete(f"{PEERS}/{liar}").json() == {"msg": "done"}


def test_a_stale_link_is_replaced_and_a_file_is_not(member: EvsePair) -> None:
    link = f"/tmp/rapi_pty_{member.number}"
    member.systemctl("stop", "bridge")
    member.host.check("ln -sfn /dev/pts/4711 %s", link)
    member.systemctl("start", "bridge")
    # For a moment there is none: the unit has taken the old one away, and its program has not made its own.
    wait_for_pairs(
        lambda: member.host.run("readlink %s", link).stdout.strip() not in ("", "/dev/pts/4711"), "the link is new"
    )
    wait_for_pairs(lambda: member.get("/status")["rapi_connected"] == 1, "the gateway is on the line again")
    member.systemctl("stop", "bridge")
    member.host.check("rm -f %s && echo kept > %s", link, link)
    try:
        member.host.run("systemctl start %s", member.unit("bridge"))
        said = f"{link} is not a link: move it away"
        journal = "journalctl --no-pager --lines 20 --unit %s"
        wait_for_pairs(
            lambda: said in member.host.check(journal, member.unit("bridge")), "the bridge says what is wrong"
        )
        assert member.host.check("cat %s", link) == "kept\n"
    finally:
        member.host.check("rm %s", link)
    wait_for_pairs(lambda: member.get("/status")["rapi_connected"] == 1, "the gateway is on the line again")


def test_a_port_that_is_taken_is_named(member: EvsePair) -> None:
    port = member.url.rpartition(":")[2]
    member.systemctl("stop", "gateway")
    with running(member.host, "labyard-evse-thief", "python3", "-m", "http.server", port):
        wait_for_pairs(
            lambda: member.host.run("ss -H -lnt sport = %s | grep -q .", f":{port}").rc == 0, "the port is taken"
        )
        member.host.run("systemctl start %s", member.unit("gateway"))
        journal = "journalctl --no-pager --lines 20 --unit %s"

        def said() -> bool:
            lines = member.host.check(journal, member.unit("gateway")).splitlines()
            return any(port in line and "in use" in line for line in lines)

        wait_for_pairs(said, "the gateway names the port")
    wait_for_pairs(lambda: member.get("/status")["rapi_connected"] == 1, "it is there as soon as the port is free")
