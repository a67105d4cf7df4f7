"""Real gateways on one host find each other by mDNS: contract 6.1."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from integration.evse.sharing.alone import run_alone
from integration.evse.sharing.conftest import Gateways
from integration.evse.sharing.pairs import Gateway
from labyard.testing.waiting import wait_until

# What the contract gives them after a trigger.
SECONDS = 3.0


def online(gateway: Gateway) -> list[str]:
    return sorted(peer["host"] for peer in gateway.peers if peer["online"])


def others(gateway: Gateway, all_of_them: list[Gateway]) -> list[str]:
    return sorted(f"{other.hostname}.local:{other.port}" for other in all_of_them if other is not gateway)


def trigger(gateways: list[Gateway]) -> None:
    for gateway in gateways:
        assert gateway.http.post("/loadsharing/discover").json() == {"msg": "done"}


@pytest.mark.parametrize("count", [2, 4])
def test_each_lists_exactly_the_others(gateways: Gateways, count: int) -> None:
    found = gateways(count)
    trigger(found)
    for gateway in found:
        wait_until(lambda gateway=gateway: online(gateway) == others(gateway, found), "the others, and only they")
        assert not any(peer["joined"] for peer in gateway.peers)
    first, second = found[0], found[1]
    config = second.http.get("/config").json()
    (entry,) = [peer for peer in first.peers if peer["id"] == config["wifi_serial"].lower()]
    assert entry["url"].endswith(f":{second.port}") and entry["ip"] in entry["url"]
    # A peer that is joined is the one that was found, under whatever name.
    assert first.add(f"127.0.0.1:{second.port}").status_code == 200
    assert first.add(entry["host"]).json() == {"msg": "Peer already in group"}

    def joined() -> list[tuple[bool, bool]]:
        return [(peer["online"], peer["joined"]) for peer in first.peers if peer["id"] == entry["id"]]

    wait_until(lambda: joined() == [(True, True)], "it is there once, and joined")
    assert len(first.peers) == count - 1
    assert first.http.delete(f"/loadsharing/peers/{entry['host']}").status_code == 200
    assert not any(peer["joined"] for peer in first.peers), "it stays listed"


def test_who_goes_is_gone_and_who_is_killed_is_offline(gateways: Gateways) -> None:
    found = gateways(3)
    first, leaving, killed = found
    trigger(found)
    wait_until(lambda: online(first) == others(first, found), "all found")
    killed_host, leaving_host = others(first, [killed])[0], others(first, [leaving])[0]
    killed.stop(signal.SIGKILL)
    assert leaving.stop() == 0
    wait_until(lambda: leaving_host not in [peer["host"] for peer in first.peers], "it said goodbye")
    trigger([first])
    time.sleep(SECONDS)
    wait_until(
        lambda: [(peer["host"], peer["online"]) for peer in first.peers] == [(killed_host, False)],
        lambda: f"only the killed one is listed, as offline: {first.peers}",
    )
    killed.start()
    killed.ready()
    wait_until(lambda: online(first) == [killed_host], "it is back")


def test_one_name_for_two(gateways: Gateways) -> None:
    (first,) = gateways(1)
    wait_until(lambda: "announced" in first.log(), "announced")
    (second,) = gateways(1)
    second.http.post("/config", json={"hostname": first.hostname})
    wait_until(lambda: online(first) == [f"{first.hostname}-2.local:{second.port}"], "the second gets another name")


def test_off_finds_nobody_and_is_not_found(gateways: Gateways) -> None:
    (seen,) = gateways(1)
    (silent,) = gateways(1, mdns="off")
    trigger([seen, silent])
    time.sleep(SECONDS)
    assert silent.peers == []
    assert f"{silent.hostname}.local:{silent.port}" not in [peer["host"] for peer in seen.peers]


INSIDE = """
import json, sys
from pathlib import Path
from integration.evse.sharing.pairs import Gateway
from labyard.testing.waiting import wait_until
found = [Gateway(Path(sys.argv[1]) / str(number)) for number in range(3)]
try:
    for gateway in found:
        gateway.ready()
        gateway.http.post("/loadsharing/discover")
    for gateway in found:
        wait_until(lambda: sum(peer["online"] for peer in gateway.peers) == 2, "both others")
    print(json.dumps([[peer["url"] for peer in gateway.peers] for gateway in found]))
    print(json.dumps([gateway.port for gateway in found]))
finally:
    for gateway in found:
        gateway.stop()
"""


def test_without_any_network_they_find_each_other_on_loopback(tmp_path: Path) -> None:
    found, ports = (json.loads(line) for line in run_alone(INSIDE, str(tmp_path)))
    for own, urls in zip(ports, found, strict=True):
        assert sorted(urls) == sorted(f"http://127.0.0.1:{port}" for port in ports if port != own)


SAME_NAME = """
import json, sys
from pathlib import Path
from integration.evse.sharing.pairs import Gateway
from labyard.testing.waiting import wait_until
folder = Path(sys.argv[1])
for number in range(4):
    (folder / str(number)).mkdir()
    (folder / str(number) / "options.json").write_text('{"hostname": "same"}')
found = [Gateway(folder / str(number)) for number in range(4)]

def listed():
    return [sorted(peer["host"] for peer in gateway.peers if peer["online"]) for gateway in found]

def settled():
    # Two that announced one name at the same moment change it once more: each name is of one gateway in all lists.
    lists = listed()
    everyone = set().union(*lists)
    each = [sorted(host for host in everyone if not host.endswith(f":{gateway.port}")) for gateway in found]
    return lists if len(everyone) == 4 and lists == each else None

try:
    for gateway in found:
        gateway.ready()
    for gateway in found:
        wait_until(lambda: "announced" in gateway.log(), "announced")
        gateway.http.post("/loadsharing/discover")
    print(json.dumps(wait_until(settled, lambda: f"each has a name of its own: {listed()}")))
    print(json.dumps([gateway.port for gateway in found]))
finally:
    for gateway in found:
        gateway.stop()
"""


def test_four_of_one_name_that_begin_at_once(tmp_path: Path) -> None:
    found, ports = (json.loads(line) for line in run_alone(SAME_NAME, str(tmp_path)))
    for own, hosts in zip(ports, found, strict=True):
        assert sorted(int(host.split(":")[1]) for host in hosts) == sorted(port for port in ports if port != own)
    names = {host.split(".")[0] for hosts in found for host in hosts}
    assert names == {"same", "same-2", "same-3", "same-4"}
