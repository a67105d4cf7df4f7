"""/api/ev."""

from __future__ import annotations

from typing import Any

from labyard.evse.emulator.api import body
from labyard.evse.emulator.api.body import Body
from labyard.evse.emulator.emulator import Emulator


def get_ev(emulator: Emulator) -> Any:
    return emulator.status()["ev"]


def connect(emulator: Emulator) -> None:
    with emulator.change():
        emulator.car.connect()


def disconnect(emulator: Emulator) -> None:
    with emulator.change():
        emulator.evse.disconnect()


def request_charge(emulator: Emulator) -> None:
    with emulator.change():
        emulator.car.request()


def stop_charge(emulator: Emulator) -> None:
    with emulator.change():
        emulator.car.stop()


def set_soc(emulator: Emulator, given: Body) -> None:
    soc = body.number(given, "soc", 0, 100)
    with emulator.change():
        emulator.car.set_soc(soc)


def set_max_rate(emulator: Emulator, given: Body) -> None:
    emulator.car.set_max_amps(body.number(given, "amps", 0), emulator.evse.volts)


def set_mode(emulator: Emulator, given: Body) -> None:
    direct = body.boolean(given, "direct_mode")
    with emulator.change():
        emulator.car.set_direct_mode(direct)


def set_direct_current(emulator: Emulator, given: Body) -> None:
    emulator.car.direct_amps = body.number(given, "amps", 0)


def set_variance(emulator: Emulator, given: Body) -> None:
    emulator.car.varies = body.boolean(given, "enabled")
