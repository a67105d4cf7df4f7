#!/usr/bin/env python3
"""Build the small disk image that diskless lab machines boot over iSCSI, in BIOS and in UEFI mode.

Nothing is mounted and no kernel is installed: packages are unpacked into a cache, the initramfs is
written by this program, and mtools and syslinux work on the image file itself.

The image has an MBR and two partitions: FAT with boot loaders, kernel and initramfs, and a scratch
area of 1 MiB that machines write to.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
MIB = 1024 * 1024
FAT_START = MIB
SCRATCH_SIZE = MIB
# Part of every stamp. Raise it when the layout of the image changes in a way that no input shows.
LAYOUT = "3"

INDEX = "packages.json"
# Parts of a kernel that its meta package names.
KERNEL_PARTS = re.compile(r"^linux-(image|modules)-")

# What the init script and a person at the shell need before `busybox --install` has run.
APPLETS = (
    *("acpid", "cat", "cut", "dd", "echo", "head", "ifconfig", "insmod", "mount", "poweroff", "route", "sed"),
    *("setsid", "sh", "sha256sum", "sleep", "sync", "timeout", "tr", "udhcpc", "wget"),
)

NETWORK_MODULES = ("virtio_pci", "virtio_net", "iscsi_ibft")
DISK_MODULES = ("iscsi_tcp", "sd_mod")
IDLE_MODULES = ("button", "evdev")

UDHCPC = """#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig "$interface" "$ip" netmask "${subnet:-255.255.255.0}"
for gateway in $router; do route add default gw "$gateway"; break; done
echo "$ip" >/run/address
"""

PROFILE = "PS1='labyard# '\nexport PS1\n[ -e /bin/vi ] || busybox --install -s /bin\n"


class BuildError(Exception):
    """Something that the person at the command line can put right."""


def run(argv: Sequence[str | Path], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program and return what it printed."""
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise BuildError(f"{argv[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{' '.join(map(str, argv))}: {error.stderr.strip() or error.stdout.strip()}") from error
    return done.stdout


def read(path: Path) -> bytes:
    """Content of an input file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}") from error


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A hidden folder next to the result, on the same file system, gone afterwards whatever happens."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".boot-image-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- Packages -----------------------------------------------------------------------------------------------


def candidate(package: str) -> dict[str, str]:
    """Fields of the newest version that apt knows of a package."""
    fields: dict[str, str] = {}
    for line in run(["apt-cache", "show", "--no-all-versions", package]).splitlines():
        name, colon, value = line.partition(": ")
        if colon and not line.startswith(" "):
            fields.setdefault(name, value)
    if "Version" not in fields:
        raise BuildError(f"apt knows no package {package}")
    return fields


def resolve(packages: Sequence[str]) -> dict[str, str]:
    """Names and versions to fetch. A kernel's meta package stands for the kernel that it names."""
    wanted: dict[str, str] = {}
    queue = list(packages)
    seen: set[str] = set()
    while queue:
        package = queue.pop(0)
        if package in seen:
            continue
        seen.add(package)
        fields = candidate(package)
        parts = [
            alternative.split("|")[0].split("(")[0].strip() for alternative in fields.get("Depends", "").split(",")
        ]
        parts = [part for part in parts if KERNEL_PARTS.match(part) and KERNEL_PARTS.match(package)]
        queue.extend(parts)
        # A meta package has nothing in it; a signed image may still depend on its modules.
        if not parts or re.search(r"\d+\.\d+\.\d+-", package):
            wanted[package] = fields["Version"]
    return wanted


