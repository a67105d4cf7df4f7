"""What the role vms promises: machines run on libvirt, get disks and addresses, and outlive the service."""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Api, assert_gone, assert_runs, wait_until_ready

from labyard.lab import LabHost
from labyard.testing.waiting import wait_until

UNIT = "labyard-vms.service"


@pytest.fixture
def public(host: LabHost, probe_host: LabHost) -> Api:
    return Api(probe_host, f"http://{host.address}:{host.value('vms_http_port')}")


@pytest.fixture
def api(host: LabHost, public: Api) -> Api:
    caller = Api(public.probe, public.url)
    caller.token = host.value("vms_api_token")
    return caller


@pytest.fixture
def vm(api: Api) -> Iterator[str]:
    """The id of a machine that is off. It has no system: what is promised here needs none."""
    for left in api.good("GET", "/vms"):  # by a run that was killed, of these tests or of the flows
        if left["id"].startswith(("check-", "flow-")):
            api.good("DELETE", f"/vms/{left['id']}")
    name = f"check-{secrets.token_hex(4)}"
    api.good("POST", "/templates", name=name, cpu_count=1, ram_amount=64)
    try:
        api.good("POST", "/vms", name=name, template_name=name)
        try:
            yield name
        finally:
            api.good("DELETE", f"/vms/{name}")
    finally:
        api.good("DELETE", f"/templates/{name}")


@pytest.fixture
def running(api: Api, vm: str) -> dict[str, Any]:
    """A machine that runs, as the API shows it."""
    assert api.call("POST", f"/vms/{vm}/actions/start") == (202, {"status": "started"})
    shown: dict[str, Any] = api.good("GET", f"/vms/{vm}")
    return shown


def qemu(host: LabHost, vm: str) -> str:
    """The machine's QEMU processes, one path below /proc in a line."""
    name = f"guest={host.value('vms_domain_prefix')}{vm}"
    return str(host.run("grep -lsz %s /proc/[0-9]*/cmdline", f"^{name}[,]").stdout).strip()


def disks(host: LabHost, vm: str) -> str:
    """The files that the running domain has as disks."""
    return host.check(f"virsh domblklist {host.value('vms_domain_prefix')}{vm}")


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, UNIT)

    def test_finds_libvirt_and_has_its_network(self, public: Api) -> None:
        # Who does not answer the service in time is not well for the moment.
        def well() -> dict[str, Any] | None:
            found: dict[str, Any] = public.call("GET", "/health")[1]
            return found if found["status"] == "ok" else None

        health = wait_until(well, lambda: f"it is well: {public.call('GET', '/health')[1]}")
        assert health["service"] == "labyard-vms", health
        assert {health["checks"][name] for name in ("database", "storage", "libvirt", "network")} == {"ok"}, health

    def test_card_says_where_operators_reach_it(self, host: LabHost) -> None:
        about = json.loads(host.check("cat /etc/labyard/services.d/vms.json"))["about"]
        address = host.check("ip -4 route get 192.0.2.1").split(" src ")[1].split()[0]
        assert f"http://{address}:{host.value('vms_http_port')}" in about

    def test_lets_in_who_has_the_token_only(self, api: Api, public: Api) -> None:
        assert public.call("GET", "/vms")[0] == 401
        stranger = Api(public.probe, public.url)
        stranger.token = "not the token"
        assert stranger.call("GET", "/vms")[0] == 401
        assert api.call("GET", "/vms")[0] == 200

    def test_token_is_readable_by_root_only(self, host: LabHost) -> None:
        token = host.value("vms_api_token")
        assert host.shell.file("/etc/labyard/vms.env").mode == 0o600
        assert host.run("grep -rl --exclude vms.env -e %s /etc/labyard /etc/systemd", token).stdout == ""
        assert host.run(f"journalctl --no-pager --unit {UNIT} | grep -c -e %s", token).stdout.strip() == "0"

    def test_qemu_comes_in_to_its_disks_only_and_nobody_else_at_all(self, host: LabHost) -> None:
        storage = host.value("vms_storage_path")
        assert host.run(f"setpriv --reuid libvirt-qemu --init-groups test -x {storage}/disks").rc == 0
        assert host.run(f"setpriv --reuid libvirt-qemu --init-groups test -r {storage}/states.db").rc == 1
        assert host.run(f"setpriv --reuid nobody --init-groups test -x {storage}/disks").rc == 1

    def test_a_machine_runs_on_libvirt_with_an_address(self, host: LabHost, running: dict[str, Any]) -> None:
        assert running["state"] == "running"
        assert len(qemu(host, running["id"]).splitlines()) == 1
        assert (
            host.check(f"virsh domuuid {host.value('vms_domain_prefix')}{running['id']}").strip()
            == running["domain_uuid"]
        )
        assert ipaddress.ip_address(running["local_ip"]) in ipaddress.ip_network(host.value("vms_subnet"))
        network = host.check(f"virsh net-dumpxml {host.value('vms_network_name')}")
        assert running["mac"] in network and f"'{running['local_ip']}'" in network

    def test_a_stopped_machine_leaves_nothing_with_libvirt(
        self, host: LabHost, api: Api, running: dict[str, Any]
    ) -> None:
        stopped = api.call("POST", f"/vms/{running['id']}/actions/stop?force=true")
        assert stopped == (202, {"status": "stopped"})
        shown = api.good("GET", f"/vms/{running['id']}")
        assert (shown["state"], shown["local_ip"]) == ("stopped", None)
        assert qemu(host, running["id"]) == ""
        assert running["mac"] not in host.check(f"virsh net-dumpxml {host.value('vms_network_name')}")
        assert running["local_ip"] not in api.good("GET", "/network/config")["allocated_ips"]

    def test_a_machine_gets_a_disk_while_it_runs(self, host: LabHost, api: Api, running: dict[str, Any]) -> None:
        disk = api.good("POST", "/disks", size=1)["id"]
        try:
            api.good("POST", f"/disks/{disk}/attach", vm_id=running["id"])
            assert f"{disk}.qcow2" in disks(host, running["id"])
            api.good("POST", f"/disks/{disk}/detach")
            assert f"{disk}.qcow2" not in disks(host, running["id"])
        finally:
            api.good("DELETE", f"/disks/{disk}")

    def test_a_restart_touches_no_machine(self, host: LabHost, api: Api, public: Api, running: dict[str, Any]) -> None:
        before = qemu(host, running["id"])
        host.check(f"systemctl restart {UNIT}")
        wait_until_ready(public, "/health")
        assert qemu(host, running["id"]) == before != ""
        assert api.good("GET", f"/vms/{running['id']}") == running

    def test_observer_finds_nothing(self, api: Api, running: dict[str, Any]) -> None:
        seen = api.good("POST", "/observer/check")
        assert (seen["status"], seen["issues"], seen["error"]) == ("ok", [], None)


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        left = (host.value("vms_storage_path"), "/opt/labyard", "/etc/labyard/vms.env", f"/etc/systemd/system/{UNIT}")
        assert_gone(host, "vms", *left)
        assert not host.check(f"ss -H -lnt sport = :{host.value('vms_http_port')}")

    def test_libvirt_has_none_of_its_machines_and_networks(self, host: LabHost) -> None:
        assert host.value("vms_domain_prefix") not in host.check("virsh list --all --name")
        assert host.value("vms_network_name") not in host.check("virsh net-list --all --name").split()
        assert not host.shell.file(f"/sys/class/net/{host.value('vms_bridge_name')}").exists
        assert host.run("pgrep qemu-system").stdout == ""
