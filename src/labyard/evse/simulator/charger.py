"""One charger with its gateway, as far as sharing sees it: the emulator's car behind the gateway's limit."""

from __future__ import annotations

from labyard.evse.codes import OFFERING, State
from labyard.evse.emulator.ev import Car
from labyard.evse.sharing.demand import Report
from labyard.evse.sharing.limit import Failsafe, Limit, MemberLimit
from labyard.evse.simulator.scenario import Event, Peer

HEARTBEAT_SECONDS = 5.0


class Charger:
    """`limit` None: it is free. While its gateway is down, its EVSE goes on with the pilot that it has."""

    def __init__(self, peer: Peer, seed: int) -> None:
        self.peer = peer
        ev = peer.ev
        self.car = Car(ev.battery_kwh, ev.max_kw, seed=seed, soc=ev.soc)
        if ev.direct_amps is not None:
            self.car.direct_mode, self.car.direct_amps = True, ev.direct_amps
        self.member: MemberLimit | None = None
        self.limit: Limit | None = None
        self._followed: Limit | None = None  # what the EVSE was told
        self.pilot = int(peer.max)
        self.asleep = False
        self.current = 0.0  # drawn now
        self.energy_wh = 0.0
        self.down_since: float | None = None
        self.lie: tuple[float | None, float | None] = (None, None)

    @property
    def state(self) -> State:
        if self.asleep:
            return State.SLEEPING
        if not self.car.connected:
            return State.NOT_CONNECTED
        return State.CHARGING if self.car.requesting else State.CONNECTED

    @property
    def offered(self) -> float:
        """What the car may draw now, A."""
        return float(self.pilot) if self.state in OFFERING else 0.0

    def become_member(self, failsafe: Failsafe, now: float) -> None:
        self.member = MemberLimit(failsafe)
        self.follow(now)

    def follow(self, now: float) -> None:
        """Let the EVSE have what the limit is now."""
        if self.down_since is not None:
            heartbeat = self.peer.heartbeat_current
            if heartbeat is not None and now - self.down_since >= HEARTBEAT_SECONDS:
                self.pilot = min(self.pilot, int(heartbeat))
            self._followed = None  # whatever the gateway finds when it is back, it tells the EVSE anew
            return
        limit = self.limit if self.member is None else self.member.limit(now)
        if limit is self._followed:
            return
        self.limit = self._followed = limit
        if self.limit is None:
            self.pilot, self.asleep = int(self.peer.max), False
        else:
            self.pilot = max(int(self.peer.min), min(int(self.peer.max), self.limit.amps))
            self.asleep = self.limit.pauses(self.peer.min)
        self._settle()

    def happen(self, event: Event) -> None:
        car = self.car
        match event.do, event.value:
            case "connect", _:
                car.connect()
                car.request()
            case "plug", _:
                car.connect()
            case "disconnect", _:
                car.disconnect()
            case "request", _:
                car.request()
            case "stop", _:
                car.stop()
            case "soc", float(value):
                car.set_soc(value)
            case "max_amps", float(value):
                car.set_max_amps(value, self.peer.volts)
            case "direct_amps", float(value):
                car.direct_mode, car.direct_amps = value > 0, value
        self._settle()

    def tick(self, seconds: float) -> None:
        """The car takes what it is offered now, having taken what it was offered before."""
        if self.current:
            watt_hours = self.current * self.peer.volts * seconds / 3600
            self.energy_wh += watt_hours
            self.car.fill(watt_hours)
        self._settle()
        if self.state is State.CHARGING:
            self.current = self.car.draw(self.pilot, self.peer.volts)

    @property
    def signs(self) -> tuple[int, bool, int, bool]:
        """What a gateway reports at once when it changes."""
        return self.state, self.car.connected, self.pilot, self.asleep

    def report(self) -> Report:
        measured, pilot = self.lie
        return Report(
            int(self.state),
            self.car.connected,
            float(self.pilot) if pilot is None else pilot,
            self.current if measured is None else measured,
            self.peer.min,
            self.peer.max,
            self.peer.priority,
            ready=self.asleep,
        )

    def _settle(self) -> None:
        if self.state is not State.CHARGING:
            self.current = 0.0
