"""What the role vm_host promises."""

from __future__ import annotations

import json

from conftest import assert_gone, assert_runs

from labyard.lab import LabHost


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, "libvirtd.socket")
        assert host.check("virsh uri").strip() == "qemu:///system"

    def test_libvirt_can_set_up_networks(self, host: LabHost) -> None:
        host.check("virsh uri")
        host.check("test -w /proc/sys/net/ipv4/ip_forward")

    def test_bridge_is_on_the_segment_at_once(self, host: LabHost) -> None:
        bridge, port = host.value("vm_host_bridge"), host.value("vm_host_bridge_port")
        assert port in host.check(f"ls /sys/class/net/{bridge}/brif").split()
        assert host.check(f"cat /sys/class/net/{bridge}/bridge/forward_delay").strip() == "0"
        assert host.check(f"cat /sys/class/net/{bridge}/bridge/stp_state").strip() == "0"

    def test_address_moved_from_the_port_to_the_bridge(self, host: LabHost) -> None:
        shown = json.loads(host.check("ip -j -4 address show"))
        found = {link["ifname"]: [a["local"] for a in link["addr_info"]] for link in shown}
        assert found[host.value("vm_host_bridge")] == [host.address]
        assert host.value("vm_host_bridge_port") not in found

    def test_pool_is_active_and_starts_with_libvirt(self, host: LabHost) -> None:
        info = host.check(f"virsh pool-info {host.value('vm_host_pool')}")
        facts = {
            key.strip(): value.strip() for key, value in (line.split(":", 1) for line in info.splitlines() if line)
        }
        assert (facts["State"], facts["Autostart"]) == ("running", "yes")

    def test_says_which_acceleration_works_and_why(self, host: LabHost) -> None:
        fact = json.loads(host.check("cat /etc/ansible/facts.d/labyard_vm_host.fact"))
        assert fact["accel"] in {"kvm", "tcg"} and fact["reason"]

    def test_libvirt_asks_qemu_once_what_it_can_do(self, host: LabHost) -> None:
        if host.shell.file("/dev/kvm").exists:
            host.check("setpriv --reuid libvirt-qemu --init-groups test -w /dev/kvm")
        # It would ask again at every step if it found the answer that it keeps out of date.
        host.check("virsh domcapabilities --virttype qemu")
        kept = "stat --format %z /var/cache/libvirt/qemu/capabilities/*"
        before = host.check(kept)
        host.check("virsh domcapabilities --virttype qemu")
        assert host.check(kept) == before


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(
            host,
            "vm_host",
            "/etc/systemd/system/labyard-bridge.service",
            "/etc/systemd/system/libvirtd.service.d/labyard.conf",
        )
        assert not host.shell.file(f"/sys/class/net/{host.value('vm_host_bridge')}").exists
        assert not host.shell.service("libvirtd.socket").is_running
