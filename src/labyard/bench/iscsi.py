"""Sequential reading through the iSCSI target, compared with reading the same file where it lies.

Both are done by `qemu-img bench` with the same requests and without a cache on the reader's side, after the file
has been dropped from the target host's page cache. The disk is a temporary target of the bench's own that only the
probe host may use; it is removed again, also after a failure.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.lab import LabHost

SIZE_MB = 256  # MiB
REQUEST_MB = 4  # MiB
IN_FLIGHT = 2  # a reader that wants throughput asks for the next piece before it has this one
PAIRS = 3
_TGTADM = "timeout 20 tgtadm --lld iscsi --mode"
_TIME = re.compile(r"Run completed in ([0-9.]+) seconds")


def next_tid(listing: str) -> int:
    """A target number that tgt does not use yet."""
    return max((int(found) for found in re.findall(r"^Target (\d+):", listing, re.MULTILINE)), default=0) + 1


def _remove(server: LabHost, iqn: str, file: str) -> None:
    """Remove the target and its file; also those that a killed run left."""
    listing = server.check(f"{_TGTADM} target --op show")
    for tid in re.findall(rf"^Target (\d+): {re.escape(iqn)}$", listing, re.MULTILINE):
        # Forced: a reader that was killed may still be logged in.
        server.check(f"{_TGTADM} target --op delete --force --tid {tid}")
    server.check("rm -f %s", file)


@contextmanager
def _target(server: LabHost, probe: LabHost, iqn: str, file: str) -> Iterator[None]:
    """A file of random bytes, served as LUN 1 to the probe host alone."""
    _remove(server, iqn, file)
    try:
        server.check("timeout 60 head -c %s /dev/urandom > %s && timeout 60 sync %s", str(SIZE_MB << 20), file, file)
        tid = next_tid(server.check(f"{_TGTADM} target --op show"))
        server.check(f"{_TGTADM} target --op new --tid {tid} --targetname {iqn}")
        server.check(f"{_TGTADM} logicalunit --op new --tid {tid} --lun 1 --backing-store %s", file)
        server.check(f"{_TGTADM} target --op bind --tid {tid} --initiator-address {probe.address}")
        yield
    finally:
        _remove(server, iqn, file)


def _read(host: LabHost, image: str) -> float:
    """Read an image from its beginning to its end; MiB/s."""
    count = SIZE_MB // REQUEST_MB
    said = host.check(f"timeout 60 qemu-img bench -f raw -t none -c {count} -d {IN_FLIGHT} -s {REQUEST_MB}M %s", image)
    seconds = _TIME.search(said)
    if seconds is None:
        raise MeasureError(f"qemu-img bench printed no time but: {said.strip()}")
    return SIZE_MB / float(seconds[1])


def read_ratio(bench: Bench) -> float:
    """MiB/s through the target divided by MiB/s of the file itself; the median of several pairs."""
    server, probe = bench.host("netboot"), bench.host("probes")
    if server.run("timeout 20 tgtadm --version").rc != 0:
        raise MeasureError(f"{server.name} has no tgtadm; this figure is measured with the tgt backend only")
    iqn = f"{server.value('lab_iqn_prefix')}:bench"
    file = str(PurePosixPath(str(server.value("iscsi_target_image"))).with_name("labyard-bench.raw"))
    url = f"iscsi://{server.address}:{server.value('iscsi_target_portal_port')}/{iqn}/1"
    # POSIX_FADV_DONTNEED for the whole file: only this file leaves the cache, not the whole machine's.
    forget = "timeout 60 dd of=%s oflag=nocache conv=notrunc,fdatasync count=0 status=none"
    ratios = []
    with _target(server, probe, iqn, file):
        for _ in range(PAIRS):
            server.check(forget, file)
            through = _read(probe, url)
            server.check(forget, file)
            direct = _read(server, file)
            bench.say(f"read through the target {through:.0f} MiB/s, directly {direct:.0f} MiB/s")
            ratios.append(through / direct)
    return statistics.median(ratios)


MEASURES: dict[str, Measure] = {"iscsi.read_ratio": read_ratio}
