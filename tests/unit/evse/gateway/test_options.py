from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labyard.evse.gateway.options import DUMMY, TABLE, BadOption, Options
from labyard.evse.gateway.storage import Storage


@pytest.fixture
def options(tmp_path: Path) -> Options:
    made = Options(Storage(tmp_path))
    made.default("hostname", "openevse-1234")
    return made


def test_a_change_raises_the_version_by_one(options: Options) -> None:
    assert options.version == 1
    assert options.update({"lang": "de", "www_username": "me"}) == {"lang", "www_username"}
    assert options.version == 2
    assert options.update({"lang": "de", "unknown": 5}) == frozenset()
    assert options.version == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loadsharing_group_max_current", -1),
        ("loadsharing_safety_factor", 1.01),
        ("loadsharing_heartbeat_timeout", 4),
        ("loadsharing_heartbeat_timeout", 601),
        ("loadsharing_heartbeat_timeout", 30.5),
        ("loadsharing_failsafe_mode", "off"),
        ("loadsharing_failsafe_safe_current", 80.1),
        ("loadsharing_failsafe_peer_assumed_current", -0.1),
        ("loadsharing_role", "boss"),
        ("loadsharing_enabled", "maybe"),
        ("loadsharing_compat", ""),
        ("loadsharing_rotation_interval", -1),
        ("max_current_soft", 81),
        ("service", 3),
        ("www_http_port", 0),
        ("www_http_port", True),
        ("voltage", float("nan")),
        ("divert_PV_ratio", float("inf")),
        ("divert_PV_ratio", 10**400),
        ("hostname", "-x"),
        ("hostname", "a.b"),
        ("hostname", "x" * 64),
        ("www_username", "x" * 256),
        ("www_username", "a\nb"),
        ("www_username", ["a"]),
        ("lang", None),
        ("mqtt_whatever", {"a": 1}),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_nothing_changes(options: Options, key: str, value: Any) -> None:
    with pytest.raises(BadOption, match=key):
        options.update({"lang": "fr", key: value})
    assert options["lang"] == "en"
    assert options.version == 1


def test_texts_are_read_in_the_type_of_the_key(options: Options) -> None:
    options.update({"loadsharing_enabled": "true", "www_http_port": "8001", "loadsharing_group_max_current": "32"})
    assert options["loadsharing_enabled"] is True
    assert options["www_http_port"] == 8001
    assert options["loadsharing_group_max_current"] == 32.0
    options.update({"loadsharing_enabled": 0})
    assert options["loadsharing_enabled"] is False


def test_the_safe_current_fits_in_the_group(options: Options) -> None:
    refused = pytest.raises(BadOption, match="loadsharing_failsafe_safe_current")
    with refused:
        options.update({"loadsharing_group_max_current": 10, "loadsharing_failsafe_safe_current": 11})
    options.update({"loadsharing_group_max_current": 10})
    with refused:
        options.update({"loadsharing_failsafe_safe_current": 11})
    options.update({"loadsharing_group_max_current": 0, "loadsharing_failsafe_safe_current": 11})


def test_secrets_are_hidden_and_the_dummy_keeps_them(options: Options, tmp_path: Path) -> None:
    options.update({"www_password": "hidden", "ocpp_authkey": "hidden too"})
    shown = options.public()
    assert (shown["www_password"], shown["ocpp_authkey"], shown["mqtt_pass"]) == (DUMMY, DUMMY, "")
    assert options.update({"www_password": DUMMY}) == frozenset()
    assert options["www_password"] == "hidden"
    options.update({"www_password": ""})
    assert options.public()["www_password"] == ""
    assert (tmp_path / "options.json").stat().st_mode & 0o777 == 0o600


def test_what_is_set_outlives_a_restart_and_what_no_longer_fits_does_not(options: Options, tmp_path: Path) -> None:
    options.update({"lang": "de", "mqtt_odd": 1})
    options.keep({"loadsharing_config_version": 7})
    options.keep({"max_current_soft": 24})
    kept = json.loads((tmp_path / "options.json").read_text())
    assert kept == {"lang": "de", "mqtt_odd": 1, "loadsharing_config_version": 7}
    (tmp_path / "options.json").write_text(json.dumps(kept | {"service": 9, "nonsense": 1}))
    again = Options(Storage(tmp_path))
    assert (again["lang"], again["service"], again["loadsharing_config_version"], again.version) == ("de", 2, 7, 1)
    assert "nonsense" not in again.public()


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"lang": '])
def test_a_spoilt_file_is_no_hindrance(tmp_path: Path, content: str) -> None:
    (tmp_path / "options.json").write_text(content)
    assert Options(Storage(tmp_path))["lang"] == "en"


def test_read_only_keys_are_not_written(options: Options) -> None:
    assert options.update({"loadsharing_config_version": 5}) == frozenset()


def test_other_keys_of_absent_services_are_kept_but_not_without_end(options: Options) -> None:
    options.update({f"mqtt_x{number}": number for number in range(64)})
    assert options["mqtt_x63"] == 63
    with pytest.raises(BadOption, match="ocpp_one_more"):
        options.update({"ocpp_one_more": 1})
    assert options.update({"mqtt_x1": "changed"}) == {"mqtt_x1"}


def test_a_guard_sees_typed_values_and_may_add_or_refuse(options: Options) -> None:
    seen = []

    def guard(values: dict[str, Any], client: str) -> None:
        seen.append((dict(values), client))
        if values.get("loadsharing_role") == "member":
            values["loadsharing_enabled"] = True
        if client == "192.0.2.9":
            raise BadOption("read-only", status=403)

    options.guard(guard)
    assert options.update({"loadsharing_role": "member"}, "127.0.0.1") == {"loadsharing_role", "loadsharing_enabled"}
    assert options.version == 2
    with pytest.raises(BadOption) as refusal:
        options.update({"lang": "de"}, "192.0.2.9")
    assert refusal.value.status == 403
    assert seen == [({"loadsharing_role": "member"}, "127.0.0.1"), ({"lang": "de"}, "192.0.2.9")]


def test_every_default_fits_its_own_rule() -> None:
    for option in TABLE.values():
        if option.key != "hostname":
            assert option.parse(option.default) == option.default
