"""Functions of a lab host: deployed from this machine, called from the probe host over the route of the lab."""

from __future__ import annotations

import http.client
import json
from functools import cache
from pathlib import Path
from typing import Any

from labyard.client.where import address
from labyard.lab import LabHost
from labyard.testing.faas.archives import docker_archive
from labyard.testing.faas.stock import HANDLER, handler_archive, handler_layer, python_layer
from labyard.testing.waiting import wait_until

TESTS = Path(__file__).parent / "integration/faas"
UNIT = "labyard-faas.service"


@cache
def stock_archive() -> bytes:
    """The stock test handler, which says hello."""
    return handler_archive(TESTS / "test_handler.py")


@cache
def _layers() -> list[bytes]:
    return [python_layer(), handler_layer(TESTS / "fixtures/test-handler/handler.py")]


def archive(*arguments: str) -> bytes:
    """A handler that behaves as its arguments say (fixtures/test-handler)."""
    return docker_archive(_layers(), Cmd=["python3", HANDLER, *arguments])


class Functions:
    """The functions of one host."""

    def __init__(self, host: LabHost, probe: LabHost) -> None:
        self.host, self.probe = host, probe
        self.port = int(host.value("faas_api_port"))
        self.token = str(host.value("faas_token"))

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, token: str = ""
    ) -> tuple[int, Any]:
        """Status and answer of the control API, asked from this machine."""
        link = http.client.HTTPConnection(address(self.host), self.port, timeout=120)
        try:
            sent = {"Authorization": f"Bearer {token or self.token}", **(headers or {})}
            link.request(method, path, body, sent)
            answer = link.getresponse()
            content = answer.read()
        finally:
            link.close()
        return answer.status, json.loads(content) if content.startswith((b"{", b"[")) else content.decode()

    def good(self, method: str, path: str, **options: Any) -> Any:
        """The answer of a call that must succeed."""
        status, answer = self.ask(method, path, **options)
        assert status == 200, f"{method} {path}: {status} {answer}"
        return answer

    def deploy(self, name: str, image: bytes, **limits: Any) -> str:
        """Deploy; the address."""
        headers = {"X-Image-Name": name, "X-Faas-Limits": json.dumps(limits)}
        return str(self.good("POST", "/api/new", body=image, headers=headers)["ip"])

    def remove(self, *names: str) -> None:
        """Take functions away, if they are there."""
        for name in names:
            status, answer = self.ask("DELETE", f"/api/function/{name}")
            assert status in (200, 404), answer

    def call(self, ip: str, path: str = "/", seconds: int = 60) -> str:
        """Body of a function's answer, from the probe host. RuntimeError when there is none."""
        port = self.host.value("faas_function_port")
        return self.probe.check(f"curl --silent --show-error --max-time {seconds} %s", f"http://{ip}:{port}{path}")

    def answers(self, ip: str) -> bool:
        try:
            return "Hello from FaaS handler!" in self.call(ip)
        except RuntimeError:
            return False

    def is_up(self) -> bool:
        try:
            return self.ask("GET", "/health")[0] == 200
        except OSError:
            return False

    def process(self) -> int:
        return int(self.host.check(f"systemctl show --property MainPID --value {UNIT}"))

    def addresses(self) -> set[str]:
        """Those of functions, as the host has them."""
        rows = self.host.check("ip -oneline -4 address show dev lo label lo:faas").splitlines()
        return {row.split()[3].partition("/")[0] for row in rows}

    def containers(self) -> set[str]:
        """Those of all requests, and of handlers that wait."""
        return set(self.host.check("ls /run/faasd/runc").split())

    def parked(self, name: str) -> set[str]:
        """The containers of a function's handlers that wait, which it shall have. Waits for them."""

        def full() -> bool:
            pool = self.good("GET", f"/api/function/{name}")["pool"]
            return bool(0 < pool["parked"] == pool["wanted"])

        wait_until(full, f"parked handlers of {name}")
        found = self.host.check("grep -l %s /run/faasd/warm/*/config.json", f'"hostname": "{name}"')
        return {path.split("/")[-2] for path in found.split()}

    def leftovers(self, containers: set[str]) -> str:
        """What there still is of these containers: state, bundles, mounts, groups. Groups of other names may be another
        host's: containers share the roots of their trees."""
        names = "\\|".join(sorted(containers))
        looked = "/run/faasd /var/lib/faasd/bundles /sys/fs/cgroup"
        return str(self.host.run(f"find {looked} 2>/dev/null | grep '{names}'; grep '{names}' /proc/mounts").stdout)
