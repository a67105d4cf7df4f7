"""What the role evse_group promises: the chargers of each group share its supply, and no others do."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Api

from labyard.lab import LabHost
from labyard.testing.waiting import wait_until

Group = dict[str, Any]


class Gateways:
    """The gateways of all pairs that the role knows, from the probe host."""

    def __init__(self, host: LabHost, probe: LabHost) -> None:
        self.addresses: dict[str, str] = host.value("evse_group_pairs")
        self.here = [pair for pair in self.addresses if pair.startswith(f"{host.name}/")]
        self._probe = probe

    def at(self, pair: str) -> Api:
        return Api(self._probe, f"http://{self.addresses[pair]}")

    def options(self, pair: str) -> dict[str, Any]:
        """Those of load sharing, without what their names begin with."""
        found = self.at(pair).good("GET", "/config")
        start = "loadsharing_"
        return {key.removeprefix(start): value for key, value in found.items() if key.startswith(start)}

    def joined(self, pair: str) -> dict[str, bool]:
        """The peers of its group, and whether each is online."""
        peers = self.at(pair).good("GET", "/loadsharing/peers")
        return {peer["host"]: peer["online"] for peer in peers if peer["joined"] and not peer["isLocal"]}

    def status(self, group: Group) -> dict[str, Any]:
        """What the controller says of its group."""
        found: dict[str, Any] = self.at(group["controller"]).good("GET", "/loadsharing/status")
        return found

    def sharing(self, pair: str) -> str:
        return str(self.at(pair).good("GET", "/status")["loadsharing_state"])


@pytest.fixture
def gateways(host: LabHost, probe_host: LabHost) -> Gateways:
    found = Gateways(host, probe_host)
    assert found.here, f"{host.name} has the role evse_group and no pair in evse_group_pairs"
    return found


@pytest.fixture
def groups(host: LabHost, gateways: Gateways) -> list[Group]:
    """Those that a pair of this host is in."""
    groups: list[Group] = host.value("evse_group_groups")
    return [group for group in groups if {group["controller"], *group["members"]} & set(gateways.here)]


class TestApplied:
    def test_a_group_is_here(self, groups: list[Group]) -> None:
        assert groups

    def test_each_charger_is_what_the_inventory_says(self, gateways: Gateways, groups: list[Group]) -> None:
        roles = dict.fromkeys(gateways.here, "")
        for group in groups:
            roles |= {pair: "member" for pair in group["members"] if pair in roles}
            roles |= {group["controller"]: "controller"} if group["controller"] in roles else {}
        found = {pair: gateways.options(pair) for pair in gateways.here}
        assert {pair: options["role"] for pair, options in found.items()} == roles
        assert {pair: options["enabled"] for pair, options in found.items()} == {
            pair: role != "" for pair, role in roles.items()
        }

    def test_each_member_has_the_settings_of_its_group(self, gateways: Gateways, groups: list[Group]) -> None:
        named = {"id": "group_id", "budget_amps": "group_max_current"}
        pushed = ("heartbeat_timeout", "safety_factor", "failsafe_mode", "failsafe_safe_current")
        for group in groups:
            for pair in {group["controller"], *group["members"]} & set(gateways.here):
                options = gateways.options(pair)
                for key in ("id", "budget_amps", *(key for key in pushed if key in group)):
                    assert options[named.get(key, key)] == group[key], (pair, key)
                assert options["priority"] == group.get("priorities", {}).get(pair, 0)

    def test_the_controller_has_exactly_its_members_all_online(self, gateways: Gateways, groups: list[Group]) -> None:
        for group in groups:
            wanted = {gateways.addresses[pair]: True for pair in group["members"]}
            wait_until(lambda group=group, wanted=wanted: gateways.joined(group["controller"]) == wanted, "all online")
            wait_until(lambda group=group: not gateways.status(group)["failsafe_active"], "it hears them")
            status = gateways.status(group)
            assert status["budget"] == group["budget_amps"] * group.get("safety_factor", 1)
            assert len(status["allocations"]) == len(wanted) + 1
            assert status["committed_total"] <= status["budget"] and status["config_issues"] == []

    def test_members_hear_their_controller(self, gateways: Gateways, groups: list[Group]) -> None:
        for group in groups:
            for pair in set(group["members"]) & set(gateways.here):
                wait_until(
                    lambda pair=pair: gateways.sharing(pair) in ("member", "member_limited"),
                    lambda pair=pair: f"{pair} hears its controller, not: {gateways.sharing(pair)}",
                )


class TestRemoved:
    def test_no_charger_is_in_a_group(self, gateways: Gateways) -> None:
        for pair in gateways.here:
            options = gateways.options(pair)
            assert (options["enabled"], options["role"], options["controller_host"]) == (False, "", ""), pair
            assert gateways.joined(pair) == {}
