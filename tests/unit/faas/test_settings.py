"""Settings, limits and names: each refusal names what is wrong (contract sections 2, 4.2 and 8.2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from labyard.faas.errors import BadRequest, SettingsError
from labyard.faas.limits import parse_size
from labyard.faas.names import check_name, is_container_id, is_request_socket, new_container_id
from labyard.faas.settings import read_settings


def test_defaults() -> None:
    settings = read_settings({})
    assert (settings.root, settings.run) == (Path("/var/lib/faasd"), Path("/run/faasd"))
    assert (settings.api_bind, settings.api_port, settings.function_port) == (("127.0.0.1",), 8080, 80)
    assert (str(settings.pool_first), str(settings.pool_last)) == ("10.0.0.10", "10.0.0.254")
    assert (settings.device, settings.label, settings.runtime) == ("lo", "lo:faas", "runc")
    assert (settings.connect_timeout, settings.limits.timeout) == (5, 30)
    assert (settings.limits.concurrency, settings.total_concurrency, settings.queue_timeout) == (16, 64, 10)
    assert (settings.limits.warm, settings.warm_idle, settings.warm_freeze) == (0, 300, False)
    assert (settings.limits.memory, settings.limits.cpu, settings.limits.pids) == (512 << 20, 1.0, 64)
    assert settings.limits.tmp == 64 << 20
    assert (settings.max_upload, settings.max_unpacked, settings.max_entries) == (2 << 30, 8 << 30, 500000)
    assert (settings.drain_timeout, settings.observer_interval) == (2, 30)
    assert settings.token() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROOT", "relative"),
        ("API_PORT", "x"),
        ("API_PORT", "70000"),
        ("API_PORT", "80.5"),
        ("API_BIND", "localhost"),
        ("POOL", "10.0.0.20-10.0.0.10"),
        ("POOL", "10.0.0.20"),
        ("POOL", "10.0.0.20-x"),
        ("LABEL", "eth0:faas"),
        ("LABEL", "lo:a-label-too-long"),
        ("RUNTIME", "docker"),
        ("WARM_FREEZE", "yes"),
        ("MEMORY", "lots"),
        ("CPU", "0"),
        ("EXEC_TIMEOUT", "-1"),
        ("CONCURRENCY", "0"),
        ("WARM", "1.5"),
        ("MAX_UPLOAD", "1T"),
        ("QUEUE_TIMEOUT", "nan"),
    ],
)
def test_refusal_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"LABYARD_FAAS_{name}\b"):
        read_settings({f"LABYARD_FAAS_{name}": value})


def test_loopback_always_answers() -> None:
    assert read_settings({"LABYARD_FAAS_API_BIND": "10.77.0.9"}).api_bind == ("127.0.0.1", "10.77.0.9")
    assert read_settings({"LABYARD_FAAS_API_BIND": "127.0.0.1, 10.77.0.9"}).api_bind == ("127.0.0.1", "10.77.0.9")
    assert read_settings({"LABYARD_FAAS_API_BIND": "10.77.0.9,0.0.0.0"}).api_bind == ("0.0.0.0",)


def test_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    settings = read_settings({"LABYARD_FAAS_API_TOKEN_FILE": str(path)})
    with pytest.raises(SettingsError, match="API_TOKEN_FILE"):
        settings.token()
    path.write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        settings.token()
    path.write_text("secret\n")
    assert settings.token() == "secret"


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), (512, 512), ("1K", 1024), ("2m", 2 << 20), ("3MiB", 3 << 20), ("1 GB", 1 << 30)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5M", "1X", "1e3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_limits() -> None:
    limits = read_settings({}).limits.with_changes({"memory": "64M", "cpu": "0.5", "pids": 8, "warm": 2})
    assert (limits.memory, limits.cpu, limits.pids, limits.warm, limits.timeout) == (64 << 20, 0.5, 8, 2, 30)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"memory": "1K"}, "memory"),
        ({"cpu": "x"}, "cpu"),
        ({"cpu": "nan"}, "cpu"),
        ({"pids": None}, "pids"),
        ({"pids": [1]}, "pids"),
        ({"timeout": True}, "timeout"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"warm": -1}, "warm"),
        ({"swap": 1}, "unknown limit swap"),
        ([], "not a JSON object"),
    ],
)
def test_bad_limits(given: object, word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        read_settings({}).limits.with_changes(given)


@pytest.mark.parametrize("name", ["th", "a.b_c-D", "0", "x" * 63, "v1.2.3", "python-3.12"])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "../a", "a/b", "x" * 64, "a b", "a\n", "1.2.3.4", "a1.2.3.4b", "ä"])
def test_bad_names(name: str) -> None:
    with pytest.raises(BadRequest, match="Invalid image name"):
        check_name(name)


def test_container_ids() -> None:
    name = new_container_id()
    assert is_container_id(name)
    assert is_request_socket(f"{name}.sock")
    assert not is_container_id("faas-1")
    assert not is_request_socket(name)
