"""`/loadsharing/…` of one gateway, over HTTP: contract 5.5."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from integration.evse.sharing.conftest import Gateways
from integration.evse.sharing.pairs import Gateway
from labyard.testing.waiting import wait_until

PEERS = "/loadsharing/peers"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("lone"), mdns="off")
    gateway.ready()
    yield gateway
    gateway.stop(signal.SIGKILL)


@pytest.fixture
def lone(shared: Gateway) -> Iterator[Gateway]:
    """One without others, as it was when it was new."""
    yield shared
    for peer in shared.peers:
        if not peer["isLocal"]:
            shared.http.delete(f"{PEERS}/{peer['host']}")
    shared.http.post("/config", json={"loadsharing_role": ""})
    shared.configure(enabled=False, compat="reject", group_max_current=0)
    shared.configure(failsafe_mode="safe_current", failsafe_safe_current=6)


def test_peers_are_added_once_and_removed(lone: Gateway) -> None:
    assert lone.peers == []
    answer = lone.add(" 192.168.77.7 ")
    assert (answer.status_code, answer.json()) == (200, {"msg": "done"})
    assert lone.peers == [
        {
            "id": "unknown",
            "name": "192.168.77.7",
            "host": "192.168.77.7",
            "url": "http://192.168.77.7",
            "ip": "192.168.77.7",
            "online": False,
            "joined": True,
            "isLocal": False,
        }
    ]
    again = lone.add("192.168.77.7")
    assert (again.status_code, again.json()) == (400, {"msg": "Peer already in group"})
    assert lone.add("Peer-1.Local.:8001").status_code == 200
    for same in ("peer-1.local:8001", " PEER-1.local.:8001 ", "192.168.77.7:80", "192.168.77.7."):
        assert lone.add(same).json() == {"msg": "Peer already in group"}, same
    assert [peer["host"] for peer in lone.peers] == ["192.168.77.7", "peer-1.local:8001"]
    removed = lone.http.delete(f"{PEERS}/peer-1.local%3A8001?x=1")
    assert (removed.status_code, removed.json()) == (200, {"msg": "done"})
    gone = lone.http.delete(f"{PEERS}/peer-1.local:8001")
    assert (gone.status_code, gone.json()) == (404, {"msg": "Peer not found"})
    assert [peer["host"] for peer in lone.peers] == ["192.168.77.7"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("no json", "Invalid JSON"),
        ("[1]", "Invalid JSON"),
        ("{}", "Missing required 'host' parameter"),
        ('{"host": 5}', "Missing required 'host' parameter"),
        ('{"host": "  "}', "Host cannot be empty"),
        ('{"host": "plain"}', "Invalid host format - must contain domain or IP"),
        ('{"host": "a.b:port"}', "Invalid host format - must contain domain or IP"),
        ('{"host": "a.b:99999"}', "Invalid host format - must contain domain or IP"),
        ('{"host": "http://10.0.0.1:8000/"}', "Invalid host format - must contain domain or IP"),
        ('{"host": "10.0.0.1/24"}', "Invalid host format - must contain domain or IP"),
        ('{"host": "127.0.0.1"}', "Cannot add local device as peer"),
    ],
)
def test_what_is_no_peer_is_refused(lone: Gateway, body: str, text: str) -> None:
    answer = lone.http.post(PEERS, content=body)
    assert (answer.status_code, answer.json()) == (400, {"msg": text})
    assert lone.peers == []


def test_it_knows_itself_under_all_its_names(lone: Gateway) -> None:
    device_id = lone.http.get("/config").json()["wifi_serial"]
    names = [f"{lone.hostname}.local", f"{lone.hostname}.LOCAL.:{lone.port}", f"{lone.hostname}:{lone.port}"]
    for host in [*names, f"127.0.0.1:{lone.port}", f"localhost:{lone.port}", f"{device_id}:{lone.port}"]:
        answer = lone.add(host)
        assert (answer.status_code, answer.json()) == (400, {"msg": "Cannot add local device as peer"}), host
    assert lone.add(f"127.0.0.1:{lone.port + 1}").status_code == 200, "another port is another gateway"
    own = lone.http.delete(f"{PEERS}/{lone.hostname}.local")
    assert (own.status_code, own.json()) == (400, {"msg": "Cannot remove local device from group"})


def test_other_methods_and_paths(lone: Gateway) -> None:
    for method, path, status, text in [
        ("DELETE", PEERS, 405, "Use DELETE /loadsharing/peers/{host}"),
        ("DELETE", f"{PEERS}/", 400, "Invalid path"),
        ("PUT", PEERS, 405, "Method not allowed"),
        ("GET", f"{PEERS}/x.local", 405, "Method not allowed"),
        ("GET", "/loadsharing/discover", 405, "Method not allowed"),
        ("POST", "/loadsharing/discover", 200, "done"),
        ("POST", "/loadsharing/status", 405, "Method not allowed"),
    ]:
        answer = lone.http.request(method, path)
        assert (answer.status_code, answer.json()) == (status, {"msg": text}), (method, path)


def test_the_newer_behaviour_can_be_asked_for(lone: Gateway) -> None:
    lone.configure(compat="idempotent")
    (local,) = lone.peers
    assert (local["isLocal"], local["online"], local["joined"]) == (True, True, True)
    assert local["host"] == f"{lone.hostname}.local:{lone.port}"
    for text in ("done", "already in group"):
        answer = lone.add("192.168.77.7", reciprocal=False)
        assert (answer.status_code, answer.json()) == (200, {"msg": text})
    assert len(lone.peers) == 2


def test_status_of_nothing(lone: Gateway) -> None:
    status = lone.group
    assert {
        key: status[key] for key in ("enabled", "group_id", "failsafe_active", "online_count", "offline_count")
    } == {
        "enabled": False,
        "group_id": "",
        "failsafe_active": False,
        "online_count": 1,
        "offline_count": 0,
    }
    (own,) = status["peers"]
    assert own["joined"] and own["status"]["state"] == 0
    assert (status["allocations"], status["budget"], status["committed_total"], status["config_issues"]) == (
        [],
        0,
        0,
        [],
    )


def test_a_controller_alone_says_what_cannot_work(lone: Gateway) -> None:
    lone.configure(enabled=True, role="controller", group_max_current=10, failsafe_safe_current=8)
    lone.add("192.168.77.7")
    wait_until(lambda: lone.group["offline_count"] == 1, "the peer is looked for in vain")
    wait_until(lambda: len(lone.group["allocations"]) == 2, "both are counted")
    status = lone.group
    assert status["failsafe_active"] is True
    (issue, _) = status["config_issues"]
    assert "loadsharing_failsafe_safe_current" in issue and "16 A of 10 A" in issue
    offline = {entry["id"]: entry for entry in status["allocations"]}["192.168.77.7"]
    assert (offline["target_current"], offline["reason"], offline["committed_current"]) == (0, "offline", 8)
    assert lone.status["loadsharing_state"] == "controller"
    metrics = lone.http.get("/metrics").text
    assert "labyard_group_budget_amps 10.0" in metrics and 'labyard_peer_online{peer="192.168.77.7"} 0.0' in metrics


def test_a_member_obeys_and_refuses(lone: Gateway) -> None:
    assert lone.add("192.168.77.7").status_code == 200
    answer = lone.http.post(
        "/config", json={"loadsharing_role": "member", "loadsharing_controller_host": "192.168.77.7"}
    )
    assert answer.json()["msg"] == "done"
    config = lone.http.get("/config").json()
    assert config["loadsharing_enabled"] is True and config["loadsharing_config_version"] > 0
    status = lone.status
    assert (status["limit_reason"], status["applied_current"]) == ("controller_lost", 6) or status["pilot"] == 0
    claims = lone.http.get("/claims").json()
    assert [(claim["client"], claim["priority"], claim["max_current"]) for claim in claims] == [(65548, 5000, 6)]
    read_only = {"msg": "Load sharing configuration is read-only on members"}
    for refused in (
        lone.http.post("/config", json={"loadsharing_priority": 5}),
        lone.http.post("/config", json={"loadsharing_role": "controller"}),
        lone.add("10.0.0.9"),
        lone.http.delete(f"{PEERS}/192.168.77.7"),
    ):
        assert (refused.status_code, refused.json()) == (403, read_only)
    assert lone.http.post("/config", json={"lang": "de"}).status_code == 200
    # Another failsafe counts at once, also while it is engaged.
    lone.http.post("/config", json={"loadsharing_role": "member", "loadsharing_failsafe_safe_current": 9})
    assert lone.http.get("/claims").json()[0]["max_current"] == 9
    lone.http.post("/config", json={"loadsharing_role": "member", "loadsharing_failsafe_mode": "disable"})
    assert lone.http.get("/claims").json()[0] | {"auto_release": 0} == {
        "client": 65548,
        "priority": 5000,
        "state": "disabled",
        "max_current": 0,
        "auto_release": 0,
    }
    lone.http.post("/config", json={"loadsharing_role": ""})
    assert lone.http.get("/claims").json() == []
    assert lone.peers == [], "the controller is no peer any more"
    assert lone.status["loadsharing_state"] == "off"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("role", "boss"),
        ("group_max_current", -1),
        ("safety_factor", 1.5),
        ("heartbeat_timeout", 4),
        ("failsafe_mode", "panic"),
        ("failsafe_safe_current", 81),
        ("failsafe_peer_assumed_current", -1),
        ("compat", "other"),
    ],
)
def test_options_out_of_range_name_the_key_and_change_nothing(lone: Gateway, key: str, value: object) -> None:
    before = lone.http.get("/config").json()
    answer = lone.http.post("/config", json={"loadsharing_role": "controller", f"loadsharing_{key}": value})
    assert answer.status_code == 400 and f"loadsharing_{key}" in answer.json()["msg"]
    assert lone.http.get("/config").json() == before


def test_faults_are_checked(lone: Gateway) -> None:
    for rules, text in [
        ([{"kind": "explode"}], "rules[0].kind must be one of drop, delay, partition"),
        ([{"kind": "drop", "probability": 2}], "rules[0].probability must be 0 to 1"),
        ([{"kind": "delay", "delay_ms": [5]}], "rules[0].delay_ms must be two numbers"),
    ]:
        answer = lone.http.post("/labyard/faults", json={"seed": 1, "rules": rules})
        assert (answer.status_code, answer.json()) == (400, {"msg": text})
    assert lone.http.get("/labyard/faults").json()["rules"] == []


def test_peers_and_role_outlive_a_restart(gateways: Gateways) -> None:
    (gateway,) = gateways(1, mdns="off")
    gateway.add("192.168.77.7")
    gateway.configure(role="member", controller_host="192.168.77.7")
    assert gateway.stop() == 0
    gateway.start()
    gateway.ready()
    assert [peer["host"] for peer in gateway.peers] == ["192.168.77.7"]
    assert gateway.http.get("/claims").json()[0]["max_current"] == 6, "it begins in its failsafe"


def test_no_call_goes_to_where_none_may_go(gateways: Gateways) -> None:
    (gateway,) = gateways(1, mdns="off")
    gateway.configure(enabled=True, role="controller", group_max_current=32)
    gateway.add("100.64.0.1")
    wait_until(lambda: "100.64.0.1 is neither local nor discovered, it is not called" in gateway.log(), "refused")


def test_a_group_with_one_password(gateways: Gateways) -> None:
    """The controller shows its own credentials to its peers."""
    controller, member = gateways(2, mdns="off")
    for gateway in (controller, member):
        assert gateway.http.post("/config", json={"www_password": "charge"}).status_code == 200
        assert gateway.http.get("/config").status_code == 401
        gateway.http.auth = ("openevseadmin", "charge")
    controller.configure(enabled=True, role="controller", group_max_current=32)
    assert controller.add(f"127.0.0.1:{member.port}").status_code == 200
    wait_until(lambda: member.status["loadsharing_state"] != "off", "it is a member")
    wait_until(lambda: controller.group["online_count"] == 2, "it is online")


def test_both_sides_know_each_other_when_asked(gateways: Gateways) -> None:
    first, second = gateways(2)
    wait_until(lambda: second.peers and first.peers, "found")
    assert first.add(f"127.0.0.1:{second.port}", reciprocal=True).status_code == 200
    wait_until(lambda: any(peer["joined"] for peer in second.peers), "the other one was told")
    (peer,) = [peer for peer in second.peers if peer["joined"]]
    assert peer["host"] == f"{first.hostname}.local:{first.port}"
    # Two names of one device are one member.
    assert first.http.post("/loadsharing/discover").status_code == 200
    assert first.add(f"{second.hostname}.local:{second.port}").json() == {"msg": "Peer already in group"}
