"""The Ansible modules evse_peer and evse_group against real gateways."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ports import free_port

from integration.evse.sharing.conftest import Gateways
from integration.evse.sharing.pairs import Gateway
from labyard.testing.waiting import wait_until

COLLECTIONS = Path(__file__).parents[4] / "collections"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a module as Ansible does: arguments in, one JSON object out."""
    monkeypatch.syspath_prepend(str(COLLECTIONS))
    for name in [name for name in sys.modules if name.startswith("ansible_collections.labyard")]:
        monkeypatch.delitem(sys.modules, name)
    warnings: list[str] = []
    # Where Ansible's own parts are installed it would print them.
    monkeypatch.setattr(AnsibleModule, "warn", lambda _, text: warnings.append(text))

    def call(module: str, gateway: Gateway, /, *, check: bool = False, **given: Any) -> dict[str, Any]:
        options = {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": str(tmp_path)}
        main = import_module(f"ansible_collections.labyard.lab.plugins.modules.{module}").main
        capsys.readouterr()
        warnings.clear()
        with patch_module_args({"url": gateway.url, "timeout": 20} | given | options), pytest.raises(SystemExit):
            main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer | {"warnings": list(warnings)}

    return call


@pytest.fixture
def three(gateways: Gateways) -> list[Gateway]:
    return gateways(3, mdns="off")


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One that nothing changes."""
    gateway = Gateway(tmp_path_factory.mktemp("lone"), mdns="off")
    gateway.ready()
    yield gateway
    gateway.stop(signal.SIGKILL)


def host(gateway: Gateway) -> str:
    return f"127.0.0.1:{gateway.port}"


def options(gateway: Gateway) -> dict[str, Any]:
    found = gateway.http.get("/config").json()
    return {key.removeprefix("loadsharing_"): value for key, value in found.items() if key.startswith("loadsharing_")}


def joined(gateway: Gateway) -> list[str]:
    return sorted(entry["host"] for entry in gateway.peers if entry["joined"])


def failed(answer: dict[str, Any], text: str) -> bool:
    assert answer.get("failed"), answer
    assert text in answer["msg"], answer["msg"]
    return True


def test_a_group_is_made_changed_and_taken_apart(run: Run, three: list[Gateway]) -> None:
    controller, second, third = three
    given = {"members": [host(second), host(third)], "group_id": "garage", "group_max_current": 32}
    given |= {"heartbeat_timeout": 10, "failsafe_safe_current": 8, "rotation_interval": 600, "safety_factor": 0.9}
    given |= {"failsafe_peer_assumed_current": 8}
    given |= {"priority": 1, "priorities": {host(third): 7}}
    before = [options(gateway) for gateway in three]
    checked = run("evse_group", controller, check=True, **given)
    assert checked["changed"] and [options(gateway) for gateway in three] == before and controller.peers == []
    made = run("evse_group", controller, **given)
    assert made["changed"] and made["diff"] == checked["diff"]
    assert made["diff"]["after"]["members"] == sorted(given["members"])
    assert made["diff"]["before"]["group_max_current"] == 0 and made["diff"]["after"]["group_max_current"] == 32
    assert made["group"]["online_count"] == 3 and made["group"]["budget"] == pytest.approx(28.8)
    # Three chargers with 8 A each are 24 A: nothing to warn of.
    assert made["warnings"] == []
    kept = ("group_id", "group_max_current", "safety_factor", "heartbeat_timeout", "failsafe_safe_current")
    for gateway, role, priority in zip(three, ("controller", "member", "member"), (1, 0, 7), strict=True):
        found = options(gateway)
        assert (found["enabled"], found["role"], found["priority"]) == (True, role, priority)
        assert {key: found[key] for key in kept} == {key: given[key] for key in kept}
    assert options(controller)["rotation_interval"] == 600 and options(second)["rotation_interval"] != 600
    versions = [gateway.http.get("/config").json()["loadsharing_config_version"] for gateway in three]
    for check in (True, False):
        again = run("evse_group", controller, check=check, **given)
        assert not again["changed"] and again["diff"]["before"] == again["diff"]["after"] == {}
    assert [gateway.http.get("/config").json()["loadsharing_config_version"] for gateway in three] == versions

    # One leaves, and the supply is another.
    given |= {"members": [host(third)], "group_max_current": 20}
    less = run("evse_group", controller, **given)
    assert less["diff"]["before"]["group_max_current"] == 32 and less["diff"]["after"]["members"] == [host(third)]
    assert joined(controller) == [host(third)] and options(second)["role"] == "" and not options(second)["enabled"]
    wait_until(lambda: options(third)["group_max_current"] == 20, "the member is told")
    assert not run("evse_group", controller, **given)["changed"]

    gone = {"state": "absent"}
    checked = run("evse_group", controller, check=True, **gone)
    assert checked["changed"] and joined(controller) == [host(third)]
    assert run("evse_group", controller, **gone)["changed"]
    for gateway in three:
        found = options(gateway)
        assert (found["enabled"], found["role"], found["controller_host"]) == (False, "", "")
    assert joined(controller) == [] and options(controller)["group_max_current"] == 0
    assert not run("evse_group", controller, **gone)["changed"]


def test_a_safe_current_that_does_not_fit_is_warned_of(run: Run, three: list[Gateway]) -> None:
    controller, second, third = three
    made = run("evse_group", controller, members=[host(second), host(third)], group_max_current=16)
    assert "3 members without their controller may draw 18 A of 16 A" in made["warnings"][0]


def test_what_fails_half_way_is_taken_back(run: Run, three: list[Gateway]) -> None:
    controller, second, _ = three
    nobody = f"127.0.0.1:{free_port()}"
    fresh = options(controller)

    def unchanged() -> bool:
        counters = {"config_version", "config_updated_at"}
        now = options(controller)
        return all(now[key] == value for key, value in fresh.items() if key not in counters)

    # The last member is not there.
    given = {"members": [host(second), nobody], "group_max_current": 32, "group_id": "garage", "timeout": 10}
    answer = run("evse_group", controller, **given)
    assert failed(answer, f"members: {nobody} not online after 10 s") and "was taken back" in answer["msg"]
    assert unchanged() and joined(controller) == []
    wait_until(lambda: options(second)["role"] == "", "the member that was there is free again")
    # The gateway itself, by a name that the module does not know.
    answer = run("evse_group", controller, **given | {"members": [host(second), f"localhost:{controller.port}"]})
    assert failed(answer, "Cannot add local device as peer") and "was taken back" in answer["msg"]
    assert unchanged() and joined(controller) == []
    # A group that was there is as it was.
    wait_until(lambda: options(second)["role"] == "", "it is free")
    assert run("evse_group", controller, members=[host(second)], group_max_current=32)["changed"]
    fresh = options(controller)
    answer = run("evse_group", controller, members=[nobody], group_max_current=40, timeout=2)
    assert failed(answer, "was taken back") and unchanged() and joined(controller) == [host(second)]
    wait_until(lambda: options(second)["role"] == "member", "it is a member again")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"group_max_current": 0}, "group_max_current: is 0"),
        ({"group_max_current": -1}, "group_max_current: -1 is not 0 to"),
        ({"heartbeat_timeout": 4}, "heartbeat_timeout: 4 is not 5 to 600"),
        ({"safety_factor": 1.5}, "safety_factor: 1.5 is not 0 to 1"),
        ({"failsafe_mode": "off"}, "value of failsafe_mode must be one of"),
        ({"failsafe_safe_current": 33}, "failsafe_safe_current: 33 is more than group_max_current, 32"),
        ({"members": ["plain"]}, "members: 'plain' is no address"),
        ({"priorities": {"10.9.9.9": 1}}, "priorities: 10.9.9.9 is not among members"),
        ({"priorities": {"127.0.0.1:1": "high"}}, "priorities: 127.0.0.1:1 has 'high'"),
    ],
)
def test_a_wrong_value_is_refused_by_name(run: Run, lone: Gateway, change: dict[str, Any], said: str) -> None:
    before = options(lone)
    given = {"members": ["127.0.0.1:1"], "group_max_current": 32} | change
    for check in (True, False):
        assert failed(run("evse_group", lone, check=check, **given), said)
    assert options(lone) == before and lone.peers == []


def test_gateways_of_other_groups_are_refused(run: Run, three: list[Gateway]) -> None:
    controller, second, third = three
    assert run("evse_group", controller, members=[host(second)], group_max_current=32)["changed"]
    for check in (True, False):
        member = run("evse_group", second, check=check, members=[host(third)], group_max_current=32)
        assert failed(member, f"url: {second.url} is a member of the group of {controller.hostname}.local")
        taken = run("evse_group", third, check=check, members=[host(second)], group_max_current=32)
        assert failed(taken, f"members: {host(second)} is a member of the group of {controller.hostname}.local")
        other = run("evse_group", third, check=check, members=[host(controller)], group_max_current=32)
        assert failed(other, f"members: {host(controller)} is the controller of a group of its own")
        assert failed(run("evse_peer", second, check=check, host=host(third)), "url: ")
    assert not run("evse_group", second, state="absent")["changed"], "it controls nobody"
    assert joined(controller) == [host(second)] and joined(third) == []


def test_a_peer_is_added_once_and_removed(run: Run, three: list[Gateway]) -> None:
    controller, second, _ = three
    controller.configure(enabled=True, role="controller", group_max_current=32)
    given = {"host": f" {host(second)} "}
    checked = run("evse_peer", controller, check=True, **given)
    assert checked["changed"] and checked["diff"]["after"]["peers"] == [host(second)] and joined(controller) == []
    made = run("evse_peer", controller, **given)
    assert made["changed"] and made["diff"] == checked["diff"]
    assert (made["peer"]["host"], made["peer"]["online"]) == (host(second), True)
    serial = second.http.get("/config").json()["wifi_serial"]
    for other in (host(second), f"{second.hostname}.local:{second.port}", serial):
        for check in (True, False):
            assert not run("evse_peer", controller, check=check, host=other)["changed"], other
    gone = {"host": serial, "state": "absent"}
    assert run("evse_peer", controller, check=True, **gone)["changed"] and joined(controller) == [host(second)]
    assert run("evse_peer", controller, **gone)["changed"]
    assert joined(controller) == [] and options(second)["role"] == ""
    assert not run("evse_peer", controller, **gone)["changed"]
    nobody = f"127.0.0.1:{free_port()}"
    answer = run("evse_peer", controller, host=nobody, timeout=1)
    assert failed(answer, f"host: {nobody} not online after 1 s") and joined(controller) == []
    assert run("evse_peer", controller, host=nobody, timeout=0)["peer"]["online"] is False
    assert failed(run("evse_peer", controller, host="plain", timeout=0), "Invalid host format")


def test_a_gateway_that_is_not_there(run: Run, gateways: Gateways) -> None:
    (lone,) = gateways(1, mdns="off")
    lone.stop()
    given = {"members": ["127.0.0.1:1"], "group_max_current": 32, "priorities": {"127.0.0.1:1": 1}}
    assert failed(run("evse_group", lone, **given), f"nothing answers at {lone.url}")
    checked = run("evse_group", lone, check=True, **given)
    assert checked["changed"] and "an earlier task starts it" in checked["warnings"][0]
    assert checked["diff"]["after"]["members"] == ["127.0.0.1:1"]
    assert not run("evse_group", lone, check=True, state="absent")["changed"]
    assert failed(run("evse_peer", lone, host="127.0.0.1:1"), f"nothing answers at {lone.url}")
    assert run("evse_peer", lone, check=True, host="127.0.0.1:1")["changed"]


def test_a_group_with_a_password(run: Run, gateways: Gateways) -> None:
    two = gateways(2, mdns="off")
    controller, member = two
    for gateway in two:
        assert gateway.http.post("/config", json={"www_password": "a-secret-of-ours"}).status_code == 200
    given = {"members": [host(member)], "group_max_current": 32}
    assert failed(run("evse_group", controller, **given), "give the username and password of the gateway")
    made = run("evse_group", controller, password="a-secret-of-ours", priorities={host(member): 3}, **given)
    assert made["changed"] and made["group"]["online_count"] == 2
    assert "a-secret-of-ours" not in json.dumps(made)
    assert run("evse_group", controller, password="a-secret-of-ours", state="absent")["changed"]
