"""VMAN_DOMAIN_TYPE as the whole service takes it. That `kvm` is refused without KVM is in test_libvirt_adapter.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from integration.vms.guests import write_silent_initrd
from integration.vms.integration_utils import DOMAIN_PREFIX, create_test_template, verify_qemu_process

pytestmark = pytest.mark.integration

KERNEL = Path("/usr/lib/labyard/probe-kernel")  # role vm_host puts it there


def test_auto_is_qemu_when_the_probe_guest_hangs(
    start_service: Callable[..., TestClient], temp_storage: Path, virt: Any
) -> None:
    initrd = temp_storage / "silent.gz"
    write_silent_initrd(initrd)
    client = start_service(domain_type="auto", probe_kernel=KERNEL, probe_initrd=initrd, probe_timeout=2)
    accel = client.get("/health").json()["checks"]["accel"]
    assert accel in (
        "qemu (the probe guest does not boot under kvm: it was not up within 2 s)",
        # Where there is no KVM at all.
        "qemu (libvirt does not offer kvm: invalid argument: KVM is not supported by '/usr/bin/qemu-system-x86_64' "
        "on this host)",
    )
    template = create_test_template(client)["name"]
    made = client.post("/vms", json={"template_name": template, "name": "web-1"})
    assert (made.status_code, made.json()["domain_type"]) == (201, "qemu")
    assert client.post("/vms/web-1/actions/start").status_code == 202
    verify_qemu_process("web-1")
    assert "<domain type='qemu'" in virt.lookupByName(f"{DOMAIN_PREFIX}web-1").XMLDesc()
    initrd.unlink()
