from __future__ import annotations

import json
from pathlib import Path

import pytest

from labyard.evse.emulator.config import KEYS, Config, ConfigError, load


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(*arguments: str, env: dict[str, str] | None = None) -> Config:
    def warn(text: str) -> None:
        raise AssertionError(text)

    return load(arguments, env or {}, warn)


def write(content: object, name: str = "config.json") -> None:
    Path(name).write_text(json.dumps(content), encoding="utf-8")


def test_the_defaults() -> None:
    config = read()
    assert config == Config()
    assert (config.web.host, config.web.port, config.serial.tcp_port) == ("127.0.0.1", 8080, 8023)
    assert (config.evse.firmware_version, config.evse.protocol_version) == ("8.2.1", "5.0.1")
    assert (config.ev.battery_capacity_kwh, config.ev.max_charge_rate_kw) == (75, 7.2)


def test_file_environment_and_command_line_come_in_this_order() -> None:
    write({"web": {"port": 1001, "host": "::1"}, "serial": {"tcp_port": 1002}, "simulation": {"seed": 3}})
    env = {"WEB_PORT": "2001", "SERIAL_TCP_PORT": "2002"}
    config = read("--web-port", "3001", env=env)
    assert (config.web.port, config.serial.tcp_port, config.simulation.seed) == (3001, 2002, 3)
    assert config.web.host == "::1"
    assert config.evse == Config().evse, "a partial file is merged with the defaults"


def test_another_file() -> None:
    write({"web": {"port": 1001}})
    write({"web": {"port": 1002}}, "other.json")
    assert read("--config", "other.json").web.port == 1002


FLAGS = {
    "serial.mode": ("--serial-mode", "tcp"),
    "serial.tcp_port": ("--serial-tcp-port", "9000"),
    "serial.baudrate": ("--serial-baudrate", "9600"),
    "serial.pty_path": ("--serial-pty-path", "/tmp/x"),
    "serial.reconnect_timeout_sec": ("--serial-reconnect-timeout", "5"),
    "serial.reconnect_backoff_ms": ("--serial-reconnect-backoff", "50"),
    "serial.strict_checksum": ("--serial-no-strict-checksum", None),
    "serial.observer_port": ("--serial-observer-port", "9001"),
    "evse.firmware_version": ("--evse-firmware-version", "7.1.3"),
    "evse.protocol_version": ("--evse-protocol-version", "4.0.1"),
    "evse.default_current": ("--evse-default-current", "16"),
    "evse.service_level": ("--evse-service-level", "l1"),
    "evse.gfci_self_test": ("--evse-no-gfci-self-test", None),
    "evse.profile": ("--evse-profile", "legacy"),
    "ev.battery_capacity_kwh": ("--ev-battery-capacity-kwh", "40.5"),
    "ev.max_charge_rate_kw": ("--ev-max-charge-rate-kw", "11"),
    "web.host": ("--web-host", "0.0.0.0"),
    "web.port": ("--web-port", "9002"),
    "simulation.update_interval_ms": ("--simulation-update-interval-ms", "100"),
    "simulation.temperature_simulation": ("--simulation-no-temperature-simulation", None),
    "simulation.realistic_charge_curve": ("--simulation-no-realistic-charge-curve", None),
    "simulation.seed": ("--seed", "9"),
    "simulation.time_scale": ("--time-scale", "60"),
}


@pytest.mark.parametrize("name", KEYS)
def test_every_key_has_a_flag(name: str) -> None:
    flag, value = FLAGS[name]
    config = read(flag) if value is None else read(flag, value)
    section, key = name.split(".")
    found = getattr(getattr(config, section), key)
    assert found != getattr(getattr(Config(), section), key)
    assert value is None or str(found).lower() in (value, f"{value}.0")


@pytest.mark.parametrize("switch", ["evse-{}gfci-self-test", "simulation-{}temperature-simulation"])
def test_switches_go_both_ways(switch: str) -> None:
    assert read("--" + switch.format("no-"), "--" + switch.format("")) == Config()


