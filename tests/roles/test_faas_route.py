"""What the role faas_route promises: the way to functions, over restarts, too, and nothing of others is touched."""

from __future__ import annotations

import json

from conftest import assert_gone, assert_runs

from labyard.lab import LabHost

UNIT = "labyard-faas-route.service"


def routes(host: LabHost) -> dict[str, str]:
    """Gateways by network, of the routes that are the role's."""
    return {row["dst"]: row["gateway"] for row in json.loads(host.check("ip -4 -json route show proto 77") or "[]")}


class TestApplied:
    def test_leads_to_the_hosts_of_functions(self, host: LabHost) -> None:
        wanted = {route["network"]: route["via"] for route in host.value("faas_route_routes")}
        assert routes(host) == wanted and wanted
        assert_runs(host, UNIT)

    def test_is_as_declared_after_a_restart(self, host: LabHost) -> None:
        """One that is gone is there again, and one that nobody wants any more is gone."""
        before = routes(host)
        network, via = next(iter(before.items()))
        host.check(f"ip route add 198.51.100.0/24 via {via} proto 77")
        host.check(f"ip route del {network}")
        host.check(f"systemctl restart {UNIT}")
        assert routes(host) == before

    def test_leaves_routes_of_others_alone(self, host: LabHost) -> None:
        via = next(iter(routes(host).values()))
        host.check(f"ip route add 198.51.100.0/24 via {via}")
        try:
            host.check(f"systemctl restart {UNIT}")
            assert host.check("ip route show 198.51.100.0/24")
        finally:
            host.check("ip route del 198.51.100.0/24")


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert routes(host) == {}
        assert_gone(host, "faas_route", f"/etc/systemd/system/{UNIT}")
