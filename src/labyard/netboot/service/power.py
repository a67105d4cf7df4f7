"""Switching machines by their BMCs, for starts and stops of sessions."""

from __future__ import annotations

import structlog

from labyard.core.adapter import AdapterError
from labyard.core.errors import invalid
from labyard.core.secretbox import SecretBox
from labyard.core.steps import call
from labyard.netboot.adapters.power import Bmc, PowerBackend, Untouched
from labyard.netboot.models import Machine
from labyard.netboot.settings import Settings

log = structlog.get_logger(__name__)

# For a step that waits for a BMC: somewhat more than the adapter allows itself, whose error says more.
GRACE_SECONDS = 10.0


class Power:
    def __init__(self, settings: Settings, backend: PowerBackend, box: SecretBox) -> None:
        self._backend = backend
        self._box = box
        self.step_seconds = settings.power_timeout_seconds + GRACE_SECONDS

    def require(self, machine: Machine, wanted: str) -> None:
        """422 naming `power` for a machine whose BMC nobody has told."""
        if not machine.bmc_url:
            raise invalid(
                "power",
                f"machine {machine.name} has no bmc_url, so it cannot be switched; set it, or leave power out",
                wanted,
            )

    def cycle(self, machine: Machine) -> None:
        """AdapterError; Untouched when the machine is as it was."""
        self._backend.cycle(self._bmc(machine))

    def off(self, machine: Machine) -> None:
        """AdapterError."""
        self._backend.off(self._bmc(machine))

    def try_off(self, machine: Machine) -> str:
        """Why it could not be switched off; empty when it is off. A BMC that fails keeps nobody from going on."""
        try:
            call(lambda: self.off(machine), self.step_seconds)
        except (AdapterError, TimeoutError) as error:
            log.warning("machine not switched off", machine=machine.name, reason=str(error))
            return str(error)
        return ""

    def _bmc(self, machine: Machine) -> Bmc:
        if not machine.bmc_url:
            raise Untouched(f"machine {machine.name} has no bmc_url any more")
        try:
            password = self._box.open(machine.bmc_password) if machine.bmc_password else ""
        except ValueError as error:
            raise Untouched(f"bmc_password was {error}, or set the password again") from None
        return Bmc(machine.bmc_url, machine.bmc_username or "", password, machine.bmc_verify_tls)


class Cycle:
    """Cycling one machine as a step of its session's start. `left_on`: why it could not be switched off again."""

    def __init__(self, power: Power, machine: Machine) -> None:
        self._power = power
        self._machine = machine
        self._touched = False
        self.left_on = ""

    def run(self) -> None:
        self._touched = True
        try:
            self._power.cycle(self._machine)
        except Untouched:
            self._touched = False
            raise

    def undo(self) -> None:
        if self._touched:
            self.left_on = self._power.try_off(self._machine)
