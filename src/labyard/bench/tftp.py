"""TFTP throughput in MB/s (10^6 bytes): a file fetched by curl on the probe host, over the lab segment."""

from __future__ import annotations

import statistics

from labyard.bench.bench import Bench, Measure, MeasureError

FILE = "labyard-bench.bin"
SIZE = 16 << 20  # bytes
BLOCK = 65464  # bytes; the largest that RFC 2348 allows
RUNS = 3


def mb_per_s(bench: Bench) -> float:
    """Median of several fetches, in MB/s."""
    server, probe = bench.host("netboot"), bench.host("probes")
    path = f"{server.value('tftp_root')}/{FILE}"
    url = f"tftp://{server.address}:{server.value('tftp_port')}/{FILE}"
    fetch = (
        f"curl --silent --show-error --max-time 60 --tftp-blksize {BLOCK} --output /dev/null"
        " --write-out '%%{size_download} %%{time_total}' %s"
    )
    speeds = []
    try:
        server.check("timeout 60 head -c %s /dev/urandom > %s && chmod 644 %s", str(SIZE), path, path)
        for _ in range(RUNS):
            size, seconds = probe.check(fetch, url).split()
            if int(size) != SIZE:
                raise MeasureError(f"curl fetched {size} of {SIZE} bytes")
            speeds.append(SIZE / float(seconds) / 1e6)
    finally:
        server.check("rm -f %s", path)
    bench.say("16 MB by TFTP: " + ", ".join(f"{speed:.0f}" for speed in speeds) + " MB/s")
    return statistics.median(speeds)


MEASURES: dict[str, Measure] = {"tftp.mb_per_s": mb_per_s}
