"""VMAN_* variables (contract section 2), files of the log, names, migrations and the seed."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pycdlib
import pytest
import yaml
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import ValidationError

from labyard.core.database import Database
from labyard.vms.adapters.seed import Seed, SeedImages
from labyard.vms.models import Base
from labyard.vms.names import is_id
from labyard.vms.settings import Settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VMAN_")]:
        monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = Settings()
    assert (str(settings.storage_path), settings.db_url) == (
        "/var/lib/labyard/vman", "sqlite:////var/lib/labyard/vman/states.db",
    )  # fmt: skip
    assert (settings.vlan_id, settings.bridge_name, str(settings.subnet)) == (100, "br-vman", "192.168.100.0/24")
    assert (str(settings.gateway_ip), settings.dns_servers) == ("192.168.100.1", ["8.8.8.8", "8.8.4.4"])
    assert (settings.bind_host, settings.bind_port, settings.dry_run) == ("127.0.0.1", 8000, False)
    assert (settings.metadata_enabled, str(settings.metadata_bind_ip), settings.metadata_port) == (
        True, "169.254.169.254", 80,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("VMAN_OPERATOR_DRY_RUN", "1", "dry_run", True),
        ("VMAN_OBSERVER_INTERVAL", "0.1", "observer_interval", 0.5),
        ("VMAN_LOG_LEVEL", "LOUD", "log_level", "info"),
        ("VMAN_LOG_LEVEL", "Debug", "log_level", "debug"),
        ("VMAN_METADATA_ENABLED", "0", "metadata_enabled", False),
        ("VMAN_DNS", "1.1.1.1, 9.9.9.9", "dns_servers", ["1.1.1.1", "9.9.9.9"]),
        ("VMAN_DB_URL", "", "db_url", "sqlite:////var/lib/labyard/vman/states.db"),
        ("VMAN_NETWORK_MODE", "user", "leased", False),
    ],
)
def test_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: Any
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(Settings(), field) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bridge_name", "x" * 16), ("subnet", "192.168.100.0/31"), ("subnet", "192.168.100.1/24"),
        ("gateway", "10.0.0.1"), ("gateway", "192.168.100.255"), ("dns", "google"), ("storage_path", "vman"),
        ("db_url", "sqlite:///states.db"), ("domain_type", "xen"), ("network_mode", "bridge"),
        ("domain_prefix", "../"), ("network_name", "a b"),
    ],
)  # fmt: skip
def test_wrong_ones_are_refused(field: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({field: value})


def test_log_files(tmp_path: Path) -> None:
    (handler,) = Settings(storage_path=tmp_path / "vman").log_handlers()
    assert getattr(handler, "baseFilename", "") == str(tmp_path / "vman" / "logs" / "vman.log")
    (handler,) = Settings(storage_path=tmp_path, log_file=tmp_path / "here.log", log_backup_count=2).log_handlers()
    assert (getattr(handler, "baseFilename", ""), getattr(handler, "backupCount", 0)) == (str(tmp_path / "here.log"), 2)


def test_models_and_migrations_agree(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.db", 5000)
    database.migrate("labyard.vms")
    database.migrate("labyard.vms")  # a second start changes nothing
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        pragmas = ("journal_mode", "busy_timeout", "foreign_keys")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    assert found == ["wal", 5000, 1]


@pytest.mark.parametrize(
    ("text", "good"),
    [("a", True), ("A.b_c-9", True), ("a" * 63, True), ("a" * 64, False), ("", False), ("..", False), ("-a", False),
     ("a/b", False), ("a\n", False), ("é", False)],
)  # fmt: skip
def test_ids(text: str, good: bool) -> None:
    assert is_id(text) is good


def read_seed(path: Path) -> tuple[str, dict[str, bytes]]:
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    files = {}
    for name in ("meta-data", "user-data", "network-config"):
        content = BytesIO()
        iso.get_file_from_iso_fp(content, rr_path=f"/{name}")
        files[name] = content.getvalue()
    iso.close()
    return path.read_bytes()[16 * 2048 + 40 : 16 * 2048 + 72].decode().rstrip(), files


def test_seed(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    SeedImages().write(path, Seed("web", "52:54:00:00:00:01", "h: 1", ("ssh-rsa a", "ssh-rsa b"), "#!/bin/sh\n"))
    label, files = read_seed(path)
    assert label == "cidata"
    assert yaml.safe_load(files["meta-data"]) == {
        "instance-id": "web", "local-hostname": "h: 1", "public-keys": ["ssh-rsa a", "ssh-rsa b"],
    }  # fmt: skip
    assert files["user-data"] == b"#!/bin/sh\n"
    assert yaml.safe_load(files["network-config"])["ethernets"]["lab"]["match"] == {"macaddress": "52:54:00:00:00:01"}
    SeedImages().write(path, Seed("web", "52:54:00:00:00:01", "web", (), None))
    assert yaml.safe_load(read_seed(path)[1]["user-data"]) == {}
