"""Addresses on `lo`: one for each function, labelled, and gone when the daemon is."""

from __future__ import annotations

import ipaddress
import json

import pytest
from helpers.faas_test_utils import FaaSTestHelper, assert_handler_responds, assert_ip_configured

pytestmark = [pytest.mark.vmtest, pytest.mark.integration]

LABEL = "lo:faas"
FIRST, LAST = ipaddress.ip_address("10.0.0.10"), ipaddress.ip_address("10.0.0.254")
POOL = [str(ipaddress.ip_address(number)) for number in range(int(FIRST), int(LAST) + 1)]
REGISTRY = "/var/lib/faasd/registry.json"


class TestAddresses:
    def test_address_is_of_the_pool_and_on_lo(self, deployed):
        assert FIRST <= ipaddress.ip_address(deployed.ip) <= LAST
        assert_ip_configured(deployed.vm, deployed.ip)
        assert f"inet {deployed.ip}/32 " in deployed.vm.run("ip addr show lo").stdout

    def test_label(self, deployed):
        """Address and label are in one line of `ip addr show lo`, which is how people look for them."""
        assert deployed.helper.check_ip_has_label(deployed.ip, LABEL)
        [line] = [line for line in deployed.vm.run("ip addr show lo").stdout.splitlines() if f" {deployed.ip}/" in line]
        assert LABEL in line

    def test_five_deploys_have_five_addresses(self, deployed, behaving):
        more = [behaving(deployed.vm, f"handler-{number}") for number in range(4)]
        addresses = {deployed.ip, *more}
        assert len(addresses) == 5
        assert {ip for ip, label in deployed.helper.loopback_addresses().items() if label == LABEL} == {
            *deployed.functions.values(),
            *more,
        }

    def test_redeploy_keeps_the_address(self, deployed, behaving):
        other = behaving(deployed.vm, "other")
        again = behaving(deployed.vm, "test-handler", "second-version")
        assert again == deployed.ip
        assert other not in deployed.functions.values()
        assert "Body: second-version" in deployed.helper.make_request(again)
        assert_ip_configured(deployed.vm, again)

    def test_addresses_beside_are_not_taken(self, deployed):
        """A prefix of 24 bits on `lo` would make all of 10.0.0.0/24 local."""
        assert "local 10.0.0.200" not in deployed.vm.run("ip route get 10.0.0.200 2>&1", check=False).stdout
        done = deployed.vm.run("ping -c 1 -W 1 10.0.0.200", check=False)
        assert done.returncode != 0

    def test_address_of_somebody_else_is_skipped(self, deployed, behaving):
        deployed.vm.run("ip addr add 10.0.0.12/32 dev lo")  # the next that is free
        assert behaving(deployed.vm, "second") == "10.0.0.13"


class TestShutdown:
    def test_addresses_go_within_3_s_of_sigterm(self, deployed, behaving):
        second = behaving(deployed.vm, "second")
        deployed.helper.stop_daemon(timeout=3)
        assert_ip_configured(deployed.vm, deployed.ip, should_exist=False)
        assert_ip_configured(deployed.vm, second, should_exist=False)
        log = deployed.vm.read_file("/root/faasd.log").decode()
        for ip in (deployed.ip, second):
            assert f"[shutdown] Removed {ip} from loopback interface\n" in log

    def test_foreign_address_survives(self, deployed):
        deployed.vm.run("ip addr add 10.0.0.99/24 dev lo")
        deployed.helper.stop_daemon(timeout=3)
        assert_ip_configured(deployed.vm, deployed.ip, should_exist=False)
        assert "inet 10.0.0.99/24 " in deployed.vm.run("ip addr show lo").stdout

    def test_restart_without_registry(self, vm, faasd_daemon, behaving):
        """SIGTERM, registry removed, started again: it is a daemon with no functions, and takes new ones."""
        _, process = faasd_daemon(vm)
        first = behaving(vm, "first")
        process.kill()
        assert process.wait(timeout=3 * vm.time_scale) == 0
        assert_ip_configured(vm, first, should_exist=False)
        vm.run(f"rm {REGISTRY}")
        faasd_daemon(vm)
        helper = FaaSTestHelper(vm)
        assert vm.run("/root/faas list").stdout == "No images deployed\n"
        again = behaving(vm, "second")
        assert_handler_responds(vm, again, "Hello from FaaS handler")
        assert set(helper.read_registry()) == {"second"}


@pytest.mark.slow
class TestManyAddresses:
    def test_twenty_deploys(self, deployed, behaving):
        addresses = [behaving(deployed.vm, f"handler-{number}") for number in range(20)]
        assert len({deployed.ip, *addresses}) == 21
        assert set(addresses) <= set(POOL)
        on_lo = deployed.helper.loopback_addresses()
        assert {ip: on_lo.get(ip) for ip in addresses} == dict.fromkeys(addresses, LABEL)

    def test_pool_exhausted(self, vm, faasd_daemon, behaving):
        """With 244 functions registered, one more gets the last address, and the next one nothing."""
        entries = {
            f"prefilled-{number}": {"ip": ip, "rootfs": f"/var/lib/faasd/images/{number}/rootfs", "cmd": ["/bin/true"]}
            for number, ip in enumerate(POOL[:-1])
        }
        vm.write_file(REGISTRY, json.dumps(entries, indent=2))
        faasd_daemon(vm)
        helper = FaaSTestHelper(vm)
        assert behaving(vm, "last") == POOL[-1]
        assert_handler_responds(vm, POOL[-1], "Hello from FaaS handler")
        registry = helper.read_registry()
        assert len(registry) == 245

        done = vm.run("cat /root/last.tar | /root/faas new too-many", check=False)
        assert done.returncode == 1
        assert "Error: 503 - " in done.stdout
        assert "No IPs available" in done.stdout
        assert helper.read_registry() == registry
        assert not helper.check_rootfs_exists("too-many")
        assert {ip for ip, label in helper.loopback_addresses().items() if label == LABEL} == set(POOL)
        assert vm.run("ls --almost-all /var/lib/faasd/.scratch").stdout == ""
