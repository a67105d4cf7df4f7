"""A lab of pairs in memory: what takes the place of the two clients."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from labyard.client.http import ClientError
from labyard.evse.pairs import Credentials


class Charger:
    """One pair. `dead` names the halves that do not answer."""

    def __init__(self, number: int) -> None:
        self.id = f"00000000000{number}"
        self.host = f"openevse-{number}.local:{8000 + number}"
        self.dead: set[str] = set()
        self.did: list[tuple[str, dict[str, Any]]] = []
        self.evse = {"state": 1, "current_capacity": 32, "actual_current": 0.0, "session_energy_wh": 1234.0}
        self.car: dict[str, Any] = {"connected": False, "soc": 50.0}
        self.status: dict[str, Any] = {"evse_connected": 1, "loadsharing_state": "off", "state": 1, "pilot": 32}
        self.status |= {"amp": 0, "vehicle": 0, "session_energy": 1234.0}
        self.config: dict[str, Any] = {
            "wifi_serial": self.id.upper(),
            "hostname": f"openevse-{number}",
            "loadsharing_enabled": False,
            "loadsharing_role": "",
            "loadsharing_group_id": "",
            "loadsharing_group_max_current": 0.0,
            "loadsharing_safety_factor": 1.0,
        }
        self.issues: list[str] = []
        self.group: dict[str, Any] = {}
        self.sees: list[dict[str, Any]] = []
        self.asked = 0  # times that it was told to discover

    def charges(self, offered: int, drawn: float) -> None:
        self.evse |= {"state": 3, "current_capacity": offered, "actual_current": drawn}
        self.car["connected"] = True

    def control(self, budget: float, *members: Charger) -> None:
        """Make it the controller of a group."""
        self.config |= {"loadsharing_enabled": True, "loadsharing_role": "controller", "loadsharing_group_id": "lab"}
        self.config["loadsharing_group_max_current"] = budget
        self.status["loadsharing_state"] = "controller"
        for one in members:
            one.status["loadsharing_state"] = "member"
            one.config |= {"loadsharing_enabled": True, "loadsharing_role": "member"}
        everybody = (self, *members)
        self.group = {
            "peers": [{"id": one.id, "host": one.host, "joined": True} for one in everybody],
            "allocations": [{"id": one.host, "reason": "equal_share"} for one in everybody],
        }


class _Client:
    half = ""

    def __init__(self, lab: dict[str, Charger], url: str, timeout: float = 5) -> None:
        self.charger = lab[url]
        if self.half in self.charger.dead:
            raise ClientError(f"nothing answers at {url}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class FakeEmulator(_Client):
    half = "emulator"

    def status(self) -> dict[str, Any]:
        return {"evse": self.charger.evse, "ev": self.charger.car}

    def do(self, path: str, **given: Any) -> None:
        self.charger.did.append((path, given))
        if path in ("ev/connect", "ev/disconnect"):
            self.charger.car["connected"] = path == "ev/connect"


class FakeGateway(_Client):
    half = "gateway"

    def __init__(self, lab: dict[str, Charger], url: str, credentials: Credentials | None = None) -> None:
        super().__init__(lab, url)

    def status(self) -> dict[str, Any]:
        return self.charger.status

    def config(self) -> dict[str, Any]:
        return dict(self.charger.config)

    def group(self) -> dict[str, Any]:
        config = self.charger.config
        budget = config["loadsharing_group_max_current"] * config["loadsharing_safety_factor"]
        return self.charger.group | {"budget": budget, "config_issues": self.charger.issues}

    def configure(self, **options: Any) -> bool:
        self.charger.config |= options
        return True

    def peers(self) -> list[dict[str, Any]]:
        return self.charger.sees if self.charger.asked else []

    def discover(self) -> None:
        self.charger.asked += 1
