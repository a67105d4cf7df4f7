"""Builds that are interrupted, a lab that is taken away: run again and it completes, and nothing is left behind. On a
second small lab beside the one that is up."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from second_lab import ROOT, Inventory

from labyard.testing.waiting import wait_until

Snapshot = Callable[[], dict[str, set[str]]]
FORMER = "ly-former"


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def kill(build: subprocess.Popen[str], inventory: Inventory) -> None:
    """All of it: Ansible's workers, each in a session of its own, would do their task beside the next run."""
    os.killpg(build.pid, signal.SIGKILL)
    build.wait()
    workers = subprocess.run(["pgrep", "--full", str(inventory.hosts)], stdout=subprocess.PIPE, text=True).stdout
    for worker in workers.split():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(worker), signal.SIGKILL)


# Points of a run that leave different halves behind: before the networks, with networks and no host, with hosts.
@pytest.mark.parametrize(
    "marker", ["TASK [lab_network : Make the networks]", "TASK [lab_host : Run the container]", "TASK [probe : Install"]
)
def test_an_interrupted_build_is_completed_by_the_next(second_lab: Inventory, marker: str) -> None:
    build = subprocess.Popen(
        second_lab.command("site.yml"), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert build.stdout is not None
    for line in build.stdout:
        if line.startswith(marker):
            break
    else:
        pytest.fail(f"the build never came to {marker}")
    kill(build, second_lab)
    done = second_lab.run("site.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    again = second_lab.run("site.yml")
    assert again.returncode == 0 and not re.search(r"changed=[1-9]", again.stdout), again.stdout[-3000:]


def test_a_former_interface_takes_no_address(second_lab: Inventory) -> None:
    """What a crash can leave on the segment for a while: another interface with the host's MAC address."""
    assert second_lab.run("playbooks/provision.yml").returncode == 0
    name = "labyard-second-probe1"
    mac = json.loads(run("docker", "exec", name, "ip", "-json", "link", "show", "eth1"))[0]["address"]
    run("docker", "stop", name)
    run("ip", "netns", "add", FORMER)
    try:
        run("ip", "link", "add", FORMER, "type", "veth", "peer", "name", "eth1", "address", mac, "netns", FORMER)
        run("ip", "link", "set", FORMER, "master", "ly-78-segment", "up")
        run("ip", "-netns", FORMER, "link", "set", "eth1", "up")
        show = ("ip", "-netns", FORMER, "-6", "-oneline", "address", "show", "dev", "eth1", "scope", "link")
        wait_until(lambda: (shown := run(*show)) and "tentative" not in shown, "the former interface has an address")
        done = second_lab.run("playbooks/provision.yml")
        assert done.returncode == 0, done.stdout[-3000:]
        mended = re.search(r"^TASK \[lab_host : Give the host the link-local[^\n]*\n+(.*)", done.stdout, re.MULTILINE)
        assert mended and mended[1].startswith("changed: [probe1"), mended and mended[1]
        addresses = run("docker", "exec", name, "ip", "-6", "address", "show", "dev", "eth1", "scope", "link")
        assert "fe80::" in addresses and "tentative" not in addresses
    finally:
        run("ip", "netns", "delete", FORMER)


def test_destroy_leaves_nothing_behind_and_touches_nothing_else(
    lab: Any, second_lab: Inventory, take_snapshot: Snapshot
) -> None:
    before = take_snapshot()
    assert second_lab.run("site.yml").returncode == 0
    assert take_snapshot() != before
    done = second_lab.run("playbooks/destroy.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    # The kernel forgets a bridge's last traces a moment after the engine removed it.
    wait_until(lambda: take_snapshot() == before, lambda: f"all is as it was: {take_snapshot()}, before {before}")
    again = second_lab.run("playbooks/destroy.yml")
    assert again.returncode == 0 and not re.search(r"changed=[1-9]", again.stdout), again.stdout[-3000:]
    for host in lab.hosts():
        assert host.run("true").rc == 0, f"{host.name} of the other lab is gone"
