"""What the role probe promises."""

from __future__ import annotations

import pytest

from labyard.lab import LabHost

CLIENTS = ["curl", "iscsi-inq", "iscsi-perf", "perfdhcp", "qemu-io", "tftp", "udhcpc"]


class TestApplied:
    @pytest.mark.parametrize("client", CLIENTS)
    def test_client_is_there(self, host: LabHost, client: str) -> None:
        assert host.shell.exists(client)

    def test_qemu_speaks_iscsi(self, host: LabHost) -> None:
        # Without its driver QEMU says "Unknown driver"; with it the connection to nowhere is what fails.
        result = host.run("qemu-img info iscsi://127.0.0.1:1/iqn.2025-01.lab:none/1")
        assert result.rc != 0 and "Unknown" not in result.stderr


class TestRemoved:
    @pytest.mark.parametrize("client", [name for name in CLIENTS if name != "curl"])
    def test_client_is_gone(self, host: LabHost, client: str) -> None:
        assert not host.shell.exists(client)
