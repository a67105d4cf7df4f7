#!/usr/bin/env python3
# Part of the role boot_image
"""Build the small disk image that diskless lab machines boot over iSCSI, in BIOS and in UEFI mode.

Nothing is mounted and no kernel is installed: packages are unpacked into a cache, the initramfs is
written by this program, and mtools, mke2fs and syslinux work on the image file itself.

The image has an MBR and three partitions: FAT with boot loaders, kernel and initramfs; a scratch area
of 1 MiB that machines write to; and an ext4 root for machines that are told labyard.root=disk.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from boot_image.build import build
from boot_image.options import Options
from boot_image.packages import fetch
from boot_image.tools import BuildError


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    description = (__doc__ or "").strip()
    wide = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=wide)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--cache",
        type=Path,
        default=Path("/var/lib/labyard/boot-image"),
        metavar="FOLDER",
        help="folder of the unpacked packages (default: %(default)s)",
    )
    common.add_argument(
        "--check", action="store_true", help="change nothing; print what would be printed without this option"
    )

    fetcher = commands.add_parser(
        "fetch",
        parents=[common],
        help="download and unpack packages; the only command that needs the network",
        description="Download and unpack packages without installing them. Prints 'fetched' or 'unchanged'.",
    )
    fetcher.add_argument(
        "packages",
        nargs="+",
        metavar="PACKAGE",
        help="package; a kernel's meta package stands for the kernel",
    )

    builder = commands.add_parser(
        "build",
        parents=[common],
        help="build the image from the unpacked packages",
        description="Build the image. Prints 'built', or 'unchanged' when it already matches its inputs.",
    )
    add = builder.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help="the image; its stamp is put next to it")
    add(
        "--scripts",
        type=Path,
        default=Path(__file__).resolve().parent,
        metavar="FOLDER",
        help="folder of init, userland and labyard.sh (default: this program's)",
    )
    add("--phone-home-url", default="", metavar="URL", help="URL that machines report to; empty for none")
    add("--size-mb", type=int, default=64, metavar="N", help="size of the image in MiB (default: %(default)s)")
    add("--root-mb", type=int, default=8, metavar="N", help="size of the root in MiB (default: %(default)s)")
    add(
        "--format",
        action="append",
        default=[],
        choices=["raw", "qcow2", "vhdx"],
        help="further format to write beside the raw image; repeatable",
    )
    add(
        "--publish",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="folder to put vmlinuz, initrd.img and cmdline into, for firmware that loads them itself; repeatable",
    )
    add(
        "--kernel-options",
        default="console=ttyS0,115200 quiet",
        metavar="WORDS",
        help="kernel command line (default: %(default)s)",
    )
    add(
        "--compress",
        choices=["none", "lz4", "zstd", "gzip"],
        default="lz4",
        help="compression of the initramfs (default: %(default)s)",
    )
    add(
        "--module",
        action="append",
        default=[],
        metavar="NAME",
        help="further kernel module to load; repeatable",
    )
    add(
        "--busybox",
        type=Path,
        default=Path("/bin/busybox"),
        metavar="FILE",
        help="static busybox (default: %(default)s)",
    )
    add(
        "--systemd-boot",
        type=Path,
        default=Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi"),
        metavar="FILE",
        help="UEFI boot loader (default: %(default)s)",
    )
    add(
        "--mbr",
        type=Path,
        default=Path("/usr/lib/SYSLINUX/mbr.bin"),
        metavar="FILE",
        help="BIOS boot code of the partition table (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    arguments = parse(argv)
    try:
        if arguments.command == "fetch":
            changed = fetch(arguments.cache, arguments.packages, arguments.check)
            print("fetched" if changed else "unchanged")
            return 0
        options = Options(
            cache=arguments.cache,
            output=arguments.output,
            scripts=arguments.scripts,
            busybox=arguments.busybox,
            systemd_boot=arguments.systemd_boot,
            mbr=arguments.mbr,
            phone_home_url=arguments.phone_home_url,
            size_mb=arguments.size_mb,
            root_mb=arguments.root_mb,
            kernel_options=arguments.kernel_options,
            compress=arguments.compress,
            modules=tuple(arguments.module),
            formats=tuple(arguments.format),
            publish=tuple(arguments.publish),
            check=arguments.check,
        )
        print("built" if build(options) else "unchanged")
    except BuildError as error:
        print(f"build_boot_image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
