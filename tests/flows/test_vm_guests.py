"""Machines of the VM manager with the lab's guest. Ten boot at once, each with a task of its own; the tests read what
the guests, the service and libvirt said of it."""

from __future__ import annotations

import io
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from guests import PIECE_BYTES, console, wait_for_line, wait_until_off
from PIL import Image

from labyard.client.where import LabService
from labyard.lab import LabHost
from labyard.testing import Console
from labyard.testing.waiting import wait_until
from labyard.vms.answers import Disk, Lease, Metadata, Vm
from labyard.vms.client import Client

# One fixture boots them all.
pytestmark = pytest.mark.timeout(600)
MEMORY_MIB = 128
TAIL_BYTES = 50 * 1024

KEYS = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5tYk2uVtUbLtHFTP3yq5xqGmQ1wU0mSXbEwbG7V1Xk one@lab",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5tYk2uVtUbLtHFTP3yq5xqGmQ1wU0mSXbEwbG7V1Xl two@lab",
]
VERSIONS = ("latest", "2009-04-04")
OTHER_MAC = "52:54:00:ff:ff:ff"

# Asks for every path of section 8 of the contract, and prints "STATUS PATH" and the body behind bars.
ASK = f"""#!/bin/sh
server=http://169.254.169.254
mac=$(cat /sys/class/net/eth0/address)
ask() {{
    rm -f /tmp/body
    if wget -q -O /tmp/body "$server/$1" 2>/tmp/error; then
        echo "200 $1"
        sed 's/^/| /' /tmp/body
        echo
    else
        echo "$(sed -n 's|.*HTTP/1.. ||p' /tmp/error | cut -c 1-3) $1"
    fi
}}
ask ""
ask nothing
for version in {" ".join(VERSIONS)}; do
    for name in "" / /instance-id /local-ipv4 /public-ipv4 /hostname /network/ /network/interfaces/ \\
        /network/interfaces/macs/ "/network/interfaces/macs/$mac/local-ipv4" "/network/interfaces/macs/$mac/mac" \\
        /network/interfaces/macs/{OTHER_MAC}/mac /public-keys /public-keys/ /public-keys/0/openssh-key /nothing; do
        ask "$version/meta-data$name"
    done
    ask "$version/user-data"
done
printf 'PUT /latest/api/token HTTP/1.0\\r\\n\\r\\n' | nc 169.254.169.254 80 | sed -n '1s/^/PUT /p; $s/^/token=/p'
"""
SPOKEN = range(100_001, 130_001)
TALK = f"#!/bin/sh\nseq {SPOKEN[0]} {SPOKEN[-1]}\n"
END = "#!/bin/sh\npoweroff\n"
# Black on black, and no cursor.
BLANK = "#!/bin/sh\nprintf '\\033[30;40m\\033[2J\\033[?25l' >/dev/tty0\n"


def use_disk(disk_id: str) -> str:
    """A script that waits for a disk, writes on it, reads it back past the cache, and waits until it is gone."""
    return f"""#!/bin/sh
until page=$(grep -ls {disk_id} /sys/block/sd*/device/vpd_pg80); do sleep 0.1; done
name=$(echo "$page" | cut -d / -f 4)
yes {disk_id} | dd of=/dev/$name bs=4096 count=16 iflag=fullblock conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
echo "LABYARD hot.disk=$name hot.bytes=$(($(cat /sys/block/$name/size) * 512)) hot.read=$(head -c 36 /dev/$name)"
while [ -e /sys/block/$name ]; do sleep 0.1; done
echo "LABYARD hot.gone=$name"
"""


class Manager:
    """The VM manager, by its client and by its command, and guests' consoles."""

    def __init__(self, service: LabService) -> None:
        self.host: LabHost = service.host
        self.api = Client(service.url, service.value("api_token"))
        self._inventory = str(service.inventory)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "labyard.cli", "vms", "--inventory", self._inventory, *words]

    def run(self, *words: str) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def qemu_log(self, name: str) -> str:
        """What libvirt wrote down of its QEMU process."""
        return self.host.check("cat %s", f"/var/log/libvirt/qemu/{self.host.value('vms_domain_prefix')}{name}.log")


@dataclass
class Fleet:
    """Ten machines after their boot. Tasks by name: told, talker, ender, disker, blank; others have none."""

    names: dict[str, str]
    logs: dict[str, str]
    vms: dict[str, Vm]
    leases: list[Lease]
    followed: str
    metadata: Metadata
    disk: Disk

    def console(self, task: str) -> Console:
        return Console(self.logs[task])


