"""What the emulator is told: defaults < JSON file < environment < command line. Each key is declared once, below."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from labyard.evse.clock import MAX_SCALE

Read = Callable[[Any], Any]  # takes a value of a JSON file, or a text; ValueError says what it must be
DEFAULT_FILE = "config.json"
MIN_AMPS, MAX_AMPS = 6, 80
BAUDRATES = (1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400)


class ConfigError(Exception):
    """A value that cannot be used; the text names the key, and where it came from."""


def _integer(low: int, high: int) -> Read:
    def read(value: Any) -> int:
        text = str(value)
        if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,15}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return read


def _number(low: float, high: float) -> Read:
    def read(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return number

    return read


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _choice(*choices: object) -> Read:
    def read(value: Any) -> Any:
        for choice in choices:
            if not isinstance(value, bool) and str(value).lower() == str(choice).lower():
                return choice
        raise ValueError("one of " + ", ".join(str(choice) for choice in choices))

    return read


def _text(pattern: str, what: str) -> Read:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(what)
        return value

    return read


def _optional(inner: Read) -> Read:
    def read(value: Any) -> Any:
        return None if value is None else inner(value)

    return read


def _key(default: Any, read: Read, help: str, *, flag: str | None = None, env: str | None = None) -> Any:
    """`flag` None: --SECTION-NAME; a boolean has --SECTION-[no-]NAME."""
    return field(default=default, metadata={"read": read, "help": help, "flag": flag, "env": env})


_port = _integer(1, 65535)
# A version travels as one word of a RAPI line, which has 32 bytes.
_version = _text(r"\d{1,3}\.\d{1,3}\.\d{1,3}[\w.+-]{0,8}", "a version such as 8.2.1")


@dataclass(frozen=True)
class Serial:
    mode: str = _key("pty", _choice("pty", "tcp"), "how RAPI is offered", env="SERIAL_MODE")
    tcp_port: int = _key(8023, _port, "port of RAPI in tcp mode, on web.host", env="SERIAL_TCP_PORT")
    baudrate: int = _key(115200, _choice(*BAUDRATES), "speed that the PTY is set to")
    pty_path: str = _key(
        "/tmp/rapi_pty", _text(r"/.+", "an absolute path"), "link to the PTY in pty mode", env="SERIAL_PTY_PATH"
    )
    reconnect_timeout_sec: int = _key(
        60,
        _integer(0, 86400),
        "give up a lost PTY link after so many seconds",
        flag="--serial-reconnect-timeout",
        env="SERIAL_RECONNECT_TIMEOUT",
    )
    reconnect_backoff_ms: int = _key(
        1000,
        _integer(10, 60000),
        "look for a lost PTY link, and make it again, so often",
        flag="--serial-reconnect-backoff",
        env="SERIAL_RECONNECT_BACKOFF",
    )
    strict_checksum: bool = _key(True, _boolean, "answer $NK to a wrong checksum; else log it and execute")
    observer_port: int | None = _key(None, _optional(_port), "port with a copy of all lines, read only")


@dataclass(frozen=True)
class Evse:
    firmware_version: str = _key("8.2.1", _version, "what $GV reports")
    protocol_version: str = _key("5.0.1", _version, "what $GV reports; below 5.0.0 $GS has the old form")
    default_current: int = _key(32, _integer(MIN_AMPS, MAX_AMPS), "A, pilot and stored maximum at the start")
    service_level: str = _key("L2", _choice("L1", "L2", "Auto"), "L1 is 120 V, L2 is 240 V")
    gfci_self_test: bool = _key(True, _boolean, "test the GFCI at boot; without, that fault cannot come")
    profile: str = _key("real", _choice("real", "legacy"), "legacy answers like the public emulator image")


@dataclass(frozen=True)
class Ev:
    battery_capacity_kwh: float = _key(75.0, _number(1, 1000), "the car's battery")
    max_charge_rate_kw: float = _key(7.2, _number(0, 100), "the most that the car draws")


@dataclass(frozen=True)
class Web:
    host: str = _key("127.0.0.1", _text(r"[\w.:-]+", "an address"), "address to listen on", env="WEB_HOST")
    port: int = _key(8080, _port, "port of the HTTP API", env="WEB_PORT")


@dataclass(frozen=True)
class Simulation:
    update_interval_ms: int = _key(1000, _integer(10, 60000), "the car and the charger move on so often")
    temperature_simulation: bool = _key(True, _boolean, "the charger warms with its current")
    realistic_charge_curve: bool = _key(True, _boolean, "the car takes less above 80 %")
    seed: int = _key(0, _integer(-(2**31), 2**31), "of current variance", flag="--seed", env="LABYARD_SEED")
    time_scale: float = _key(
        1.0,
        _number(1, MAX_SCALE),
        "how much faster the charger's time runs",
        flag="--time-scale",
        env="LABYARD_TIME_SCALE",
    )


@dataclass(frozen=True)
class Config:
    serial: Serial = Serial()
    evse: Evse = Evse()
    ev: Ev = Ev()
    web: Web = Web()
    simulation: Simulation = Simulation()


class Key(NamedTuple):
    """One key of a section, as the three sources name it."""

    section: str
    field: Field[Any]

    @property
    def name(self) -> str:
        return f"{self.section}.{self.field.name}"

    @property
    def env(self) -> str | None:
        name: str | None = self.field.metadata["env"]
        return name

    @property
    def flag(self) -> str:
        return self.field.metadata["flag"] or "--" + self.name.replace(".", "-").replace("_", "-")

    @property
    def is_switch(self) -> bool:
        return isinstance(self.field.default, bool)

    def read(self, value: Any, source: str) -> Any:
        """The value as the program uses it. ConfigError: it cannot."""
        try:
            return self.field.metadata["read"](value)
        except ValueError as error:
            raise ConfigError(f"{source}: must be {error}, not {value!r}") from None


_SECTIONS: dict[str, type[Any]] = {"serial": Serial, "evse": Evse, "ev": Ev, "web": Web, "simulation": Simulation}
KEYS = {key.name: key for name, section in _SECTIONS.items() for key in (Key(name, item) for item in fields(section))}

Values = dict[str, Any]


def load(arguments: Sequence[str], environment: Mapping[str, str], warn: Callable[[str], None]) -> Config:
    """All sources merged. ConfigError: the file or the command line is wrong; a wrong environment variable is ignored,
    and told to `warn`. SystemExit: `--help`, or a flag that there is not."""
    options = vars(_parser().parse_args(arguments))
    path = options.pop("config", None)
    values: Values = {}
    if path is not None or Path(DEFAULT_FILE).exists():
        values |= _from_file(Path(path or DEFAULT_FILE))
    values |= _from_environment(environment, warn)
    values |= {name: KEYS[name].read(value, KEYS[name].flag) for name, value in options.items()}
    return build(values)


def build(values: Values) -> Config:
    """A configuration of values that were read, by full name ("web.port"); the others have their defaults."""
    made = {
        name: section(**{key.field.name: values[key.name] for key in _of(name) if key.name in values})
        for name, section in _SECTIONS.items()
    }
    return Config(**made)


def _of(section: str) -> list[Key]:
    return [key for key in KEYS.values() if key.section == section]


def _from_file(path: Path) -> Values:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a JSON object")
    values: Values = {}
    for section, items in content.items():
        if section not in _SECTIONS:
            raise ConfigError(f"{path}: {section}: no such key; there are {', '.join(_SECTIONS)}")
        if not isinstance(items, dict):
            raise ConfigError(f"{path}: {section}: must be an object, not {items!r}")
        for name, value in items.items():
            full = f"{section}.{name}"
            if full not in KEYS:
                raise ConfigError(f"{path}: {full}: no such key")
            values[full] = KEYS[full].read(value, f"{path}: {full}")
    return values


def _from_environment(environment: Mapping[str, str], warn: Callable[[str], None]) -> Values:
    values: Values = {}
    for key in KEYS.values():
        if key.env is not None and key.env in environment:
            try:
                values[key.name] = key.read(environment[key.env], key.env)
            except ConfigError as error:
                warn(f"ignored: {error}")
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="labyard-evse-emulator",
        description="A charger's controller with a car at it.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help=f"JSON file [{DEFAULT_FILE} where there is one]")
    for key in KEYS.values():
        note = f"{key.field.metadata['help']} [{key.field.default}]".replace("%", "%%")
        if key.env:
            note += f" ({key.env})"
        if key.is_switch:
            # BooleanOptionalAction would make --no-SECTION-NAME of it.
            negative = key.flag.replace(f"--{key.section}-", f"--{key.section}-no-")
            parser.add_argument(key.flag, dest=key.name, action="store_true", help=note)
            parser.add_argument(negative, dest=key.name, action="store_false", help="the contrary")
        else:
            parser.add_argument(key.flag, dest=key.name, metavar="VALUE", help=note)
    return parser
