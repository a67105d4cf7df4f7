"""The options of a gateway: which there are, their types, defaults and ranges, and the store: contract 5.2."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from labyard.evse.gateway.storage import Storage

Kind = Literal["string", "bool", "integer", "real"]
FILE = "options.json"
DUMMY = "_DUMMY_PASSWORD"  # stands for a secret that is set; writing it changes nothing
MAX_TEXT = 255


class BadOption(Exception):
    """A value that its key cannot have. The text names the key."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Option:
    key: str
    kind: Kind
    default: Any
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    secret: bool = False
    read_only: bool = False
    # Lives in the EVSE's memory, not in our file: its value here is what was last read.
    in_evse: bool = False

    def parse(self, value: Any) -> Any:
        """The value in this option's type. BadOption if it cannot be."""
        typed = _PARSERS[self.kind](value)
        if typed is None:
            raise BadOption(f"{self.key} must be {_NAMES[self.kind]}")
        if self.choices and typed not in self.choices:
            allowed = ", ".join(repr(choice) if choice == "" else str(choice) for choice in self.choices)
            raise BadOption(f"{self.key} must be one of: {allowed}")
        if (self.low is not None and typed < self.low) or (self.high is not None and typed > self.high):
            raise BadOption(f"{self.key} must be {_range(self.low, self.high)}")
        return typed


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low:g}"
    return f"at most {high:g}" if low is None else f"{low:g} to {high:g}"


