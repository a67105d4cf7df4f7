"""Guests of a few bytes: one that obeys the power button, and the probe guest of VMAN_DOMAIN_TYPE=auto."""

from __future__ import annotations

import gzip
import struct
import subprocess
from pathlib import Path

# q35's ACPI registers, where SeaBIOS puts them: status 0x600, enable 0x602, control 0x604.
_OBEY_POWER_BUTTON = bytes.fromhex(
    "baf803 b075 ee"  # out 0x3f8, "u": say on the serial port that it is up
    "fb"  # sti
    "ba0206 b80001 ef"  # out 0x602, 0x100: enable the power button
    "ba0006"  # dx = 0x600
    "f4 ed f6c401 74f9"  # hlt; in ax, dx; until its bit is set
    "ba0406 b80020 ef"  # out 0x604, 0x2000: power off
    "f4 ebfd"  # hlt for ever
)
_DEAF = bytes.fromhex("fa f4 ebfd")  # cli; hlt for ever
# Writes 127 sectors again and again, each time further on (INT 13h, AH=43h, with its packet at 0x7c20).
_GREEDY = bytes.fromhex("31c0 8ed8 be207c b443 b280 cd13 8306287c7f ebf0").ljust(32, b"\0") + struct.pack(
    "<BBHHHQ", 16, 0, 127, 0x7C00, 0, 1
)
_INIT = bytes.fromhex(
    "b801000000 bf01000000 488d3510000000 ba11000000 0f05"  # write(1, message, 17)
    "b822000000 0f05 ebf7"  # pause() for ever: init may not end
)
_MESSAGE = b"labyard-probe-ok\n"


def write_obedient_disk(path: Path) -> None:
    """A raw disk whose boot sector says `u` on the serial port, waits for the ACPI power button, and powers off."""
    _write_disk(path, _OBEY_POWER_BUTTON)


def write_deaf_disk(path: Path) -> None:
    """A raw disk whose boot sector does nothing, and minds nothing."""
    _write_disk(path, _DEAF)


def write_greedy_disk(path: Path, base: Path) -> None:
    """A qcow2 disk of 64 MiB at `path`, on `base`, which is made, too. Its boot sector fills it."""
    _write_disk(base, _GREEDY)
    with base.open("ab") as file:
        file.truncate(64 * 1024 * 1024)
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(path)]
    subprocess.run(create, check=True)


def _write_disk(path: Path, boot_sector: bytes) -> None:
    path.write_bytes(boot_sector.ljust(510, b"\0") + b"\x55\xaa" + bytes(1024 * 1024 - 512))


def write_probe_initrd(path: Path) -> None:
    """An initramfs whose init prints the probe's line."""
    _write_initrd(path, _MESSAGE)


def write_silent_initrd(path: Path) -> None:
    """An initramfs whose init prints nothing of the kind, as if the guest hung."""
    _write_initrd(path, b"not what is asked".ljust(len(_MESSAGE)))


def _write_initrd(path: Path, message: bytes) -> None:
    path.write_bytes(gzip.compress(_cpio("init", 0o100755, _elf(_INIT + message)) + _cpio("TRAILER!!!", 0, b"")))


def _elf(code: bytes) -> bytes:
    base, header = 0x400000, 64 + 56
    size = header + len(code)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    return (
        ident
        + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + header, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
        + code
    )


def _cpio(name: str, mode: int, data: bytes) -> bytes:
    fields = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
