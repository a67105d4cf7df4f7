"""What the role disk_export promises. The client is the host's own Python, since the control socket is local."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import daemons
import pytest
from conftest import assert_gone, assert_runs

from labyard.lab import LabHost
from labyard.testing.waiting import wait_until

UNIT = "labyard-exports.service"
DISK = "role-check"
FORMATS = {"raw": "raw", "qcow2": "qcow2", "vhdx": "vhdx", "vhd": "vpc", "vmdk": "vmdk", "vdi": "vdi"}
CLIENT = """
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect(sys.argv[1])
lines = s.makefile("rw")
lines.readline()
for command in [{"execute": "qmp_capabilities"}, *json.loads(sys.argv[2])]:
    lines.write(json.dumps(command) + "\\n")
    lines.flush()
    while "event" in (reply := json.loads(lines.readline())):
        pass
    if "error" in reply:
        sys.exit(command["execute"] + ": " + reply["error"]["desc"])
print(json.dumps(reply["return"]))
"""


def tell(host: LabHost, *commands: tuple[str, dict[str, Any]]) -> Any:
    """Run QMP commands and return what the last gave."""
    text = json.dumps([{"execute": name, "arguments": arguments} for name, arguments in commands])
    return json.loads(host.check("python3 -c %s %s %s", CLIENT, host.value("disk_export_socket"), text))


class Disk:
    """A qcow2 overlay on an image of zeros, exported."""

    def __init__(self, host: LabHost, driver: str) -> None:
        self.host, self.driver = host, driver
        self.path = f"{host.value('disk_export_folder')}/{DISK}"

    def make(self) -> None:
        self.host.check(f"qemu-img create -q -f {self.driver} {self.path}.image 8M")
        self.host.check(f"qemu-img create -q -f qcow2 -b {self.path}.image -F {self.driver} {self.path}.qcow2")
        self.export()

    def export(self) -> None:
        self.host.check(f"touch {self.path}.raw")
        node = {"driver": "qcow2", "node-name": DISK, "file": {"driver": "file", "filename": f"{self.path}.qcow2"}}
        export = {"id": DISK, "type": "fuse", "node-name": DISK, "mountpoint": f"{self.path}.raw", "writable": True}
        tell(self.host, ("blockdev-add", node), ("block-export-add", export))

    def remove(self) -> None:
        """Whatever there is of it."""
        for command in (("block-export-del", {"id": DISK, "mode": "hard"}), ("blockdev-del", {"node-name": DISK})):
            text = json.dumps([{"execute": command[0], "arguments": command[1]}])
            self.host.run("python3 -c %s %s %s", CLIENT, self.host.value("disk_export_socket"), text)
        self.host.run(f"umount --lazy --quiet {self.path}.raw")
        self.host.check(f"rm -f {self.path}.raw {self.path}.qcow2 {self.path}.image")

    def write(self, text: str) -> None:
        self.host.check("printf %s | dd of=%s conv=notrunc,fsync status=none", text, f"{self.path}.raw")

    def read(self, length: int) -> str:
        return self.host.check(f"head -c {length} {self.path}.raw")


@pytest.fixture
def make_disk(host: LabHost) -> Iterator[Any]:
    made: list[Disk] = []

    def make(driver: str = "raw") -> Disk:
        made.append(Disk(host, driver))
        made[-1].remove()
        made[-1].make()
        return made[-1]

    yield make
    for disk in made:
        disk.remove()


def kill(host: LabHost) -> None:
    """Returns when its successor listens."""
    daemons.kill(host, UNIT)
    wait_until(lambda: host.run("test -S %s", host.value("disk_export_socket")).rc == 0, "it has its socket")


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, UNIT)

    def test_answers_on_its_socket(self, host: LabHost) -> None:
        assert tell(host, ("query-version", {}))["qemu"]["major"] >= 6  # the first with FUSE exports

    def test_socket_and_disks_are_not_for_everybody(self, host: LabHost) -> None:
        socket = host.value("disk_export_socket")
        assert host.shell.file(socket.rpartition("/")[0]).mode == 0o700
        assert host.shell.file(host.value("disk_export_folder")).mode == 0o750

    @pytest.mark.parametrize("image_format", FORMATS)
    def test_exports_an_overlay_on_an_image_of_each_format(
        self, host: LabHost, make_disk: Any, image_format: str
    ) -> None:
        disk = make_disk(FORMATS[image_format])
        before = host.check(f"sha256sum {disk.path}.image")
        disk.write("hello")
        assert disk.read(5) == "hello"
        assert host.check(f"sha256sum {disk.path}.image") == before

    def test_killed_it_comes_back_and_leaves_no_dead_mount(self, host: LabHost, make_disk: Any) -> None:
        disk = make_disk()
        disk.write("hello")
        kill(host)
        assert f"{disk.path}.raw" not in host.check("cat /proc/self/mounts")
        assert host.check(f"stat --format %s {disk.path}.raw").strip() == "0"
        disk.export()
        assert disk.read(5) == "hello"

    def test_comes_back_however_often_it_is_killed(self, host: LabHost) -> None:
        for _ in range(7):  # systemd's own limit is 5 in 10 s
            kill(host)
        assert tell(host, ("query-block-exports", {})) is not None


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(host, "disk_export", f"/etc/systemd/system/{UNIT}", host.value("disk_export_socket"))
        assert host.run("pgrep --exact qemu-storage-d").rc != 0
        assert host.value("disk_export_folder") not in host.check("cat /proc/self/mounts")