_NAMES = {"string": f"text of at most {MAX_TEXT} characters", "bool": "true or false", "integer": "a whole number"}
_NAMES["real"] = "a number"
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def _string(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = str(value)
    return text if len(text) <= MAX_TEXT and text.isprintable() else None


def _bool(value: Any) -> bool | None:
    text = str(value).lower()
    if isinstance(value, (bool, int, str)):
        return True if text in _TRUE else False if text in _FALSE else None
    return None


def _real(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _integer(value: Any) -> int | None:
    number = _real(value)
    return int(number) if number is not None and number == int(number) and abs(number) < 2**53 else None


_PARSERS: dict[str, Callable[[Any], Any]] = {"string": _string, "bool": _bool, "real": _real, "integer": _integer}

_OPTIONS = (
    # server
    Option("www_http_port", "integer", 8000, 1, 65535),
    Option("www_https_port", "integer", 8443, 1, 65535),
    Option("www_username", "string", "openevseadmin"),
    Option("www_password", "string", "", secret=True),
    Option("hostname", "string", ""),
    Option("time_zone", "string", "Europe/London|GMT0BST,M3.5.0/1,M10.5.0"),
    Option("sntp_enabled", "bool", True),
    Option("sntp_hostname", "string", "pool.ntp.org"),
    Option("lang", "string", "en"),
    # EVSE
    Option("max_current_soft", "integer", 0, 0, 80, in_evse=True),
    Option("service", "integer", 2, choices=(1, 2), in_evse=True),
    *(
        Option(f"{check}_check", "bool", True, in_evse=True)
        for check in ("diode", "gfci", "ground", "relay", "vent", "temp")
    ),
    Option("scale", "integer", 220, 1, 32767, in_evse=True),
    Option("offset", "integer", 0, -32768, 32767, in_evse=True),
    Option("voltage", "integer", 24000, 6000, 60000),  # V * 100
    Option("heartbeat_enabled", "bool", False),  # ours: whether $SY is used at all
    Option("heartbeat_interval", "integer", 5, 1, 255),  # s
    Option("heartbeat_current", "integer", 6, 0, 80),  # A
    Option("pause_uses_disabled", "bool", False),
    Option("default_state", "bool", True),
    Option("led_brightness", "integer", 128, 0, 255),
    # charging
    Option("charge_mode", "string", "fast", choices=("fast", "eco")),
    Option("divert_enabled", "bool", False),
    Option("divert_type", "integer", -1, -1, 1),
    Option("divert_PV_ratio", "real", 1.1, 0, 10),
    Option("current_shaper_enabled", "bool", False),
    Option("current_shaper_max_pwr", "integer", 0, 0, 1_000_000),  # W
    Option("limit_default_type", "string", "", choices=("", "none", "time", "energy", "soc", "range")),
    Option("limit_default_value", "integer", 0, 0, 1_000_000_000),
    Option("scheduler_start_window", "integer", 600, 0, 86400),  # s
    Option("vehicle_data_src", "integer", 0, 0, 3),
    # stored only
    Option("mqtt_enabled", "bool", False),
    Option("mqtt_protocol", "string", "mqtt"),
    Option("mqtt_server", "string", "emonpi"),
    Option("mqtt_port", "integer", 1883, 1, 65535),
    Option("mqtt_topic", "string", ""),
    Option("mqtt_user", "string", ""),
    Option("mqtt_pass", "string", "", secret=True),
    Option("mqtt_solar", "string", ""),
    Option("mqtt_grid_ie", "string", ""),
    Option("emoncms_enabled", "bool", False),
    Option("emoncms_server", "string", "https://data.openevse.com/emoncms"),
    Option("emoncms_node", "string", ""),
    Option("emoncms_apikey", "string", "", secret=True),
    Option("emoncms_fingerprint", "string", ""),
    Option("ocpp_enabled", "bool", False),
    Option("ocpp_server", "string", ""),
    Option("ohm_enabled", "bool", False),
    Option("ohm_key", "string", ""),
    Option("rfid_enabled", "bool", False),
    Option("rfid_storage", "string", ""),
    # load sharing
    Option("loadsharing_enabled", "bool", False),
    Option("loadsharing_role", "string", "", choices=("", "controller", "member")),
    Option("loadsharing_controller_host", "string", ""),
    Option("loadsharing_group_id", "string", ""),
    Option("loadsharing_group_max_current", "real", 0.0, 0),  # A
    Option("loadsharing_safety_factor", "real", 1.0, 0, 1),
    Option("loadsharing_heartbeat_timeout", "integer", 30, 5, 600),  # s
    Option("loadsharing_failsafe_mode", "string", "safe_current", choices=("safe_current", "disable")),
    Option("loadsharing_failsafe_safe_current", "real", 6.0, 0, 80),  # A
    Option("loadsharing_failsafe_peer_assumed_current", "real", 6.0, 0, 80),  # A
    Option("loadsharing_priority", "integer", 0, -(2**31), 2**31 - 1),
    Option("loadsharing_rotation_interval", "integer", 1800, 0, 31_536_000),  # s, 0 = off
    Option("loadsharing_config_version", "integer", 0, read_only=True),
    Option("loadsharing_config_updated_at", "integer", 0, read_only=True),
    Option("loadsharing_compat", "string", "reject", choices=("reject", "idempotent")),
    Option("loadsharing_two_phase", "bool", True),
    Option("loadsharing_connected_min_in_budget", "bool", True),
    Option("loadsharing_subset_topup", "bool", False),
)
TABLE = {option.key: option for option in _OPTIONS}

# Settings of services that are not here: any key of theirs is kept and read back.
_STORED_ONLY = re.compile(r"(?:mqtt|emoncms|ocpp|ohm|rfid)_[A-Za-z0-9_]{1,40}")
_SECRET = re.compile(r"pass|key|token|secret", re.IGNORECASE)
MAX_STORED_ONLY = 64
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

# Looks at the values that are about to be set, typed, may add to them, and refuses with BadOption.
# Its second argument is the address that the request came from, "" for the gateway itself.
Guard = Callable[[dict[str, Any], str], None]


class Options:
    """All options with their values. `version` rises by 1 with each update that changes something."""

    def __init__(self, storage: Storage) -> None:
        """What the file holds and no longer fits is left out."""
        self.version = 1
        self._storage = storage
        self._defaults = {key: option.default for key, option in TABLE.items()}
        self._values: dict[str, Any] = {}
        self._guards: list[Guard] = []
        self._listeners: list[Callable[[frozenset[str]], None]] = []
        kept = storage.read(FILE)
        for key, value in kept.items() if isinstance(kept, dict) else ():
            try:
                self._values |= self._parse({key: value}, stored=True)
            except BadOption:
                continue

    def __getitem__(self, key: str) -> Any:
        return self._values[key] if key in self._values else self._defaults[key]

    def guard(self, guard: Guard) -> None:
        self._guards.append(guard)

    def on_change(self, listener: Callable[[frozenset[str]], None]) -> None:
        """`listener` gets the changed keys, after all of them are set and stored."""
        self._listeners.append(listener)

    def default(self, key: str, value: Any) -> None:
        """What `key` is until it is set."""
        self._defaults[key] = value

    def update(self, values: Mapping[str, Any], client: str = "") -> frozenset[str]:
        """Set what is known of `values`; returns the keys that changed. All or nothing.

        BadOption: a value does not fit, or a guard refuses.
        """
        typed = self._parse(values)
        for guard in self._guards:
            guard(typed, client)
        return self._apply(typed)

    def keep(self, values: Mapping[str, Any], counted: bool = True) -> frozenset[str]:
        """Set typed values that the gateway itself found out, without guards: read-only keys, and what the EVSE says
        of its own. Not `counted`: listeners hear of it, but `version` stays."""
        return self._apply(values, counted)

    def public(self) -> dict[str, Any]:
        """All options, secrets hidden."""
        shown = {key: self[key] for key in (*self._defaults, *sorted(self._values.keys() - self._defaults.keys()))}
        return {key: DUMMY if value and is_secret(key) else value for key, value in shown.items()}

    def _parse(self, values: Mapping[str, Any], stored: bool = False) -> dict[str, Any]:
        typed: dict[str, Any] = {}
        for key, value in values.items():
            if is_secret(key) and value == DUMMY:
                continue
            option = TABLE.get(key)
            if option is not None:
                if stored or not option.read_only:
                    typed[key] = option.parse(value)
            elif _STORED_ONLY.fullmatch(key):
                typed[key] = self._parse_stored_only(key, value, typed)
        if "hostname" in typed and typed["hostname"] and not _HOSTNAME.fullmatch(typed["hostname"]):
            raise BadOption("hostname must be 1 to 63 letters, digits and hyphens, no hyphen first or last")
        if typed.get("hostname") == "":
            typed["hostname"] = self._defaults["hostname"]
        safe = "loadsharing_failsafe_safe_current"
        group_max = typed.get("loadsharing_group_max_current", self["loadsharing_group_max_current"])
        if not stored and 0 < group_max < typed.get(safe, 0):
            raise BadOption(f"{safe} must be at most loadsharing_group_max_current, {group_max:g}")
        return typed

    def _parse_stored_only(self, key: str, value: Any, others: Iterable[str]) -> Any:
        if not isinstance(value, (str, bool, int, float)) or len(str(value)) > MAX_TEXT:
            raise BadOption(f"{key} must be text of at most {MAX_TEXT} characters, a number, or true or false")
        unknown = {name for name in (*self._values, *others, key) if name not in TABLE}
        if len(unknown) > MAX_STORED_ONLY:
            raise BadOption(f"{key}: there is room for {MAX_STORED_ONLY} such keys")
        return value

    def _apply(self, values: Mapping[str, Any], counted: bool = True) -> frozenset[str]:
        changed = frozenset(key for key, value in values.items() if key not in self._known() or self[key] != value)
        if not changed:
            return changed
        self._values |= {key: values[key] for key in changed}
        self.version += counted
        if any(not _in_evse(key) for key in changed):
            self._storage.write(FILE, {key: value for key, value in self._values.items() if not _in_evse(key)})
        for listener in self._listeners:
            listener(changed)
        return changed

    def _known(self) -> set[str]:
        return self._values.keys() | self._defaults.keys()


def is_secret(key: str) -> bool:
    option = TABLE.get(key)
    return (
        option.secret if option is not None else _STORED_ONLY.fullmatch(key) is not None and bool(_SECRET.search(key))
    )


def _in_evse(key: str) -> bool:
    return key in TABLE and TABLE[key].in_evse
