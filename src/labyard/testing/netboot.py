"""The netboot service of a lab, as a test drives it: over HTTP, as an operator would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from labyard.lab import Lab, Machine
from labyard.testing.waiting import PATIENCE, wait_until

# Of a boot that goes well, in order.
PHASES = ("dhcp", "tftp", "script", "iscsi", "booted")


class NetbootApi:
    """Logged in as admin. Every call answers with the response; `must` refuses an error."""

    def __init__(self, lab: Lab) -> None:
        host = lab.host("netboot")
        address = host.check("ip -4 -brief address show eth0").split()[2].split("/")[0]
        self.url = f"http://{address}:{host.value('netboot_http_port')}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE)
        self._password = str(host.value("netboot_admin_password"))
        self.log_in()

    def log_in(self) -> None:
        answer = self.http.post("/auth/login", json={"username": "admin", "password": self._password})
        answer.raise_for_status()
        self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def must(self, method: str, path: str, **given: Any) -> Any:
        """The answer's JSON. AssertionError with the body when it is not a success."""
        answer = self.http.request(method, path, **given)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def wait_until_ready(self) -> None:
        """Until the service answers, as after a restart."""
        wait_until(
            lambda: self.http.get("/health/ready").status_code == 200,
            f"the netboot service at {self.url} is ready",
            despite=httpx.TransportError,
        )

    def wait_until_healthy(self) -> None:
        """Until every daemon that the service stands on answers it, as after a restart of one."""

        def health() -> dict[str, Any]:
            found: dict[str, Any] = self.must("GET", "/health/detailed")
            return found

        wait_until(lambda: health()["status"] == "healthy", lambda: f"the netboot service is healthy: {health()}")

    def machine_id(self, machine: Machine) -> int:
        """The machine's id on record; it is registered when it is not."""
        found = self.must("GET", "/machines", params={"search": machine.mac})
        if found:
            return int(found[0]["id"])
        body = {
            "name": machine.name,
            "mac_address": machine.mac,
            "ip_address": machine.address,
            "boot_mode": machine.firmware,
        }
        return int(self.must("POST", "/machines", json=body)["id"])

    def image_id(self, path: str, name: str) -> int:
        """The id of an image that lies on the boot server; it is imported when it is not on record."""
        found = [image for image in self.must("GET", "/images", params={"limit": 1000}) if image["name"] == name]
        number = found[0]["id"] if found else None
        if number is None:
            number = self.must("POST", "/api/v1/images/import", json={"path": path, "name": name})["id"]

        def ready() -> bool:
            image = self.must("GET", f"/images/{number}")
            assert image["status"] != "error", image["error_message"]
            return bool(image["status"] == "ready")

        wait_until(ready, f"image {name} is ready")
        return int(number)

    @contextmanager
    def session(self, machine_id: int, image_id: int, **more: Any) -> Iterator[dict[str, Any]]:
        """A started session, stopped at the end if it still runs. One that the machine has already is stopped first."""
        standing = self.http.get(f"/api/v1/sessions/machine/{machine_id}/active")
        if standing.is_success:
            self.must("POST", f"/api/v1/sessions/{standing.json()['id']}/stop")
        body = {"machine_id": machine_id, "image_id": image_id, **more}
        started: dict[str, Any] = self.must("POST", "/api/v1/sessions/start", json=body)
        try:
            yield started
        finally:
            number = started["session"]["id"]
            if self.get(number)["status"] == "active":
                self.must("POST", f"/api/v1/sessions/{number}/stop")

    def get(self, session_id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.must("GET", f"/api/v1/sessions/{session_id}")
        return found

    def events(self, session_id: int) -> list[dict[str, Any]]:
        """Boot events of a session, oldest first."""
        found: list[dict[str, Any]] = self.must("GET", f"/api/v1/sessions/{session_id}/events")["events"]
        return found[::-1]

    def wait_for_phase(self, session_id: int, phase: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The session, once it is in a boot phase or beyond it: some are over in no time. AssertionError tells the
        events so far."""
        wanted = PHASES[PHASES.index(phase) :] if phase in PHASES else (phase,)

        def there() -> dict[str, Any] | None:
            session = self.get(session_id)
            return session if session["boot_phase"] in wanted else None

        def told() -> str:
            seen = [event["type"] for event in self.events(session_id)]
            return f"session {session_id} is in phase {phase}, not {self.get(session_id)['boot_phase']} after {seen}"

        return wait_until(there, told, seconds)

    def findings(self, repair: bool = False) -> list[dict[str, Any]]:
        """What the observer finds now."""
        found: list[dict[str, Any]] = self.must("POST", "/api/v1/observer/check", params={"repair": repair})["findings"]
        return found
