"""What the role evse_pair promises: each pair is a charger that answers, and comes back when a part of it dies."""

from __future__ import annotations

import json

import daemons
import pytest
from conftest import Api, assert_gone

from labyard.lab import LabHost
from labyard.testing.waiting import wait_until

PARTS = ("emulator", "bridge", "gateway")


class Pair:
    """Pair `number` of a host, as the probe and the host see it."""

    def __init__(self, host: LabHost, probe: LabHost, number: int) -> None:
        self.host, self.number = host, number
        self.link = f"/tmp/rapi_pty_{number}"
        self.settings = f"/etc/labyard/evse/pair-{number}.env"
        self.gateway = Api(probe, f"http://{host.address}:{host.value('evse_pair_gateway_base_port') + number}")
        self.emulator = Api(probe, f"http://{host.address}:{host.value('evse_pair_emulator_base_port') + number}")

    def unit(self, part: str) -> str:
        return f"labyard-evse-{part}@{self.number}.service"

    def process(self, part: str) -> int:
        return int(self.host.check(f"systemctl show --property MainPID --value {self.unit(part)}"))

    def kill(self, part: str) -> None:
        """kill -9, without a chance to clean up."""
        self.host.check(f"systemctl kill --signal KILL {self.unit(part)}")

    def is_connected(self) -> bool:
        """Whether the gateway hears its controller."""
        try:
            return self.gateway.good("GET", "/status")["rapi_connected"] == 1
        except RuntimeError:  # curl: connection refused
            return False

    def obeys(self, command: str) -> bool:
        """Whether the controller took a command of RAPI. It may be too busy to answer the gateway in time."""
        answer = self.gateway.call("GET", f"/r?json=1&rapi=%24{command}")[1]
        return isinstance(answer, dict) and str(answer.get("ret", "")).startswith("$OK")


@pytest.fixture
def pairs(host: LabHost, probe_host: LabHost) -> list[Pair]:
    return [Pair(host, probe_host, number) for number in range(host.value("evse_pair_count"))]


@pytest.fixture
def pair(pairs: list[Pair]) -> Pair:
    """The last one."""
    return pairs[-1]