def fetch(cache: Path, packages: Sequence[str], check: bool) -> bool:
    """Download and unpack packages into the cache. Returns whether that was (or would be) needed."""
    wanted = resolve(packages)
    have: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        have = json.loads((cache / INDEX).read_text(encoding="utf-8"))
    folders = {name: f"{name}_{version.replace(':', '%3a')}" for name, version in wanted.items()}
    if have == folders and all((cache / folder).is_dir() for folder in folders.values()):
        return False
    if check:
        return True
    with temporary_folder(cache) as work:
        for name, version in wanted.items():
            if (cache / folders[name]).is_dir():
                continue
            # apt's own user cannot write here, and nothing but apt's verified download is done.
            run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", f"{name}={version}"], cwd=work)
            archives = list(work.glob("*.deb"))
            run(["dpkg-deb", "-x", archives[0], work / name])
            archives[0].unlink()
            (work / name).rename(cache / folders[name])
        index = work / INDEX
        index.write_text(json.dumps(folders, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        index.rename(cache / INDEX)
    for folder in set(have.values()) - set(folders.values()):
        shutil.rmtree(cache / folder, ignore_errors=True)
    return True


def unpacked(cache: Path) -> list[Path]:
    """Folders of the packages in the cache."""
    try:
        folders = json.loads((cache / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{cache} holds no packages yet: run the fetch command first") from error
    return [cache / folder for folder in folders.values()]


def find(roots: Sequence[Path], patterns: Sequence[str]) -> Path:
    """The first file that one of the patterns matches in one of the packages."""
    for root in roots:
        for pattern in patterns:
            for path in sorted(root.glob(pattern)):
                if path.is_file() and not path.is_symlink():
                    return path
    raise BuildError(f"no {' or '.join(patterns)} in {', '.join(root.name for root in roots)}")


# --- initramfs ----------------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    """Name of a module as the kernel spells it."""
    return path.name.split(".ko")[0].replace("-", "_")


def module_content(path: Path) -> bytes:
    """A module, unpacked if the kernel package has it compressed."""
    if path.suffix == ".xz":
        return lzma.decompress(read(path))
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", str(path)], check=True, capture_output=True).stdout
    return read(path)


@dataclass
class Modules:
    """The modules of a kernel. Dependencies come from the modules: no package ships modules.dep."""

    paths: dict[str, Path]
    builtin: set[str]
    contents: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, roots: Sequence[Path]) -> Modules:
        paths: dict[str, Path] = {}
        builtin: set[str] = set()
        for root in roots:
            for folder in (root / "lib/modules", root / "usr/lib/modules"):
                paths.update({module_name(path): path for path in sorted(folder.rglob("*.ko*"))})
                for names in folder.glob("*/modules.builtin"):
                    builtin.update(module_name(Path(line)) for line in names.read_text().split())
        if not paths:
            raise BuildError("no kernel modules in the cache")
        return cls(paths, builtin)

    def in_order(self, names: Sequence[str], loaded: set[str]) -> list[str]:
        """Modules to load for the named ones, each after those it needs. Adds them to loaded."""
        order: list[str] = []
        for name in names:
            name = name.replace("-", "_")
            if name in loaded or name in self.builtin:
                continue
            if name not in self.paths:
                raise BuildError(f"the kernel has no module {name}")
            loaded.add(name)
            content = self.contents[name] = module_content(self.paths[name])
            info = re.search(rb"\0depends=([^\0]*)\0", content)
            needed = [part for part in (info.group(1).decode() if info else "").split(",") if part]
            order += [*self.in_order(needed, loaded), name]
        return order


class Cpio:
    """An archive in the format of an initramfs (newc), the same bytes for the same content."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.folders: set[str] = set()
        self.inode = 0

    def add(self, path: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        parent = path.rpartition("/")[0]
        if parent and parent not in self.folders:
            self.folders.add(parent)
            self.add(parent, stat.S_IFDIR | 0o755)
        self.inode += 1
        links = 2 if stat.S_ISDIR(mode) else 1
        name = path.encode() + b"\0"
        numbers = (self.inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(name), 0)
        self.data += b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        self.data += b"\0" * (-len(self.data) % 4) + content
        self.data += b"\0" * (-len(self.data) % 4)

    def folder(self, path: str) -> None:
        if path not in self.folders:
            self.folders.add(path)
            self.add(path, stat.S_IFDIR | 0o755)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self.add(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        self.add(path, stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self.data)


def libraries(program: Path, roots: Sequence[Path]) -> dict[str, Path]:
    """Shared libraries of a program, by the path that it looks for them at."""
    found: dict[str, Path] = {}
    folders = [
        str(path) for root in roots for path in (*root.glob("lib/*-linux-gnu"), *root.glob("usr/lib/*-linux-gnu"))
    ]
    for line in run(["ldd", program], env={"LD_LIBRARY_PATH": ":".join(folders)}).splitlines():
        words = line.split()
        if "not found" in line:
            raise BuildError(f"{program.name} needs {words[0]}, which is not installed")
        if "=>" in words:
            found[f"lib/{words[0]}"] = Path(words[2])
        elif words[0].startswith("/"):
            found[words[0].lstrip("/")] = Path(words[0])
    return found


def initramfs(options: Options, roots: Sequence[Path]) -> bytes:
    """The initramfs, not compressed."""
    archive = Cpio()
    for name in ("proc", "sys", "run", "tmp", "root"):
        archive.folder(name)
    archive.folder("dev")
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("dev/null", stat.S_IFCHR | 0o666, device=(1, 3))
    archive.file("init", read(options.init), 0o755)
    archive.file("bin/busybox", read(options.busybox), 0o755)
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    archive.file("etc/profile", PROFILE.encode())
    archive.file("etc/udhcpc", UDHCPC.encode(), 0o755)
    archive.file("etc/acpi/PWRF/00000080", b"#!/bin/sh\nsync\nexec poweroff -f\n", 0o755)

    iscsistart = find(roots, ["sbin/iscsistart", "usr/sbin/iscsistart"])
    archive.file("bin/iscsistart", read(iscsistart), 0o755)
    for path, library in libraries(iscsistart, roots).items():
        archive.file(path, read(library), 0o755)

    modules = Modules.of(roots)
    loaded: set[str] = set()
    stages = {
        "network": (*NETWORK_MODULES, *options.modules),
        "disk": DISK_MODULES,
        "idle": IDLE_MODULES,
    }
    for stage, names in stages.items():
        order = modules.in_order(names, loaded)
        for name in order:
            archive.file(f"lib/modules/{name}.ko", modules.contents[name])
        archive.file(f"etc/modules.{stage}", "".join(f"/lib/modules/{name}.ko\n" for name in order).encode())
    return archive.finish()


def compress(data: bytes, how: str) -> bytes:
    """The initramfs in one of the formats that the kernel unpacks."""
    if how == "gzip":
        return gzip.compress(data, 9, mtime=0)
    if how in ("lz4", "zstd"):
        argv = {"lz4": ["lz4", "-l", "-9", "-c"], "zstd": ["zstd", "-19", "-c", "-q"]}[how]
        try:
            return subprocess.run(argv, input=data, check=True, capture_output=True).stdout
        except FileNotFoundError as error:
            raise BuildError(f"{how} is not installed") from error
    return data


# --- image --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    cache: Path
    output: Path
    init: Path
    busybox: Path
    systemd_boot: Path
    mbr: Path
    phone_home_url: str
    size_mb: int
    kernel_options: str
    compress: str
    modules: tuple[str, ...]
    check: bool

    @property
    def stamp(self) -> Path:
        return self.output.with_name(self.output.name + ".stamp")

    @property
    def scratch_start(self) -> int:
        return self.size_mb * MIB - SCRATCH_SIZE


def files(options: Options, roots: Sequence[Path]) -> dict[str, bytes]:
    """Content of the FAT file system, in the order in which it is written."""
    words = [options.kernel_options]
    if options.phone_home_url:
        words.append(f"labyard.phone_home={options.phone_home_url}")
    command_line = " ".join(" ".join(words).split())
    kernel = read(find(roots, ["boot/vmlinuz-*"]))
    return {
        "vmlinuz": kernel,
        "initrd.img": compress(initramfs(options, roots), options.compress),
        "EFI/BOOT/BOOTX64.EFI": read(options.systemd_boot),
        "loader/loader.conf": (b"timeout 0\ndefault labyard.conf\neditor no\nauto-entries no\nauto-firmware no\n"),
        "loader/entries/labyard.conf": (
            f"title Labyard\nlinux /vmlinuz\ninitrd /initrd.img\noptions {command_line}\n"
        ).encode(),
        "syslinux.cfg": (
            "DEFAULT labyard\nPROMPT 0\nTIMEOUT 0\nNOESCAPE 1\nLABEL labyard\n"
            f"  LINUX /vmlinuz\n  INITRD /initrd.img\n  APPEND {command_line}\n"
        ).encode(),
    }


def partition(active: bool, kind: int, start: int, size: int) -> bytes:
    """One entry of a partition table. Sector addresses count, not the geometry."""
    beyond = b"\xfe\xff\xff"
    return struct.pack("<B3sB3sII", 0x80 if active else 0, beyond, kind, beyond, start // SECTOR, size // SECTOR)


def write_image(image: Path, contents: dict[str, bytes], options: Options, work: Path) -> None:
    """Write partition table, file system, files and boot sector."""
    fat_size = options.scratch_start - FAT_START
    serial = hashlib.sha256(b"".join(contents.values())).digest()[:4]
    boot_code = read(options.mbr)[:440]
    table = partition(True, 0x0C, FAT_START, fat_size)
    table += partition(False, 0xDA, options.scratch_start, SCRATCH_SIZE)
    with image.open("wb") as file:
        file.write(boot_code.ljust(440, b"\0") + serial + b"\0\0" + table.ljust(64, b"\0") + b"\x55\xaa")
        file.truncate(options.size_mb * MIB)
    drive = f"{image}@@{FAT_START}"
    # mtools warns about odd geometry; and files with a fixed date make the same image twice.
    env = {"MTOOLS_SKIP_CHECK": "1", "SOURCE_DATE_EPOCH": "315619200", "TZ": "UTC"}
    run(
        [
            *("mformat", "-i", drive, "-T", str(fat_size // SECTOR), "-h", "255", "-s", "63"),
            *("-H", str(FAT_START // SECTOR), "-c", "16", "-v", "LABYARD", "-N", serial.hex(), "::"),
        ],
        env=env,
    )
    tree = work / "tree"
    made: set[str] = set()
    for name, content in contents.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (315619200, 315619200))
        parents = [str(parent) for parent in reversed(Path(name).parents) if str(parent) != "."]
        for parent in parents:
            if parent not in made:
                made.add(parent)
                run(["mmd", "-i", drive, f"::{parent}"], env=env)
        run(["mcopy", "-m", "-i", drive, path, f"::{name}"], env=env)
    run(["syslinux", "--install", "--offset", str(FAT_START), image], env=env)


def digest_of_boot_area(image: Path, size: int) -> str:
    """Hash of all that machines have no business to write: everything but the scratch area."""
    digest = hashlib.sha256()
    with image.open("rb") as file:
        while size > 0 and (block := file.read(min(MIB, size))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def build(options: Options) -> bool:
    """Build the image unless it is there already. Returns whether it was (or would be) built."""
    contents = files(options, unpacked(options.cache))
    inputs = hashlib.sha256(f"{LAYOUT} {options.size_mb}".encode())
    for name, content in (*contents.items(), ("mbr", read(options.mbr))):
        inputs.update(f"{name} {len(content)}\n".encode() + content)
    room = options.scratch_start - FAT_START
    needed = sum(map(len, contents.values())) + MIB
    if needed > room:
        raise BuildError(
            f"--size-mb {options.size_mb} is too small, at least {(needed - room) // MIB + 1} more are needed"
        )

    with contextlib.suppress(OSError, ValueError):
        stamp = json.loads(options.stamp.read_text(encoding="utf-8"))
        if (
            stamp["inputs"] == inputs.hexdigest()
            and options.output.stat().st_size == options.size_mb * MIB
            and stamp["boot_area"] == digest_of_boot_area(options.output, options.scratch_start)
        ):
            return False
    if options.check:
        return True

    with temporary_folder(options.output.parent) as work:
        image = work / "image"
        write_image(image, contents, options, work)
        stamp = {
            "boot_area": digest_of_boot_area(image, options.scratch_start),
            "inputs": inputs.hexdigest(),
        }
        new_stamp = work / "stamp"
        new_stamp.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
        with image.open("rb") as file:
            os.fsync(file.fileno())
        image.chmod(0o644)
        # In this order a crash in between leaves a stamp that does not match, and the next run builds again.
        image.rename(options.output)
        new_stamp.rename(options.stamp)
    return True


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
    add("--init", type=Path, required=True, metavar="FILE", help="script that the kernel starts")
    add("--phone-home-url", default="", metavar="URL", help="URL that machines report to; empty for none")
    add("--size-mb", type=int, default=64, metavar="N", help="size of the image in MiB (default: %(default)s)")
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
            init=arguments.init,
            busybox=arguments.busybox,
            systemd_boot=arguments.systemd_boot,
            mbr=arguments.mbr,
            phone_home_url=arguments.phone_home_url,
            size_mb=arguments.size_mb,
            kernel_options=arguments.kernel_options,
            compress=arguments.compress,
            modules=tuple(arguments.module),
            check=arguments.check,
        )
        print("built" if build(options) else "unchanged")
    except BuildError as error:
        print(f"build_boot_image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
