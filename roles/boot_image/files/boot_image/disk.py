# Part of the role boot_image
"""The disk image: partition table, FAT with boot loaders, a root file system, a scratch area. Nothing is mounted."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

from boot_image.options import FAT_START, SCRATCH_SIZE, Options
from boot_image.tools import EPOCH, MIB, SECTOR, read, run
from boot_image.tree import Tree

# mtools warns about odd geometry.
MTOOLS = {"MTOOLS_SKIP_CHECK": "1", "SOURCE_DATE_EPOCH": str(EPOCH), "TZ": "UTC"}


def boot_files(options: Options, kernel: bytes, initramfs: bytes) -> dict[str, bytes]:
    """Content of the FAT file system, in the order in which it is written."""
    return {
        "vmlinuz": kernel,
        "initrd.img": initramfs,
        "EFI/BOOT/BOOTX64.EFI": read(options.systemd_boot),
        "loader/loader.conf": b"timeout 0\ndefault labyard.conf\neditor no\nauto-entries no\nauto-firmware no\n",
        "loader/entries/labyard.conf": (
            f"title Labyard\nlinux /vmlinuz\ninitrd /initrd.img\noptions {options.command_line}\n"
        ).encode(),
        "syslinux.cfg": (
            "DEFAULT labyard\nPROMPT 0\nTIMEOUT 0\nNOESCAPE 1\nLABEL labyard\n"
            f"  LINUX /vmlinuz\n  INITRD /initrd.img\n  APPEND {options.command_line}\n"
        ).encode(),
    }


def partition(active: bool, kind: int, start: int, size: int) -> bytes:
    """One entry of a partition table. Sector addresses count, not the geometry."""
    beyond = b"\xfe\xff\xff"
    return struct.pack("<B3sB3sII", 0x80 if active else 0, beyond, kind, beyond, start // SECTOR, size // SECTOR)


def table(options: Options, boot_code: bytes, serial: bytes) -> bytes:
    """The first sector. The scratch area is the second partition and the root the third, whatever their order."""
    entries = partition(True, 0x0C, FAT_START, options.root_start - FAT_START)
    entries += partition(False, 0xDA, options.scratch_start, SCRATCH_SIZE)
    entries += partition(False, 0x83, options.root_start, options.root_mb * MIB)
    return boot_code[:440].ljust(440, b"\0") + serial + b"\0\0" + entries.ljust(64, b"\0") + b"\x55\xaa"


def write_fat(image: Path, contents: dict[str, bytes], options: Options, serial: bytes, work: Path) -> None:
    """Make the FAT file system inside the image, put the files into it, make it bootable for BIOS."""
    drive = f"{image}@@{FAT_START}"
    sectors = (options.root_start - FAT_START) // SECTOR
    run(
        [
            *("mformat", "-i", drive, "-T", str(sectors), "-h", "255", "-s", "63"),
            *("-H", str(FAT_START // SECTOR), "-c", "16", "-v", "LABYARD", "-N", serial.hex(), "::"),
        ],
        env=MTOOLS,
    )
    folder = work / "fat"
    made: set[str] = set()
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (EPOCH, EPOCH))
        parents = [str(parent) for parent in reversed(Path(name).parents) if str(parent) != "."]
        for parent in parents:
            if parent not in made:
                made.add(parent)
                run(["mmd", "-i", drive, f"::{parent}"], env=MTOOLS)
        run(["mcopy", "-m", "-i", drive, path, f"::{name}"], env=MTOOLS)
    run(["syslinux", "--install", "--offset", str(FAT_START), image], env=MTOOLS)


def write_root(image: Path, root: Tree, options: Options, work: Path) -> None:
    """Make the root file system inside the image, from a folder."""
    folder = work / "root"
    root.write(folder)
    run(
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-L", "labyard-root", "-d", folder, "-m", "0"),
            *("-E", f"offset={options.root_start},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard"),
            *(image, f"{options.root_mb}m"),
        ],
        env={"E2FSPROGS_FAKE_TIME": str(EPOCH)},
    )


def write_image(image: Path, contents: dict[str, bytes], root: Tree, options: Options, work: Path) -> None:
    """Write partition table, file systems, files and boot sector."""
    serial = hashlib.sha256(b"".join(contents.values())).digest()[:4]
    with image.open("wb") as file:
        file.write(table(options, read(options.mbr), serial))
        file.truncate(options.size)
    write_fat(image, contents, options, serial, work)
    write_root(image, root, options, work)