@pytest.fixture(scope="module")
def manager(lab: Any) -> Manager:
    return Manager(LabService(lab.inventory.path, "vms"))


@pytest.fixture(scope="module")
def fleet(manager: Manager, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    api, token = manager.api, secrets.token_hex(3)
    for left in api.vms():  # by a run that was killed
        if left["id"].startswith("flow-"):
            api.delete_vm(left["id"])
    tasks = ["told", "talker", "ender", "disker", "blank", *(f"plain{number}" for number in range(5))]
    names = {task: f"flow-{token}-{task}" for task in tasks}
    disks: list[Disk] = []
    follower: subprocess.Popen[str] | None = None
    api.create_template(token, 1, MEMORY_MIB)
    try:
        disks.append(api.create_disk(1))
        make(manager, names, token, disks[0]["id"], tmp_path_factory.mktemp("vms"))
        command = manager.command("console", names["plain0"], "--follow")
        follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with ThreadPoolExecutor(len(tasks)) as pool:
            list(pool.map(api.start, names.values()))
            # The disker goes on when it is given its disk, the ender is gone when it is done.
            last = {"disker": "LABYARD done=", "ender": "LABYARD done="} | dict.fromkeys(
                ("told", "talker", "blank"), "LABYARD user_data="
            )
            logs = list(
                pool.map(lambda task: wait_for_line(manager.api, names[task], last.get(task, "labyard# ")), tasks)
            )
        assert follower.stdout
        followed = "".join(iter(follower.stdout.readline, "LABYARD done=ok\n"))
        vms = {task: api.vm(name) for task, name in names.items()}
        told = api.metadata(names["told"])
        yield Fleet(names, dict(zip(tasks, logs, strict=True)), vms, api.leases(), followed, told, disks[0])
    finally:
        if follower:
            follower.send_signal(signal.SIGINT)
            assert follower.wait(30) == 130
        clear(api, list(names.values()), [disk["id"] for disk in disks], token)


def make(manager: Manager, names: dict[str, str], template: str, disk_id: str, folder: Path) -> None:
    """One by the command, one by the module, the others by the API."""
    script = folder / "ask.sh"
    script.write_text(ASK)
    keys = [word for key in KEYS for word in ("--ssh-key", key)]
    manager.run("create", names["told"], template, "--hostname", "told.lab", "--user-data", str(script), *keys)

    task = {"name": names["disker"], "template": template, "user_data": use_disk(disk_id)}
    where = {"url": manager.api.url, "token": manager.host.value("vms_api_token")}
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [{"labyard.lab.vm": where | task}]}
    playbook = folder / "disker.yml"
    playbook.touch(mode=0o600)
    playbook.write_text(json.dumps([play]))
    command = ["ansible-playbook", "-i", "localhost,", "-c", "local", str(playbook)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout + done.stderr

    user_data = {"talker": TALK, "ender": END, "blank": BLANK}
    for task_name in set(names) - {"told", "disker"}:
        manager.api.create_vm(names[task_name], template)
        if task_name in user_data:
            manager.api.set_metadata(names[task_name], user_data=user_data[task_name])


def clear(api: Client, vms: list[str], disks: list[str], template: str) -> None:
    def delete(name: str) -> None:
        if name in made:
            api.delete_vm(name)

    made = {vm["id"] for vm in api.vms()}

    with ThreadPoolExecutor(len(vms)) as pool:
        list(pool.map(delete, vms))
    for disk in disks:
        api.delete_disk(disk)
    api.delete_template(template)


class TestBoot:
    def test_ten_machines_of_128_mib_reached_userland_at_once(self, fleet: Fleet) -> None:
        assert len(fleet.logs) == 10
        for task in fleet.logs:
            reports = fleet.console(task).reports
            assert (reports["userland"], reports["root"], reports["done"]) == ("up", "ram", "ok"), fleet.logs[task]

    def test_each_got_by_dhcp_the_address_that_the_service_tells(self, fleet: Fleet) -> None:
        seen = {lease["vm_id"]: lease["ip"] for lease in fleet.leases if lease["seen"]}
        for task in set(fleet.names) - {"ender"}:
            reports, vm = fleet.console(task).reports, fleet.vms[task]
            assert reports["from"] == "dhcp"
            assert reports["address"] == vm["local_ip"] == seen[fleet.names[task]]
            assert reports["mac"] == vm["mac"]

    def test_none_wrote_on_its_disk(self, fleet: Fleet) -> None:
        assert {fleet.console(task).reports["disk"] for task in fleet.names} == {"none"}

    def test_the_command_followed_the_console(self, fleet: Fleet) -> None:
        said = [line for line in Console(fleet.logs["plain0"]).plain.splitlines() if line.startswith("LABYARD ")]
        assert fleet.followed.splitlines()[-len(said) + 1 :] == said[:-1]


class TestMetadata:
    def test_seed_has_what_was_stored(self, fleet: Fleet) -> None:
        reports = fleet.console("told").reports
        assert (reports["seed"], reports["hostname"]) == (fleet.names["told"], "told.lab")
        for key in KEYS:
            assert f"\nLABYARD ssh_key={key}\n" in fleet.console("told").plain
        assert (reports["user_data"], reports["exit"]) == ("ok", "0")

    def test_a_machine_that_was_told_nothing_has_its_name(self, fleet: Fleet) -> None:
        assert fleet.console("plain0").reports["hostname"] == fleet.names["plain0"]
        assert "ssh_key" not in fleet.console("plain0").reports

    def test_server_told_the_guest_the_same(self, fleet: Fleet) -> None:
        asked = answers(fleet.console("told").plain)
        vm, told = fleet.vms["told"], fleet.metadata
        address, mac = vm["local_ip"], vm["mac"]
        values = {
            "": "instance-id\nlocal-ipv4\npublic-ipv4\nhostname\nnetwork/\npublic-keys/",
            "instance-id": vm["id"],
            "local-ipv4": address,
            "public-ipv4": address,
            "hostname": told["hostname"],
            "network/": "interfaces/",
            "network/interfaces/": "macs/",
            "network/interfaces/macs/": f"{mac}/",
            f"network/interfaces/macs/{mac}/local-ipv4": address,
            f"network/interfaces/macs/{mac}/mac": mac,
            f"network/interfaces/macs/{OTHER_MAC}/mac": None,
            "public-keys": "0=default",
            "public-keys/": "0=default",
            "public-keys/0/openssh-key": told["ssh_keys"],
            "nothing": None,
        }
        wanted: dict[str, str | None] = {"": "\n".join(VERSIONS[::-1]), "nothing": None}
        for version in VERSIONS:
            wanted |= {f"{version}/meta-data/{name}": value for name, value in values.items()}
            wanted |= {f"{version}/meta-data": values[""], f"{version}/user-data": ASK.removesuffix("\n")}
        assert {path: body for path, (_, body) in asked.items()} == wanted
        assert {status for status, body in asked.values() if body is None} == {"404"}

    def test_server_gives_a_token(self, fleet: Fleet) -> None:
        plain = fleet.console("told").plain
        assert "PUT HTTP/1.0 200 OK" in plain and len(plain.partition("\ntoken=")[2].split()[0]) > 20

    def test_first_question_of_each_was_answered(self, fleet: Fleet) -> None:
        for task in fleet.names:
            reports = fleet.console(task).reports
            said = (reports["metadata"], reports.get("instance-id"))
            assert said == ("ok", fleet.names[task]), fleet.logs[task]


def answers(plain: str) -> dict[str, tuple[str, str | None]]:
    """Status and body, None for a refusal, by path."""
    found: dict[str, tuple[str, str | None]] = {}
    for block in plain.partition("LABYARD done=ok\n")[2].partition("\nPUT ")[0].splitlines():
        if block.startswith(("200 ", "404 ")):
            status, _, path = block.partition(" ")
            found[path] = (status, None)
        elif block.startswith("| "):
            status, body = found[path]
            found[path] = (status, f"{body}\n{block[2:]}" if body is not None else block[2:])
    return found


@pytest.fixture(scope="module")
def talk(manager: Manager, fleet: Fleet) -> str:
    """The talker's console, over two boots."""
    manager.api.restart(fleet.names["talker"])
    wait_for_line(manager.api, fleet.names["talker"], "LABYARD user_data=", 2)
    return wait_for_line(manager.api, fleet.names["talker"], "labyard# ", 2)


class TestConsole:
    def test_two_boots_are_kept(self, talk: str) -> None:
        assert talk.count("LABYARD userland=up") == 2

    def test_all_that_was_said_is_there(self, talk: str) -> None:
        said = "".join(f"{number}\r\n" for number in SPOKEN)
        assert len(said) > 200 * 1024 and talk.count(said) == 2
        assert "\0" not in talk

    def test_without_a_range_it_is_the_last_50_kib(self, manager: Manager, fleet: Fleet, talk: str) -> None:
        name = fleet.names["talker"]
        shown = manager.api.console(name)
        # The prompt may have been but half said before, and a kernel may say something at any time.
        size = shown["file_size"]
        assert shown["console"].encode() == console(manager.api, name).encode()[:size][-TAIL_BYTES:]
        assert len(talk.encode()) <= size == shown["next_offset"]

        def nothing_comes_after_all() -> bool:
            end = len(console(manager.api, name).encode())
            after = manager.api.console(name, end, PIECE_BYTES)
            return (after["console"], after["next_offset"]) == ("", end)

        wait_until(nothing_comes_after_all, "all that was said is read, and nothing after it")


class TestEnd:
    def test_a_guest_that_powers_itself_off_is_stopped_and_free(self, manager: Manager, fleet: Fleet) -> None:
        name = fleet.names["ender"]
        vm = wait_until_off(manager.api, name)
        assert (vm["state"], vm["state_reason"], vm["local_ip"]) == ("stopped", None, None)
        assert name not in {lease["vm_id"] for lease in manager.api.leases()}
        assert vm["mac"] not in manager.host.check(f"virsh net-dumpxml {manager.host.value('vms_network_name')}")
        assert "shutting down, reason=shutdown" in manager.qemu_log(name)
        assert [issue for issue in manager.api.check()["issues"] if issue["resource_id"] == name] == []

    def test_a_stop_is_obeyed_and_needs_no_force(self, manager: Manager, fleet: Fleet) -> None:
        name = fleet.names["plain1"]
        began = time.monotonic()
        manager.api.stop(name)
        assert time.monotonic() - began < manager.host.value("vms_stop_timeout")
        vm = manager.api.vm(name)
        assert (vm["state"], vm["local_ip"]) == ("stopped", None)
        # Of a machine that was switched off it says `destroyed`.
        assert "shutting down, reason=shutdown" in manager.qemu_log(name).splitlines()[-1]


class TestDisk:
    def test_a_disk_is_plugged_in_used_and_unplugged(self, manager: Manager, fleet: Fleet) -> None:
        name, disk_id = fleet.names["disker"], fleet.disk["id"]
        manager.api.attach(disk_id, name)
        reports = Console(wait_for_line(manager.api, name, "hot.read=")).reports
        disk = manager.api.disk(disk_id)
        assert (disk["state"], disk["vm_id"], disk["target"]) == ("attached", name, reports["hot.disk"])
        assert int(reports["hot.bytes"]) == fleet.disk["size"] * 2**30
        assert reports["hot.read"] == disk_id
        manager.api.detach(disk_id)
        assert (
            Console(wait_for_line(manager.api, name, "LABYARD user_data=")).reports["hot.gone"] == reports["hot.disk"]
        )
        assert (manager.api.disk(disk_id)["state"], manager.api.disk(disk_id)["vm_id"]) == ("available", None)


class TestScreenshot:
    def test_it_shows_what_the_guest_wrote(self, manager: Manager, fleet: Fleet) -> None:
        assert 0.005 < bright(manager.api.screenshot(fleet.names["plain2"])) < 0.5

    def test_a_blank_screen_is_blank(self, manager: Manager, fleet: Fleet) -> None:
        assert bright(manager.api.screenshot(fleet.names["blank"])) == 0

    def test_the_command_writes_it(self, manager: Manager, fleet: Fleet, tmp_path: Path) -> None:
        file = tmp_path / "screen.png"
        manager.run("screenshot", fleet.names["plain2"], "-o", str(file))
        assert 0.005 < bright(file.read_bytes()) < 0.5


def bright(png: bytes) -> float:
    """The share of the pixels that are."""
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        histogram = picture.convert("L").histogram()
    return sum(histogram[128:]) / sum(histogram)


def test_observer_finds_nothing(manager: Manager, fleet: Fleet) -> None:
    ours = {*fleet.names.values(), fleet.disk["id"]}
    assert [issue for issue in manager.api.check()["issues"] if issue["resource_id"] in ours] == []
