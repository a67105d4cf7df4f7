"""What the role bmc promises: Redfish switches the machines of libvirt, for those who have a password."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Api, assert_gone, assert_runs, wait_until_ready

from labyard.lab import LabHost

UNIT = "labyard-bmc.service"
SYSTEMS = "/redfish/v1/Systems"
# No disk and no network: what is promised here needs no system.
DOMAIN = """<domain type="qemu"><name>{name}</name><memory unit="MiB">32</memory>
<os><type arch="x86_64" machine="q35">hvm</type></os>
<devices><interface type="user"><boot order="1"/></interface></devices></domain>"""


@pytest.fixture
def public(host: LabHost, probe_host: LabHost) -> Api:
    scheme = "https" if host.value("bmc_tls_key") else "http"
    return Api(probe_host, f"{scheme}://{host.address}:{host.value('bmc_http_port')}")


class Redfish:
    """Calls the emulator as one of its users."""

    def __init__(self, public: Api, user: str, password: str) -> None:
        self._api, self._login = public, ("--insecure", "--user", f"{user}:{password}")

    def call(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        """Status and answer."""
        return self._api.call(method, path, *self._login, **body)

    def reset(self, system: str, how: str) -> None:
        answer = self.call("POST", f"{SYSTEMS}/{system}/Actions/ComputerSystem.Reset", ResetType=how)
        assert answer[0] == 204, answer


@pytest.fixture
def redfish(host: LabHost, public: Api) -> Redfish:
    return Redfish(public, *next(iter(host.value("bmc_users").items())))


@pytest.fixture
def domain(host: LabHost) -> Iterator[str]:
    """The UUID of a machine that is off."""
    name = f"bmc-check-{secrets.token_hex(4)}"
    host.check("printf %s | virsh --quiet define /dev/stdin", DOMAIN.format(name=name))
    try:
        yield host.check(f"virsh domuuid {name}").strip()
    finally:
        host.run(f"virsh destroy {name}")
        host.check(f"virsh --quiet undefine {name}")


def state(host: LabHost, domain: str) -> str:
    return host.check(f"virsh domstate {domain}").strip()


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, UNIT)

    def test_lets_in_who_has_the_password_only(self, host: LabHost, public: Api, redfish: Redfish) -> None:
        assert public.call("GET", SYSTEMS)[0] == 401
        for user in host.value("bmc_users"):
            assert Redfish(public, user, "not the password").call("GET", SYSTEMS)[0] == 401
        assert Redfish(public, "stranger", "not the password").call("GET", SYSTEMS)[0] == 401
        for user, password in host.value("bmc_users").items():
            assert Redfish(public, user, password).call("GET", SYSTEMS)[0] == 200

    def test_the_host_keeps_hashes_of_passwords_only(self, host: LabHost) -> None:
        users = host.shell.file("/etc/labyard/bmc.auth")
        assert (users.mode, users.user) == (0o600, "root")
        entries = dict(line.split(":", 1) for line in users.content_string.splitlines())
        assert entries.keys() == host.value("bmc_users").keys()
        assert all(entry.startswith("$2b$10$") and len(entry) == 60 for entry in entries.values())
        for password in host.value("bmc_users").values():
            assert host.run("grep -rl -e %s /etc/labyard /etc/systemd", password).stdout == ""
            assert host.run(f"journalctl --no-pager --unit {UNIT} | grep -c -e %s", password).stdout.strip() == "0"

    def test_lists_the_machines_of_libvirt(self, host: LabHost, redfish: Redfish, domain: str) -> None:
        status, found = redfish.call("GET", SYSTEMS)
        listed = {member["@odata.id"].rsplit("/", 1)[1] for member in found["Members"]}
        assert status == 200 and listed == set(host.check("virsh list --all --uuid").split())
        assert domain in listed

    def test_a_name_leads_to_the_machine(self, host: LabHost, redfish: Redfish, public: Api, domain: str) -> None:
        name = host.check(f"virsh domname {domain}").strip()
        assert redfish.call("GET", f"{SYSTEMS}/{name}")[0] == 307
        assert redfish.call("GET", f"{SYSTEMS}/{secrets.token_hex(8)}")[0] == 404

    def test_switches_a_machine_on_and_off(self, host: LabHost, redfish: Redfish, domain: str) -> None:
        for how, power, after in (("On", "On", "running"), ("ForceOff", "Off", "shut off")):
            redfish.reset(domain, how)
            assert state(host, domain) == after
            assert redfish.call("GET", f"{SYSTEMS}/{domain}")[1]["PowerState"] == power

    def test_inserts_a_medium_and_takes_it_out_again(self, host: LabHost, redfish: Redfish, domain: str) -> None:
        """The medium is the start page of the emulator itself: any file will do."""
        scheme = "https" if host.value("bmc_tls_key") else "http"
        image = f"{scheme}://127.0.0.1:{host.value('bmc_http_port')}/redfish/v1/"
        media = f"{SYSTEMS}/{domain}/VirtualMedia/Cd/Actions/VirtualMedia"
        inserted = redfish.call("POST", f"{media}.InsertMedia", Image=image)
        assert inserted[0] == 204, inserted
        assert host.value("bmc_pool_path") in host.check(f"virsh domblklist {domain} --inactive")
        redfish.reset(domain, "On")
        assert host.value("bmc_pool_path") in host.check(f"virsh domblklist {domain}")
        redfish.reset(domain, "ForceOff")
        assert redfish.call("POST", f"{media}.EjectMedia", Medium="Cd")[0] == 204
        assert host.value("bmc_pool_path") not in host.check(f"virsh domblklist {domain} --inactive")

    def test_comes_back_when_it_is_killed(self, host: LabHost, public: Api) -> None:
        process = host.check(f"systemctl show --property MainPID --value {UNIT}").strip()
        host.check(f"kill -9 {process}")
        wait_until_ready(public, "/redfish/v1/")
        assert host.check(f"systemctl show --property MainPID --value {UNIT}").strip() not in (process, "0")

    def test_goes_on_after_a_restart_of_libvirt(
        self, host: LabHost, public: Api, redfish: Redfish, domain: str
    ) -> None:
        redfish.reset(domain, "On")
        for command in ("restart libvirtd.service", "stop libvirtd.service libvirtd.socket", "start libvirtd.service"):
            host.check(f"systemctl {command}")
        host.check("systemctl start libvirtd.socket")
        wait_until_ready(public, "/redfish/v1/")
        assert redfish.call("GET", f"{SYSTEMS}/{domain}")[1]["PowerState"] == "On"


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        files = [f"/etc/labyard/{name}" for name in ("bmc.conf", "bmc.auth")]
        left = [f"/etc/systemd/system/{UNIT}", f"/etc/systemd/system/libvirtd.service.wants/{UNIT}"]
        folders = ["/opt/labyard", "/var/lib/labyard/bmc", str(host.value("bmc_pool_path"))]
        assert_gone(host, "bmc", *files, *left, *folders)
        assert host.value("bmc_pool") not in host.check("virsh pool-list --all --name").split()
        assert not host.check(f"ss -H -lnt sport = :{host.value('bmc_http_port')}")
