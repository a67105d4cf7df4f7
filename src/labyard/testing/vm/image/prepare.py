"""Runs inside the new Debian root, as mmdebstrap's last step: unpacks a kernel there, without installing it.

Called with the kernel's package. It leaves the modules where they belong, and in /labyard: vmlinux, and versions.json.
Standard library only, and tools of the root: the machine that builds needs none for the kernel's compression.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

WORK = Path("/labyard")
# By the first bytes of the compressed kernel. lz4 is the older format of the two that it has.
UNPACKERS = {
    b"\x1f\x8b": ["gzip", "-dc"],
    b"\xfd7zXZ": ["xz", "-dc"],
    b"\x28\xb5\x2f\xfd": ["zstd", "-dc"],
    b"\x02\x21\x4c\x18": ["lz4", "-dc"],
}


def output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def image_package(package: str) -> str:
    """The package that has the kernel: the meta package names it."""
    if re.search(r"\d+\.\d+", package):
        return package
    found = re.search(r"Depends: (linux-image-\d\S+)", output("apt-cache", "depends", package))
    if not found:
        raise SystemExit(f"apt knows no kernel for {package}")
    return found.group(1)


def vmlinux(vmlinuz: bytes) -> bytes:
    """The kernel out of its boot image: see Documentation/arch/x86/boot.rst, fields setup_sects and payload_*."""
    setup_sectors = vmlinuz[0x1F1] or 4
    offset, size = struct.unpack_from("<II", vmlinuz, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    packed = vmlinuz[start : start + size]
    for magic, command in UNPACKERS.items():
        if packed.startswith(magic):
            # Some formats are followed by the size, which the programs complain of after having written all.
            kernel = subprocess.run(command, input=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
            if kernel.startswith(b"\x7fELF"):
                return kernel
    raise SystemExit(f"the kernel is packed in a way we do not know: {packed[:8]!r}")


def main() -> None:
    package = image_package(sys.argv[1])
    WORK.mkdir(exist_ok=True)
    subprocess.run(["apt-get", "-qq", "download", package], cwd="/var/cache", check=True)
    archive = next(Path("/var/cache").glob(f"{package}_*.deb"))
    unpacked = WORK / "kernel"
    subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
    archive.unlink()

    modules = next(path for path in (unpacked / "usr/lib/modules", unpacked / "lib/modules") if path.is_dir())
    kernel = next(modules.iterdir()).name
    shutil.rmtree(f"/usr/lib/modules/{kernel}", ignore_errors=True)
    Path("/usr/lib/modules").mkdir(exist_ok=True)
    shutil.move(modules / kernel, "/usr/lib/modules")
    subprocess.run(["depmod", kernel], check=True)
    (WORK / "vmlinux").write_bytes(vmlinux((unpacked / f"boot/vmlinuz-{kernel}").read_bytes()))
    shutil.rmtree(unpacked)

    packages = dict(
        line.split("\t") for line in output("dpkg-query", "-W", "-f", "${Package}\t${Version}\n").splitlines()
    )
    versions = {"kernel": kernel, "kernel_package": archive.name, "packages": packages}
    (WORK / "versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    main()
