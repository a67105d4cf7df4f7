from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from labyard.evse.gateway import identity
from labyard.evse.gateway.storage import Storage


def test_each_port_of_a_host_has_an_id_of_its_own() -> None:
    digest = hashlib.sha256(b"machine").hexdigest()
    low = int(digest, 16) & 0xFFFF
    assert identity.derive("machine", 8003) == digest[:8] + f"{(low + 8003) % 65536:04x}"
    ids = {identity.derive("machine", port) for port in range(8000, 8023)}
    assert len(ids) == 23
    assert len({value[-4:] for value in ids}) == 23


def test_it_is_kept(tmp_path: Path) -> None:
    first = identity.load(Storage(tmp_path), 8000, "")
    assert identity.load(Storage(tmp_path), 8001, "") == first
    assert first.default_hostname == f"openevse-{first.device_id[-4:]}"


@pytest.mark.parametrize(
    ("chip", "device_id", "hostname"),
    [
        ("0xABCDEF12", "abcdef12", "openevse-ef12"),
        ("deadbeef0001", "deadbeef0001", "openevse-0001"),
        ("7", "7", "openevse-0007"),
    ],
)
def test_a_chip_id_that_is_given_counts(tmp_path: Path, chip: str, device_id: str, hostname: str) -> None:
    found = identity.load(Storage(tmp_path), 8000, chip)
    assert (found.device_id, found.default_hostname) == (device_id, hostname)


@pytest.mark.parametrize("chip", ["xyz", "0x", "12 34", "1" * 33])
def test_a_wrong_chip_id_is_an_error(tmp_path: Path, chip: str) -> None:
    with pytest.raises(ValueError, match="OPENEVSE_CHIP_ID"):
        identity.load(Storage(tmp_path), 8000, chip)
