"""Pairs of a lab, as the commands see them."""

from __future__ import annotations

from dataclasses import dataclass, field

from labyard.evse.ports import EMULATOR_PORT, GATEWAY_PORT, RAPI_PORT

Credentials = tuple[str, str]


@dataclass(frozen=True)
class Pair:
    """A charger: the URLs of its gateway and of its emulator, which plays controller and car. `name` is HOST/NUMBER."""

    name: str
    gateway: str
    emulator: str
    rapi_port: int | None = None
    credentials: Credentials | None = field(default=None, repr=False)  # the gateway's, where it wants any
    time_scale: float = 1.0
    trouble: str = ""  # why it cannot even be asked


@dataclass(frozen=True)
class Ports:
    """The ports of a host's pair 0; pair N has N more."""

    gateway: int = GATEWAY_PORT
    emulator: int = EMULATOR_PORT
    rapi: int = RAPI_PORT


def pairs_of(host: str, address: str, count: int, ports: Ports, credentials: Credentials | None = None) -> list[Pair]:
    """All pairs of a host whose name is `host`."""
    return [
        Pair(
            f"{host}/{number}",
            f"http://{address}:{ports.gateway + number}",
            f"http://{address}:{ports.emulator + number}",
            ports.rapi + number,
            credentials,
        )
        for number in range(count)
    ]
