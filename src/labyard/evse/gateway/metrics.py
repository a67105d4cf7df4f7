"""`/metrics`, read from the parts when somebody asks: contract section 8."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway


@dataclass(frozen=True)
class Measure:
    """`name` of a counter is without its _total. `values` by the value of `label`, or one under ""."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    values: Mapping[str, float]
    label: str = ""


def own(gateway: Gateway) -> Iterable[Measure]:
    evse, rapi = gateway.evse, gateway.manager.rapi
    one = {
        "labyard_evse_current_amps": ("Current that the car takes", evse.amp / 1000),
        "labyard_evse_offer_amps": ("Current that the car is offered", evse.pilot),
        "labyard_evse_state": ("State code of the EVSE", evse.state),
        "labyard_evse_vehicle_connected": ("Whether a car is connected", int(evse.vehicle)),
    }
    for name, (text, value) in one.items():
        yield Measure(name, "gauge", text, {"": value})
    yield Measure("labyard_evse_energy_wh", "counter", "Energy delivered", {"": gateway.energy.total * 1000})
    results = {result.name.lower(): count for result, count in rapi.results.items()}
    yield Measure("labyard_rapi_commands", "counter", "RAPI commands by result", results, "result")
    reconnects = max(0, gateway.link.opened - 1)
    yield Measure("labyard_rapi_reconnects", "counter", "Serial line opened again", {"": reconnects})


def render(measures: Iterable[Measure]) -> tuple[bytes, str]:
    """Text of Prometheus, and its media type."""
    # Seldom asked for, and dear to load.
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    class Once(Collector):
        def collect(self) -> Iterable[Metric]:
            for measure in measures:
                family = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
                metric = family(measure.name, measure.help, labels=[measure.label] if measure.label else [])
                for label, value in measure.values.items():
                    metric.add_metric([label] if measure.label else [], value)
                yield metric

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    return generate_latest(registry), CONTENT_TYPE_LATEST