ENVIRONMENT = {
    "SERIAL_MODE": "serial.mode",
    "SERIAL_TCP_PORT": "serial.tcp_port",
    "SERIAL_PTY_PATH": "serial.pty_path",
    "SERIAL_RECONNECT_TIMEOUT": "serial.reconnect_timeout_sec",
    "SERIAL_RECONNECT_BACKOFF": "serial.reconnect_backoff_ms",
    "WEB_HOST": "web.host",
    "WEB_PORT": "web.port",
    "LABYARD_TIME_SCALE": "simulation.time_scale",
    "LABYARD_SEED": "simulation.seed",
}


def test_the_environment() -> None:
    assert {key.env: name for name, key in KEYS.items() if key.env} == ENVIRONMENT
    for variable, name in ENVIRONMENT.items():
        value = FLAGS[name][1]
        assert value is not None
        assert read(env={variable: value}) == read(FLAGS[name][0], value)


def test_a_bad_environment_variable_is_ignored_and_named() -> None:
    warned: list[str] = []
    assert load([], {"WEB_PORT": "eighty", "LABYARD_TIME_SCALE": "0.5"}, warned.append) == Config()
    assert warned == [
        "ignored: WEB_PORT: must be a whole number from 1 to 65535, not 'eighty'",
        "ignored: LABYARD_TIME_SCALE: must be a number from 1 to 120, not '0.5'",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"web": {"port": 0}}, "config.json: web.port: must be a whole number from 1 to 65535, not 0"),
        ({"web": {"port": True}}, "web.port"),
        ({"web": {"port": 80.5}}, "web.port"),
        ({"web": {"port": None}}, "web.port"),
        ({"web": {"prot": 80}}, "config.json: web.prot: no such key"),
        ({"net": {}}, "config.json: net: no such key"),
        ({"web": 80}, "config.json: web: must be an object"),
        ([], "config.json: must hold a JSON object"),
        ({"serial": {"mode": "usb"}}, "serial.mode: must be one of pty, tcp, not 'usb'"),
        ({"serial": {"mode": ["tcp"]}}, "serial.mode"),
        ({"serial": {"baudrate": 1}}, "serial.baudrate"),
        ({"serial": {"pty_path": "rapi"}}, "serial.pty_path: must be an absolute path"),
        ({"serial": {"strict_checksum": 1}}, "serial.strict_checksum: must be true or false"),
        ({"evse": {"firmware_version": "8 2"}}, "evse.firmware_version"),
        ({"evse": {"default_current": 5}}, "evse.default_current"),
        ({"evse": {"service_level": True}}, "evse.service_level"),
        ({"ev": {"battery_capacity_kwh": "big"}}, "ev.battery_capacity_kwh"),
        ({"ev": {"max_charge_rate_kw": True}}, "ev.max_charge_rate_kw"),
        ({"ev": {"max_charge_rate_kw": 10**400}}, "ev.max_charge_rate_kw"),
        ({"simulation": {"time_scale": 500}}, "simulation.time_scale: must be a number from 1 to 120"),
    ],
)
def test_a_wrong_file_names_the_key(content: object, message: str) -> None:
    write(content)
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        read()


def test_a_file_that_is_no_json_or_not_there() -> None:
    for text in ("{", "[" * 100_000):
        Path("config.json").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="is not JSON"):
            read()
    with pytest.raises(ConfigError, match=r"--config nowhere\.json: cannot be read"):
        read("--config", "nowhere.json")


def test_a_wrong_command_line_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="--web-port: must be a whole number from 1 to 65535, not 'x'"):
        read("--web-port", "x")
    with pytest.raises(SystemExit) as stop:
        read("--web-prot", "1")
    assert stop.value.code == 2 and "--web-prot" in capsys.readouterr().err


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(flag in shown for flag, _ in FLAGS.values())
