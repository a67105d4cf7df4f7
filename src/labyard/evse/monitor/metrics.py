"""The monitor's `/metrics`: contract 8.5."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from labyard.evse.monitor.watch import Watch


class _Group(Collector):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterable[Metric]:
        last = self._watch.last
        for name, text, key in (
            ("labyard_group_budget_amps", "What the group may draw", "budget"),
            ("labyard_group_actual_amps", "What its cars draw", "drawn"),
            ("labyard_group_committed_amps", "What its controller counts members with", "committed"),
        ):
            if last.get(key) is not None:
                yield GaugeMetricFamily(name, text, value=last[key])
        yield CounterMetricFamily(
            "labyard_group_violations", "Times that the budget was exceeded", value=self._watch.violations
        )
        for name, text, key in (
            ("labyard_evse_current_amps", "Current that the car takes", "drawn"),
            ("labyard_evse_offer_amps", "Current that the car is offered", "offered"),
            ("labyard_evse_state", "State code of the EVSE", "state"),
        ):
            family = GaugeMetricFamily(name, text, labels=["charger"])
            for charger, values in last.get("chargers", {}).items():
                if values is not None:
                    family.add_metric([charger], values[key])
            yield family


@contextmanager
def serve(port: int, watch: Watch) -> Iterator[None]:
    """OSError: the port is taken."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Group(watch))
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
