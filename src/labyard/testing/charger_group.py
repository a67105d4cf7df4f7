"""The charger pairs of a lab, as a test drives them: over HTTP, as an operator would."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from labyard.client.where import address
from labyard.evse.codes import OFFERING
from labyard.lab import Lab, LabHost
from labyard.testing.waiting import PATIENCE, wait_until

PARTS = ("emulator", "bridge", "gateway")


def wait_for_pairs(is_so: Callable[[], object], what: str) -> None:
    """AssertionError when it is not so in time. A gateway that does not answer is no failure."""
    wait_until(is_so, what, despite=httpx.TransportError)


class EvsePair:
    """Pair `number` of a host. `peer` is how the inventory's groups call its gateway."""

    def __init__(self, host: LabHost, address: str, number: int) -> None:
        self.name = f"{host.name}/{number}"
        self.host, self.number = host, number
        self.peer: str = host.value("evse_group_pairs")[self.name]
        self.url = f"http://{address}:{host.value('evse_pair_gateway_base_port') + number}"
        self.emulator_url = f"http://{address}:{host.value('evse_pair_emulator_base_port') + number}"
        self.gateway = httpx.Client(base_url=self.url, timeout=PATIENCE)
        self.emulator = httpx.Client(base_url=f"{self.emulator_url}/api", timeout=PATIENCE)

    def unit(self, part: str) -> str:
        return f"labyard-evse-{part}@{self.number}.service"

    def systemctl(self, verb: str, part: str) -> None:
        self.host.check(f"systemctl {verb} {self.unit(part)}")

    def get(self, path: str) -> Any:
        return self.gateway.get(path).raise_for_status().json()

    def post(self, path: str, content: Any) -> Any:
        """AssertionError with the body when it is refused."""
        answer = self.gateway.post(path, json=content)
        assert answer.is_success, f"{self.name} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    @property
    def id(self) -> str:
        return str(self.get("/config")["wifi_serial"]).lower()

    @property
    def peers(self) -> dict[str, dict[str, Any]]:
        """By their id, which is "unknown" for those who never told it."""
        return {entry["id"]: entry for entry in self.get("/loadsharing/peers")}

    @property
    def sharing(self) -> str:
        """`loadsharing_state` of /status."""
        return str(self.get("/status")["loadsharing_state"])

    @property
    def offer(self) -> int:
        """What the EVSE offers, A; 0 where a car could not take it."""
        status = self.emulator.get("/evse/status").json()
        return int(status["current_capacity"]) if status["state"] in OFFERING else 0

    @property
    def draw(self) -> float:
        """What the car takes, A."""
        return float(self.emulator.get("/evse/status").json()["actual_current"])

    def car(self, *actions: str) -> None:
        """connect, request_charge, stop_charge, disconnect."""
        for action in actions:
            self.emulator.post(f"/ev/{action}").raise_for_status()

    def charge(self) -> None:
        self.car("connect", "request_charge")


class EvseGroup:
    """A group of the inventory."""

    def __init__(self, entry: dict[str, Any], pairs: dict[str, EvsePair]) -> None:
        self.entry = entry
        self.budget = float(entry["budget_amps"]) * float(entry.get("safety_factor", 1))
        self.controller = pairs[entry["controller"]]
        self.members = [pairs[name] for name in entry["members"]]

    @property
    def pairs(self) -> list[EvsePair]:
        return [self.controller, *self.members]

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.controller.get("/loadsharing/status")
        return found

    @property
    def is_whole(self) -> bool:
        """Everybody is online and hears the controller."""
        status = self.status
        return (
            status["online_count"] == len(self.pairs)
            and not status["failsafe_active"]
            and all(pair.sharing.startswith("member") for pair in self.members)
        )

    def draws(self) -> list[float]:
        return [pair.draw for pair in self.pairs]

    @contextmanager
    def watched(self, folder: Path) -> Iterator[None]:
        """The monitor runs meanwhile. AssertionError with the lines when the budget did not hold."""
        output = folder / "monitor.jsonl"
        words = ["--controller", self.controller.url, "--interval", "0.5", "--output", str(output)]
        words += ["--emulators", *(pair.emulator_url for pair in self.pairs)]
        monitor = subprocess.Popen([sys.executable, "-m", "labyard.evse.monitor", *words], stdout=subprocess.PIPE)
        try:
            wait_until(lambda: output.exists() and output.stat().st_size > 0, "the monitor watches")
            yield
        finally:
            monitor.send_signal(signal.SIGTERM)
            summary, _ = monitor.communicate(timeout=PATIENCE)
        over = [line for line in map(json.loads, output.read_text().splitlines()) if line["violation"]]
        assert not over and monitor.returncode == 0, (summary, over)


def pairs_of(hosts: Iterable[LabHost]) -> dict[str, EvsePair]:
    """All pairs of these hosts, by HOST/NUMBER."""
    found = {}
    for host in hosts:
        here = address(host)
        for number in range(host.value("evse_pair_count")):
            found[f"{host.name}/{number}"] = EvsePair(host, here, number)
    return found


def first_group(lab: Lab) -> EvseGroup:
    """The first of evse_groups."""
    hosts = lab.hosts("evse_hosts")
    return EvseGroup(hosts[0].value("evse_group_groups")[0], pairs_of(hosts))
