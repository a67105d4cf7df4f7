"""What the role boot_http promises."""

from __future__ import annotations

import json
import secrets

import pytest
from conftest import assert_gone, assert_runs

from labyard.lab import LabHost
from labyard.testing.waiting import wait_until


@pytest.fixture
def base(host: LabHost) -> str:
    return f"http://{host.value('boot_http_address')}:{host.value('boot_http_port')}"


def status(probe_host: LabHost, url: str) -> str:
    return probe_host.run(f"curl --silent --output /dev/null --max-time 60 --write-out '%{{http_code}}' '{url}'").stdout


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, "nginx.service")

    def test_serves_a_boot_file(self, host: LabHost, probe_host: LabHost, base: str) -> None:
        path = f"{host.value('boot_http_root')}/check.txt"
        host.check(f"echo hello > {path}")
        try:
            assert probe_host.check(f"curl --silent --fail {base}/check.txt") == "hello\n"
        finally:
            host.check(f"rm {path}")

    def test_phone_home_is_logged(self, host: LabHost, probe_host: LabHost, base: str) -> None:
        token = secrets.token_hex(8)
        assert status(probe_host, f"{base}{host.value('boot_http_phone_home_path')}/{token}?event=userland") == "204"
        # nginx writes it down after its answer.
        log = host.value("boot_http_log")
        wait_until(lambda: host.run("grep --quiet %s %s", token, log).rc == 0, "the call is in the log")
        line = json.loads(host.check("grep %s %s", token, log))
        assert line["path"].endswith(token) and line["args"] == "event=userland" and line["client"]

    def test_keeps_scripts_and_listings_to_itself(self, host: LabHost, probe_host: LabHost, base: str) -> None:
        path = f"{host.value('boot_http_root')}/machines"
        made = host.run(f"test -d {path}").rc != 0
        host.check(f"mkdir -p {path} && echo secret > {path}/check.ipxe")
        try:
            assert status(probe_host, f"{base}/machines/check.ipxe") == "404"
            assert status(probe_host, f"{base}/") in {"403", "404"}
        finally:
            host.check(f"rm {path}/check.ipxe" + (f" && rmdir {path}" if made else ""))

    def test_listens_on_its_address_only(self, host: LabHost) -> None:
        listening = [line.split()[3] for line in host.check("ss -H -lnt sport = :80").splitlines()]
        assert listening == [f"{host.value('boot_http_address')}:{host.value('boot_http_port')}"]


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(host, "boot_http", "/etc/nginx/conf.d/labyard-boot.conf", host.value("boot_http_log"))
        assert not host.check("ss -H -lnt sport = :80")
