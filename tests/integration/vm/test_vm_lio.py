"""The netboot service's LIO backend on a kernel that has LIO: most machines that run tests have none."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import labyard

HERE = Path(labyard.__file__).parent
OURS = (
    "__init__",
    "core/adapter",
    "netboot/__init__",
    "netboot/names",
    "netboot/adapters/iscsi",
    "netboot/adapters/lio",
)
IQN = "iqn.2025-01.lab.labyard:target-machine-1-abc12345"
INITIATOR = "iqn.2025-01.lab.labyard:machine"
SECRET = "correct-horse-1"
# The settings module needs pydantic, which the guest lacks; the backend takes three fields of it.
PROGRAM = """
import json, sys, types
from pathlib import Path
from types import SimpleNamespace

settings_module = types.ModuleType("labyard.netboot.settings")
settings_module.Settings = SimpleNamespace
sys.modules["labyard.netboot.settings"] = settings_module

from labyard.netboot.adapters.iscsi import Lun, TargetSpec
from labyard.netboot.adapters.lio import Lio

wanted = json.loads(sys.argv[2])
backend = Lio(SimpleNamespace(iqn_prefix=wanted["prefix"], portal_ip="127.0.0.1", portal_port=3260))
if sys.argv[1] == "apply":
    luns = tuple(Lun(n, Path(path), readonly=readonly) for n, (path, readonly) in enumerate(wanted["luns"]))
    backend.apply(TargetSpec(wanted["iqn"], wanted["initiator"], "s-abc12345", wanted["secret"], luns))
elif sys.argv[1] == "remove":
    backend.remove(wanted["iqn"], "s-abc12345")
print(json.dumps({iqn: [str(lun.path) for lun in seen.luns] for iqn, seen in backend.observed().items()}))
"""
WANTED = {
    "prefix": IQN.rpartition(":")[0],
    "iqn": IQN,
    "initiator": INITIATOR,
    "secret": SECRET,
    "luns": [["/root/disk", False]],
}


@pytest.fixture(params=["Debian's rtslib", "ours"])
def backend(vm, request):
    """Runs the backend in the VM: `apply`, `remove` or `observed`; the targets that it then sees. The role netboot
    installs Debian's library; `labyard[lio]` has its own."""
    for package in ("rtslib_fb", "pyudev") if request.param == "ours" else ():
        found = importlib.util.find_spec(package)
        assert found and found.origin, f"{package} is not installed: it is in the extra lio"
        folder = Path(found.origin).parent
        for file in folder.rglob("*.py"):
            vm.write_file(f"/opt/lio/{package}/{file.relative_to(folder)}", file.read_bytes())
    for name in OURS:
        vm.write_file(f"/opt/lio/labyard/{name}.py", (HERE / f"{name}.py").read_bytes())
    vm.write_file("/opt/lio/program.py", PROGRAM)
    # On a host, systemd mounts it; rtslib wants the folder of its kernel data to be there.
    vm.run("modprobe configfs && mount -t configfs configfs /sys/kernel/config && mkdir /etc/target")
    vm.run("truncate -s 8M /root/disk")

    def call(verb, **changes):
        result = vm.run(f"python3 /opt/lio/program.py {verb} '{json.dumps(WANTED | changes)}'")
        return json.loads(result.stdout)

    return call


def inquiry(vm, initiator=INITIATOR, secret=SECRET):
    return vm.run(
        f"timeout 30 iscsi-inq -i {initiator} iscsi://127.0.0.1:3260/{IQN}/0",
        env={"LIBISCSI_CHAP_USERNAME": "s-abc12345", "LIBISCSI_CHAP_PASSWORD": secret},
        check=False,
    )


def test_a_target_serves_its_initiator_and_nobody_else(vm, backend):
    assert backend("apply") == {IQN: ["/root/disk"]}
    assert "Vendor:LIO-ORG" in inquiry(vm).stdout.replace(" ", "")
    for refused in (inquiry(vm, secret="wrong-secret-12"), inquiry(vm, initiator=f"{INITIATOR}-2")):
        assert "Vendor" not in refused.stdout
    assert backend("apply") == {IQN: ["/root/disk"]}
    assert "Vendor" in inquiry(vm).stdout

    assert backend("remove") == {}
    assert "Vendor" not in inquiry(vm).stdout
    assert vm.run("ls /sys/kernel/config/target/core/fileio_0 2>/dev/null | grep img-", check=False).stdout == ""
    assert backend("remove") == {}
