"""Makes a recorded boot small enough to keep, and takes what is secret out of it.

    python thin.py FOLDER NAME      FOLDER has nic.pcap and serial.trace (from vm_machine_capture_folder)

Of the disk's packets it keeps each connection's first ones, those around a silence, and a few each second; lengths and
sequence numbers stay, so the bytes still add up. Texts of iSCSI logins and contents of TFTP files are blanked, as CHAP
answers and the machine's secret stand in them.
"""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

VNET, ETHERNET = 12, 14
FIRST, LAST = 40, 3  # packets of a connection, of all
SPACING = 0.03  # seconds


def thin(data: bytes) -> bytes:
    records, place = [], 24
    while place + 16 <= len(data):
        seconds, micros, kept, length = struct.unpack_from("<IIII", data, place)
        records.append(
            (seconds + micros / 1e6, bytearray(data[place + 16 : place + 16 + kept]), length, seconds, micros)
        )
        place += 16 + kept
    disk = [number for number, record in enumerate(records) if is_disk(record[1])]
    wanted = set(range(len(records))) - set(disk) | set(disk[-LAST:])
    seen: dict[bytes, int] = {}
    kept_at = 0.0
    for number, after in zip(disk, [*disk[1:], disk[-1]], strict=True):
        key = ports(records[number][1])
        seen[key] = seen.get(key, 0) + 1
        at, before_silence = records[number][0], records[after][0] - records[number][0] > SPACING
        if not has_data(records[number][1]):
            if seen[key] <= FIRST:
                wanted.add(number)
        elif seen[key] <= FIRST or at - kept_at > SPACING or before_silence:
            wanted.add(number)
            kept_at = at
    out = bytearray(data[:24])
    for number in sorted(wanted):
        _, frame, length, seconds, micros = records[number]
        frame = blank(frame)
        out += struct.pack("<IIII", seconds, micros, len(frame), length) + frame
    return bytes(out)


def header(frame: bytes) -> tuple[int, int]:
    """(protocol, start of its header) of an IPv4 frame, else (0, 0)."""
    start = VNET + ETHERNET
    if frame[start - 2 : start] != b"\x08\x00":
        return 0, 0
    return frame[start + 9], start + (frame[start] & 15) * 4


def ports(frame: bytes) -> bytes:
    start = header(frame)[1]
    return bytes(sorted((frame[start : start + 2], frame[start + 2 : start + 4]))[1])


def is_disk(frame: bytes) -> bool:
    protocol, start = header(frame)
    return protocol == 6 and 3260 in struct.unpack_from("!HH", frame, start)


def has_data(frame: bytes) -> bool:
    start = header(frame)[1]
    ethernet = VNET + ETHERNET
    return int.from_bytes(frame[ethernet + 2 : ethernet + 4]) > start - ethernet + (frame[start + 12] >> 4) * 4


def blank(frame: bytearray) -> bytearray:
    protocol, start = header(frame)
    if is_disk(frame):
        body = start + (frame[start + 12] >> 4) * 4
        head = bytes(frame[body : body + 4])
        # A login's header has version 0; a text that begins with "CHAP" has the same first byte.
        is_login = head[:1] and head[0] & 0x3F in (0x03, 0x23) and head[2:] == b"\0\0"
        return frame[: body + 48] if is_login else frame[:body] + bytes(min(48, len(frame) - body))
    if (
        protocol == 17
        and frame[start + 8 : start + 10] == b"\0\3"
        and 53 not in struct.unpack_from("!HH", frame, start)
    ):
        return frame[: start + 12]
    return frame


if __name__ == "__main__":
    folder, name = Path(sys.argv[1]), sys.argv[2]
    data = Path(__file__).with_name("data")
    for source, suffix in (("nic.pcap", "pcap"), ("serial.trace", "trace")):
        content = (folder / source).read_bytes()
        small = thin(content) if suffix == "pcap" else content
        (data / f"{name}.{suffix}.gz").write_bytes(gzip.compress(small, 9, mtime=0))
