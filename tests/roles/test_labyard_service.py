"""What the role labyard_service promises. Its scenario installs the netboot service, with fakes for the daemons."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import assert_gone, assert_runs

from labyard.lab import ROLES, LabHost
from labyard.testing.waiting import wait_until

CERTIFICATES = "/etc/ssl/labyard-index-ca.crt"


@pytest.fixture
def unit(host: LabHost) -> str:
    return f"labyard-{host.value('labyard_service_name')}.service"


@pytest.fixture
def venv(host: LabHost) -> str:
    return f"{host.value('labyard_service_home')}/{host.value('labyard_service_name')}"


def locked() -> dict[str, set[str]]:
    """Versions by package; a package may have several, for different Pythons."""
    found: dict[str, set[str]] = {}
    text = Path(ROLES, "labyard_service/files/requirements-service.txt").read_text()
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def wait_until_ready(host: LabHost) -> None:
    ask = f"import urllib.request as u; u.urlopen('{host.value('labyard_service_health_url')}', timeout=10)"
    wait_until(lambda: host.run("python3 -c %s", ask).rc == 0, "the service is ready")


class TestApplied:
    def test_runs_and_is_ready(self, host: LabHost, unit: str) -> None:
        assert_runs(host, unit)
        wait_until_ready(host)

    def test_packages_are_the_locked_ones(self, host: LabHost, venv: str) -> None:
        program = (
            "import importlib.metadata as m; print(*[f'{d.name} {d.version}' for d in m.distributions()], sep='\\n')"
        )
        lines = host.check(f'{venv}/bin/python -c "{program}"').splitlines()
        installed = {name.lower().replace("_", "-"): version for name, version in map(str.split, lines)}
        versions = locked()
        assert installed.pop("labyard")
        assert installed and all(version in versions.get(name, ()) for name, version in installed.items())

    def test_settings_are_readable_by_root_only(self, host: LabHost) -> None:
        settings = host.shell.file(f"/etc/labyard/{host.value('labyard_service_name')}.env")
        assert (settings.mode, settings.user) == (0o600, "root")

    def test_settings_arrive_as_they_are_written(self, host: LabHost, unit: str) -> None:
        process = host.check("systemctl show --property MainPID --value %s", unit).strip()
        environment = dict(
            entry.split("=", 1) for entry in host.check(f"tr '\\0' '\\n' < /proc/{process}/environ").splitlines()
        )
        for name, value in host.value("labyard_service_environment").items():
            assert environment.get(name, "") == value

    def test_comes_back_when_it_is_killed(self, host: LabHost, unit: str) -> None:
        process = host.check("systemctl show --property MainPID --value %s", unit).strip()
        host.check(f"kill -9 {process}")
        wait_until_ready(host)
        assert host.check("systemctl show --property MainPID --value %s", unit).strip() != process

    def test_stays_down_with_wrong_settings_and_says_why(self, host: LabHost, unit: str) -> None:
        name = host.value("labyard_service_name")
        drop_in = f"/run/systemd/system/{unit}.d"
        wrong = f"[Service]\nEnvironmentFile=\nEnvironment=LABYARD_{name.upper()}_HTTP_PORT=none\n"
        host.check(f"mkdir -p {drop_in} && printf %s > {drop_in}/wrong.conf", wrong)
        try:
            host.run(f"systemctl daemon-reload; systemctl restart {unit}")
            wait_until(lambda: host.run("systemctl is-failed --quiet %s", unit).rc == 0, f"{unit} has failed")
            journal = f"journalctl --no-pager -n 20 --unit {unit}"
            wait_until(lambda: f"LABYARD_{name.upper()}_HTTP_PORT" in host.check(journal), "the journal names it")
        finally:
            host.check(f"rm -r {drop_in}; systemctl daemon-reload; systemctl restart {unit}")
            wait_until_ready(host)


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost, unit: str) -> None:
        name = host.value("labyard_service_name")
        home = host.value("labyard_service_home")
        assert_gone(host, name, home, f"/etc/labyard/{name}.env", f"/etc/systemd/system/{unit}", CERTIFICATES)
        assert not host.check("ss -H -lnt sport = :8000")
