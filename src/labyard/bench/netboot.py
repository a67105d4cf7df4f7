"""The netboot service under load, with real daemons behind it. Requests come from the probe host, on the segment."""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.bench.figure import p95
from labyard.testing.netboot import NetbootApi
from labyard.testing.probes import DhcpProbe

BURST = 100
MACHINES = 1000
IMAGES = 100
SUSTAIN_SECONDS = 60
RATE = 25  # offered requests per second; the target is what gets through without an error
SINGLES = 20
KILL_STARTS = 50
PREFIX = "bench-"
UNIT = "labyard-netboot.service"


class Stand:
    """Machines and an image of the bench's own on record."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.boot = bench.host("netboot")
        self.probe = bench.host("probes")
        self.api = NetbootApi(bench.lab)
        self.image = self.api.image_id(str(self.boot.value("boot_image_path")), "labyard-boot")
        self.url = f"http://{self.boot.address}:{self.boot.value('netboot_http_port')}"

    def machines(self, count: int) -> list[int]:
        """Ids of `count` machines without an address of their own; made when they are missing."""
        known = self._listed()
        for number in range(count):
            name = f"{PREFIX}{number:04}"
            if name not in known:
                body = {"name": name, "mac_address": f"02be{number:08x}"}
                known[name] = int(self.api.must("POST", "/machines", json=body)["id"])
        return [known[f"{PREFIX}{number:04}"] for number in range(count)]

    def _listed(self) -> dict[str, int]:
        """The bench's machines on record: id by name."""
        listed: dict[str, int] = {}
        while page := self.api.must("GET", "/machines", params={"search": PREFIX, "skip": len(listed), "limit": 1000}):
            listed |= {str(row["name"]): int(row["id"]) for row in page}
        return listed

    def load(self, **what: Any) -> dict[str, Any]:
        """Run the load script on the probe host. MeasureError when a request failed."""
        script = Path(__file__).with_name("netboot_load.py").read_text()
        password = str(self.boot.value("netboot_admin_password"))
        command = "timeout 300 python3 -c %s %s %s %s"
        answer: dict[str, Any] = json.loads(self.probe.check(command, script, self.url, password, json.dumps(what)))
        if answer["errors"]:
            raise MeasureError(f"{answer['errors']} requests failed")
        return answer

    def clear(self) -> None:
        """Stop what the bench started and take its machines off the record."""
        for number in self._listed().values():
            with contextlib.suppress(httpx.HTTPError):
                active = self.api.http.get(f"/api/v1/sessions/machine/{number}/active")
                if active.status_code == 200:
                    self.api.http.post(f"/api/v1/sessions/{active.json()['id']}/stop")
                self.api.http.delete(f"/machines/{number}")


@contextmanager
def _stand(bench: Bench) -> Iterator[Stand]:
    stand = Stand(bench)
    try:
        yield stand
    finally:
        stand.clear()


@cache
def _bursts(bench: Bench) -> dict[str, Any]:
    with _stand(bench) as stand:
        answer = stand.load(do="burst", machines=stand.machines(BURST), image=stand.image)
    bench.say(
        f"{BURST} at once: start median {statistics.median(answer['start_ms']):.0f} ms, "
        f"stop median {statistics.median(answer['stop_ms']):.0f} ms"
    )
    return answer


def start_p95(bench: Bench) -> float:
    """95th percentile, in ms, of 100 starts at once."""
    return p95(_bursts(bench)["start_ms"])


def stop_p95(bench: Bench) -> float:
    """95th percentile, in ms, of 100 stops at once."""
    return p95(_bursts(bench)["stop_ms"])


@cache
def _singles(bench: Bench) -> dict[str, Any]:
    with _stand(bench) as stand:
        return stand.load(do="single", machines=stand.machines(SINGLES), image=stand.image)


def start_single(bench: Bench) -> float:
    """Median, in ms, of a start with nothing else going on."""
    return float(statistics.median(_singles(bench)["start_ms"]))


def script(bench: Bench) -> float:
    """Median, in ms, of the route that makes a boot script."""
    return float(statistics.median(_singles(bench)["script_ms"]))


