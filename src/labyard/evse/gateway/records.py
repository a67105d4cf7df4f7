"""What is counted and written down of the charger, and outlives a restart: energy and the log: contract 5.1, 5.4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labyard.evse.codes import State
from labyard.evse.gateway import status
from labyard.evse.gateway.timekeeping import iso

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway

ENERGY = "energy.json"
ENERGY_TICKS = 600


class Records:
    """Fills the gateway's energy meter and its log."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._last_state = int(State.STARTING)
        self._ticks = 0
        gateway.storage.restore(ENERGY, gateway.energy.restore)
        gateway.manager.on_ready(self._resume)

    def tick(self, seconds: float) -> None:
        """To be called each second, with the time since the last call."""
        gateway = self._gateway
        gateway.energy.turn(gateway.wall.local().date())
        if gateway.evse.charging:
            gateway.energy.add(seconds, status.power(gateway))
            self._ticks += 1
            if self._ticks % ENERGY_TICKS == 0:
                self.keep()

    def state_changed(self) -> None:
        evse = self._gateway.evse
        if evse.charging and self._last_state != State.STARTING:
            self._gateway.energy.switches += 1
        self._last_state = evse.state
        self.keep()
        self._write_log()

    def reset_energy(self, total: float) -> None:
        """`total` in kWh is what to begin with."""
        self._gateway.energy.reset(total)
        self.keep()

    def keep(self) -> None:
        self._gateway.storage.write(ENERGY, self._gateway.energy.as_json())

    async def _resume(self) -> None:
        """A car that was there before this gateway started goes on with its session."""
        evse, energy = self._gateway.evse, self._gateway.energy
        if evse.vehicle:
            energy.session = max(energy.session, evse.session_wattseconds / 3600)

    def _write_log(self) -> None:
        gateway, evse = self._gateway, self._gateway.evse
        gateway.log.add(
            {
                "time": iso(gateway.wall.now()),
                "type": "warning" if evse.fault else "information",
                "managerState": "active" if gateway.manager.wanted().active else "disabled",
                "evseState": evse.state,
                "evseFlags": evse.vflags,
                "pilot": evse.pilot,
                "energy": round(gateway.energy.session, 2),
                "elapsed": evse.elapsed(gateway.clock.now()),
                "temperature": evse.temperature,
                "temperatureMax": evse.temperature_max,
                "divertMode": gateway.divert.mode,
                "shaper": int(gateway.shaper.active),
            }
        )
