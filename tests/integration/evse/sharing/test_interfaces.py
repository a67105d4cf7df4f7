"""LABYARD_MDNS_INTERFACES: which interfaces a gateway's own responder uses."""

from __future__ import annotations

import json
from pathlib import Path

from integration.evse.sharing.alone import run_alone


def link(name: str, address: str) -> str:
    """A shell's words: an interface of this name, up, and something at its other end."""
    return (
        f"ip link add {name} type veth peer name {name}end && ip addr add {address} dev {name} && "
        f"ip link set {name}end up && ip link set {name} up"
    )


INSIDE = f"""
import json, subprocess, sys, time
from pathlib import Path
from integration.evse.sharing.pairs import Gateway
from labyard.testing.waiting import wait_until

interfaces = {{"loop": "lo", "loop2": " lo ,", "net": "net0", "all": "", "later": "lo,later0"}}
made = {{name: Gateway(Path(sys.argv[1]) / name, LABYARD_MDNS_INTERFACES=value) for name, value in interfaces.items()}}
names = {{gateway.port: name for name, gateway in made.items()}}

def show():
    for gateway in made.values():
        gateway.http.post("/loadsharing/discover")
    wait_until(lambda: sum(peer["online"] for gateway in made.values() for peer in gateway.peers) >= 14, "all are seen")
    time.sleep(3)  # what the contract gives those who must not be seen
    seen = {{}}
    for name, gateway in made.items():
        # Also who is offline at this moment: who was ever seen stays listed.
        seen[name] = sorted((names[int(peer["host"].split(":")[1])], peer["ip"]) for peer in gateway.peers)
    print(json.dumps(seen))

try:
    for gateway in made.values():
        gateway.ready()
        wait_until(lambda: "announced" in gateway.log(), "announced")
    show()
    later = made["later"]
    subprocess.run({link("later0", "10.9.8.1/24")!r}, shell=True, check=True)
    wait_until(lambda: any(peer["ip"] == "10.9.8.1" for peer in made["loop"].peers), "the new interface is announced")
    print(json.dumps("mDNS will use an interface when it is there" in later.log()))
finally:
    for gateway in made.values():
        gateway.stop()
"""


def test_only_the_named_interfaces_are_used_and_one_that_comes_later(tmp_path: Path) -> None:
    seen, warned = (json.loads(line) for line in run_alone(INSIDE, str(tmp_path), before=link("net0", "10.9.9.1/24")))
    loop, loop2, later = (["loop", "127.0.0.1"], ["loop2", "127.0.0.1"], ["later", "127.0.0.1"])
    net, everywhere = ["net", "10.9.9.1"], ["all", "10.9.9.1"]
    assert seen == {
        "loop": [everywhere, later, loop2],
        "loop2": [everywhere, later, loop],
        "later": [everywhere, loop, loop2],
        "net": [everywhere],
        "all": [later, loop, loop2, net],
    }
    assert warned