def dhcp_visible(bench: Bench) -> float:
    """From the answer to a start until a real DHCP client gets the reservation, in ms."""
    with _stand(bench) as stand:
        client = DhcpProbe(stand.probe, str(stand.probe.value("lab_interface")))
        taken = []
        for number in stand.machines(3):
            mac = str(stand.api.must("GET", f"/machines/{number}")["mac_address"])
            wanted = f"machines/{mac.lower().replace(':', '-')}.ipxe"
            with stand.api.session(number, stand.image):
                began = time.perf_counter()
                while client.exchange(mac, arch=0, user_class="iPXE").boot_file != wanted:
                    if time.perf_counter() - began > 10:
                        raise MeasureError("the reservation was not answered within 10 s")
                taken.append((time.perf_counter() - began) * 1000)
        return statistics.median(taken)


@cache
def _sustained(bench: Bench) -> dict[str, Any]:
    """60 s of starts and stops beside 100 standing sessions, with 1000 machines and 100 images on record."""
    with _stand(bench) as stand:
        machines = stand.machines(MACHINES)
        _images(stand)
        for number in machines[:BURST]:
            body = {"machine_id": number, "image_id": stand.image}
            stand.api.must("POST", "/api/v1/sessions/start", json=body)
        process = stand.boot.check("systemctl show --property MainPID --value %s", UNIT).strip()
        before = _cpu(stand, process)
        answer = stand.load(
            do="sustain", machines=machines[BURST:], image=stand.image, seconds=SUSTAIN_SECONDS, rate=RATE
        )
        used = _cpu(stand, process) - before
        status = stand.boot.check("cat /proc/%s/status", process)
        rss = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
        answer |= {"cpu_pct": used / answer["seconds"] * 100, "rss_mb": rss / 1024}
        bench.say(f"start p95 {p95(answer['start_ms']):.0f} ms, stop p95 {p95(answer['stop_ms']):.0f} ms meanwhile")
        return answer


def _cpu(stand: Stand, process: str) -> float:
    """Seconds of processor time that the service has used."""
    fields = stand.boot.check("cat /proc/%s/stat", process).rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _images(stand: Stand) -> None:
    """100 images on record: links of small files in the folder of images."""
    folder = str(stand.boot.value("netboot_images_dir"))
    known = {image["name"] for image in stand.api.must("GET", "/images", params={"limit": 1000})}
    for number in range(IMAGES):
        name = f"{PREFIX}{number:03}"
        if name not in known:
            path = f"{folder}/{name}.raw"
            stand.boot.check("truncate --size 1M %s", path)
            stand.api.image_id(path, name)


def rps(bench: Bench) -> float:
    """Requests per second that got through in 60 s, all of them answered with success."""
    answer = _sustained(bench)
    return float(answer["requests"] / answer["seconds"])


def rss(bench: Bench) -> float:
    """Memory of the service in that state, in MB."""
    return float(_sustained(bench)["rss_mb"])


def cpu(bench: Bench) -> float:
    """Processor time of the service in that state, in percent of one core."""
    return float(_sustained(bench)["cpu_pct"])


def orphans_after_kill(bench: Bench) -> float:
    """Findings left after `kill -9` at random moments of 50 starts, restart and one repair."""
    dice = random.Random(4)
    with _stand(bench) as stand:
        machines = stand.machines(KILL_STARTS)
        for number in machines:
            with contextlib.suppress(httpx.HTTPError):
                delay = dice.uniform(0, 0.15)
                kill = f"sh -c 'sleep {delay:.3f}; systemctl kill --signal KILL {UNIT}' >/dev/null 2>&1 &"
                stand.boot.check(kill)
                stand.api.http.post("/api/v1/sessions/start", json={"machine_id": number, "image_id": stand.image})
            stand.api.wait_until_ready()
        stand.api.findings(repair=True)
        return float(len(stand.api.findings()))


MEASURES: dict[str, Measure] = {
    "netboot.start_p95_ms": start_p95,
    "netboot.stop_p95_ms": stop_p95,
    "netboot.start_single_ms": start_single,
    "netboot.script_ms": script,
    "netboot.dhcp_visible_ms": dhcp_visible,
    "netboot.rps": rps,
    "netboot.rss_mb": rss,
    "netboot.cpu_pct": cpu,
    "netboot.orphans_after_kill": orphans_after_kill,
}