class TestApplied:
    def test_every_part_runs(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            assert pair.host.shell.service(f"labyard-evse-pair@{pair.number}.target").is_enabled
            for part in PARTS:
                assert pair.host.shell.service(pair.unit(part)).is_running, pair.unit(part)

    def test_every_pair_is_ready_and_connected(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            assert pair.emulator.call("GET", "/api/status")[0] == 200
            assert pair.gateway.call("GET", "/config")[0] == 200
            wait_until(pair.is_connected, "rapi_connected")

    def test_each_terminal_is_a_link_to_its_own_pty(self, pairs: list[Pair]) -> None:
        terminals = {pair.host.check("readlink %s", pair.link).strip() for pair in pairs}
        assert len(terminals) == len(pairs) and all(name.startswith("/dev/pts/") for name in terminals)

    def test_a_command_goes_through_to_the_controller_of_the_pair(self, pairs: list[Pair]) -> None:
        """Each pair's display gets a text of its own, so that crossed lines would show."""
        for pair in pairs:
            wait_until(pair.is_connected, "rapi_connected")
            wait_until(lambda pair=pair: pair.obeys(f"FP+0+0+pair{pair.number}"), "an answer")
        for pair in pairs:
            display = pair.emulator.good("GET", "/api/status")["evse"]["lcd_row1"]
            assert display.startswith(f"pair{pair.number}"), display

    def test_every_gateway_has_an_id_and_a_name_of_its_own(self, pairs: list[Pair]) -> None:
        configs = [pair.gateway.good("GET", "/config") for pair in pairs]
        assert len({config["wifi_serial"] for config in configs}) == len(pairs)
        assert len({config["hostname"] for config in configs}) == len(pairs)
        if pairs[0].host.value("evse_pair_gateway_impl") == "native":
            name = pairs[0].host.value("evse_pair_native_name")
            assert [config["hostname"] for config in configs] == [f"{name}-{pair.number}" for pair in pairs]
            given = [pair.host.check(f"grep ^OPENEVSE_CHIP_ID= {pair.settings}").strip() for pair in pairs]
            assert [f"OPENEVSE_CHIP_ID={config['wifi_serial'].lower()}" for config in configs] == given

    def test_options_arrive_as_they_are_written(self, host: LabHost, pairs: list[Pair]) -> None:
        for pair in pairs:
            config = pair.gateway.good("GET", "/config")
            for name, value in host.value("evse_pair_config").items():
                assert config[name] == value

    def test_settings_are_readable_by_root_only(self, host: LabHost, pair: Pair) -> None:
        settings = host.shell.file(pair.settings)
        assert (settings.mode, settings.user) == (0o600, "root")

    def test_the_gateway_runs_as_nobody_special(self, host: LabHost, pair: Pair) -> None:
        assert host.check(f"stat --format %U /proc/{pair.process('gateway')}").strip() == host.value("evse_pair_user")

    def test_the_bridge_comes_back_within_a_second(self, host: LabHost, pair: Pair) -> None:
        """As systemd has it: from its end to its start. The quickest of three, since a busy host may stand still."""
        unit, took = pair.unit("bridge"), []
        for _ in range(3):
            daemons.kill(host, unit)
            stamps = host.check(
                f"systemctl show --property InactiveEnterTimestampMonotonic,ActiveEnterTimestampMonotonic {unit}"
            )
            times = {name: int(value) for name, _, value in (line.partition("=") for line in stamps.split())}
            took.append(times["ActiveEnterTimestampMonotonic"] - times["InactiveEnterTimestampMonotonic"])
            wait_until(lambda: pair.obeys("GS"), "an answer over the new one")
        assert 0 < min(took) < 1_000_000, took
        wait_until(pair.is_connected, "rapi_connected")

    def test_the_gateway_finds_a_killed_emulator_again(self, pair: Pair) -> None:
        wait_until(pair.is_connected, "rapi_connected")
        before = pair.process("emulator")
        pair.kill("emulator")
        wait_until(lambda: pair.process("emulator") not in (0, before), "a new emulator")
        wait_until(pair.is_connected, "rapi_connected")
        wait_until(lambda: pair.obeys("GS"), "an answer")

    def test_a_killed_gateway_keeps_what_it_was_told(self, pair: Pair) -> None:
        before = pair.gateway.good("GET", "/config")
        pair.gateway.good("POST", "/config", mqtt_topic="kept/over/a/kill")
        try:
            process = pair.process("gateway")
            pair.kill("gateway")
            wait_until(lambda: pair.process("gateway") not in (0, process) and pair.is_connected(), "a new gateway")
            after = pair.gateway.good("GET", "/config")
            assert after["mqtt_topic"] == "kept/over/a/kill"
            assert after["wifi_serial"] == before["wifi_serial"]
        finally:
            pair.gateway.good("POST", "/config", mqtt_topic=before["mqtt_topic"])

    def test_leftovers_do_not_keep_a_pair_from_starting(self, host: LabHost, pair: Pair) -> None:
        """A link of another user, as a killed run by hand leaves it, and a container."""
        target = f"labyard-evse-pair@{pair.number}.target"
        host.check(f"systemctl stop {target} {' '.join(pair.unit(part) for part in PARTS)}")
        assert not host.shell.file(pair.link).exists, "a bridge that is stopped takes its link away"
        host.check("ln -s /dev/pts/4711 %s", pair.link)
        if host.value("evse_pair_emulator_impl") == "docker":
            ports = f"--publish {host.value('evse_pair_emulator_base_port') + pair.number}:8080"
            image = host.value("evse_pair_emulator_image")
            host.check(f"docker run --detach --name emulator_{pair.number} {ports} {image}")
        host.check(f"systemctl start {target}")
        wait_until(pair.is_connected, "rapi_connected")

    def test_a_file_in_the_place_of_the_link_is_left_alone(self, host: LabHost, pair: Pair) -> None:
        unit = pair.unit("bridge")
        host.check(f"systemctl stop {unit}")
        host.check("printf precious > %s", pair.link)
        try:
            assert host.run(f"systemctl start {unit}").rc != 0
            assert host.shell.file(pair.link).content_string == "precious"
            wait_until(
                lambda: "move it away" in host.check(f"journalctl --no-pager --lines 20 --unit {unit}"), "a message"
            )
        finally:
            host.check("rm %s", pair.link)
            host.check(f"systemctl restart {unit}")
        wait_until(pair.is_connected, "rapi_connected")

    def test_a_stopped_pair_stops_at_once_and_in_order(self, host: LabHost, pair: Pair) -> None:
        """Bridge, emulator, gateway; none of them needs to be killed."""
        units = [pair.unit(part) for part in ("bridge", "emulator", "gateway")]
        target = f"labyard-evse-pair@{pair.number}.target"
        try:
            host.check(f"systemctl stop {target} {' '.join(units)}")
            ended = [
                int(host.check(f"systemctl show --property InactiveEnterTimestampMonotonic --value {unit}"))
                for unit in units
            ]
            assert ended == sorted(ended)
            results = [host.check(f"systemctl show --property Result --value {unit}").strip() for unit in units]
            assert "timeout" not in results
        finally:
            host.check(f"systemctl start {target}")
        wait_until(pair.is_connected, "rapi_connected")

    def test_the_card_says_what_listens_where(self, host: LabHost, pairs: list[Pair]) -> None:
        for pair in pairs:
            card = json.loads(host.shell.file(f"/etc/labyard/services.d/evse_pair_{pair.number}.json").content_string)
            for base in ("gateway", "emulator", "rapi"):
                port = host.value(f"evse_pair_{base}_base_port") + pair.number
                assert any(address.endswith(f":{port}/tcp") for address in card["listen"])
            for address in card["listen"]:
                assert host.check(f"ss -H -lnt src {address.removesuffix('/tcp')}")


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        units = [f"/etc/systemd/system/labyard-evse-{part}@.service" for part in PARTS]
        folders = ["/opt/labyard", "/etc/labyard/evse", "/var/lib/labyard/evse"]
        assert_gone(host, "evse_pair_0", *units, *folders, "/etc/systemd/system/labyard-evse-pair@.target")
        assert_gone(host, "evse_pair_1", "/tmp/rapi_pty_0", "/tmp/rapi_pty_1")
        assert host.check("systemctl list-units --all --plain --no-legend 'labyard-evse-*'") == ""
        if host.value("evse_pair_emulator_impl") == "docker":
            assert host.check("docker ps --all --quiet --filter name=emulator_") == ""
        assert not host.shell.user(host.value("evse_pair_user")).exists
        for base in ("gateway", "emulator", "rapi"):
            assert not host.check(f"ss -H -lnt sport = :{host.value(f'evse_pair_{base}_base_port')}")
