"""/metrics: read from the emulator when asked. Names as in contract 8."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from labyard.evse.codes import State
from labyard.evse.emulator.emulator import Emulator

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render(emulator: Emulator) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reading(emulator))
    return generate_latest(registry)


class _Reading(Collector):
    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def collect(self) -> Iterator[Metric]:
        emulator, evse = self._emulator, self._emulator.evse
        # A pilot that no car sees, or that is steady, offers nothing.
        offers = evse.state in (State.CONNECTED, State.CHARGING)
        for name, text, value in (
            ("labyard_evse_current_amps", "Current that the car draws", evse.current),
            ("labyard_evse_offer_amps", "Current that the car may draw", evse.pilot.amps if offers else 0),
            ("labyard_evse_state", "State code of the charger", int(evse.state)),
            ("labyard_evse_vehicle_connected", "Whether a car is plugged in", int(emulator.car.connected)),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily("labyard_evse_energy_wh", "Energy delivered", value=evse.total_wh)
        reconnects = max(0, emulator.line.attached - 1)
        yield CounterMetricFamily("labyard_rapi_reconnects", "Clients of RAPI after the first", value=reconnects)
        yield _counted("labyard_rapi_commands", "Commands answered", "result", emulator.results)
        yield _counted("labyard_link_faults", "Faults on the RAPI line", "kind", emulator.line.log.totals)


def _counted(name: str, text: str, label: str, counts: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
