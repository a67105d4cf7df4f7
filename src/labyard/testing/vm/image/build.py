"""Build an image: Debian by mmdebstrap, a kernel, an initramfs of our own. No loop device, no mount."""

from __future__ import annotations

import json
import lzma
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labyard.testing.vm.errors import VMError
from labyard.testing.vm.image.cpio import Cpio
from labyard.testing.vm.image.manifest import MANIFEST, digest, guest_files, is_whole, read_manifest

HERE = Path(__file__).parent
PACKAGES = (
    *("bash", "busybox-static", "ca-certificates", "coreutils", "crun", "curl", "iproute2", "iputils-ping", "kmod"),
    *("lz4", "mount", "nftables", "procps", "python3", "runc", "util-linux", "xz-utils", "zstd"),
    # The kernel's iSCSI target, which few hosts have: clients, and what the role iscsi_target installs.
    *("libiscsi-bin", "qemu-block-extra", "qemu-system-common", "qemu-utils", "targetcli-fb"),
    # For Ansible, and for units. Nothing starts systemd but a test that wants it.
    *("python3-apt", "systemd"),
)
KERNELS = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}
# What the initramfs loads; ext4 is in Debian's kernels, or a module all the same.
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4", "overlay")
UNUSED = ("doc", "info", "locale", "man")
SLACK = 64  # MiB of the root that are no content: tables of the file system, and room for error
TOOLS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "tar": "tar", "unshare": "util-linux"}


@dataclass(frozen=True)
class Recipe:
    """What an image is made of. The same recipe is not built twice."""

    suite: str = "bookworm"
    kernel: str = "cloud"
    packages: tuple[str, ...] = ()
    mirror: str = ""


def build(folder: Path, recipe: Recipe, say: Callable[[str], None], force: bool = False) -> bool:
    """Make an image in `folder`. Returns whether there was anything to do. VMError: it cannot be made, with the reason.

    What is ours in the initramfs is renewed alone, when nothing else has changed.
    """
    inputs = json.loads(json.dumps(asdict(recipe))) | {
        "builder": digest(*sorted(HERE.glob("*.py"))),
        "base": [*PACKAGES],
    }
    manifest = read_manifest(folder)
    right = manifest.get("inputs") == inputs and is_whole(folder, manifest) and not force
    if right and manifest["guest"] == digest(*guest_files()):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the result, so that the last step is a rename.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as work:
        if right:
            say("renewing the agent in the initramfs")
            base = (folder / "initrd.cpio").read_bytes()[: manifest["initrd_base"]]
            _put(folder, Path(work), ("initrd.cpio",), manifest, base)
        else:
            made = _make(Path(work), recipe, say)
            _put(folder, Path(work), ("vmlinux", "root.ext4", "initrd.cpio"), {"inputs": inputs, **made[0]}, made[1])
    return True


def _put(folder: Path, work: Path, names: Sequence[str], manifest: dict[str, Any], base: bytes) -> None:
    """Add our own part to the initramfs, and put files and manifest in place. A crash in between leaves sizes or
    hashes that do not match the manifest, and the next run builds again."""
    (work / "initrd.cpio").write_bytes(base + bytes(_ours(work)))
    files = dict(manifest.get("files", {}))
    for name in names:
        files[name] = {"size": (work / name).stat().st_size, "sha256": digest(work / name)}
    manifest = {**manifest, "guest": digest(*guest_files()), "initrd_base": len(base), "files": files}
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in names:
        (work / name).chmod(0o644)
        (work / name).replace(folder / name)
    new = work / MANIFEST
    new.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    new.replace(folder / MANIFEST)


def _ours(work: Path) -> Cpio:
    """What Labyard puts into the initramfs. Compiled as well: the guest would need a tenth of its boot for that, each
    time. A Python there of another version than here finds no file of its name, and compiles."""
    ours = Cpio()
    ours.folder("seed/work")
    ours.file("seed/data/etc/hostname", b"vm\n")
    ours.file("seed/data/etc/hosts", b"127.0.0.1 localhost vm\n::1 localhost\n")
    place = "seed/data/usr/lib/labyard/guest"
    for file in guest_files():
        if file.suffix != ".py":
            ours.file(file.name, file.read_bytes(), 0o755)
            continue
        ours.file(f"{place}/{file.name}", file.read_bytes())
        name = f"{place}/__pycache__/{file.stem}.{sys.implementation.cache_tag}.pyc"
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(file), str(work / "pyc"), f"guest/{file.name}", doraise=True, invalidation_mode=mode)
        ours.file(name, (work / "pyc").read_bytes())
    return ours


def _make(work: Path, recipe: Recipe, say: Callable[[str], None]) -> tuple[dict[str, Any], bytes]:
    """Kernel and root in `work`; what goes into the manifest, and the part of the initramfs that is not ours."""
    for tool, package in TOOLS.items():
        if not shutil.which(tool):
            raise VMError(f"{tool} is not installed: apt-get install {package}")
    say(f"Debian {recipe.suite}, with {KERNELS[recipe.kernel]}: packages from the mirror, one or two minutes")
    archive, tree = work / "root.tar", work / "tree"
    packages = ",".join((*PACKAGES, *recipe.packages))
    hook = f'install -Dm 755 "{HERE / "prepare.py"}" "$1/labyard/prepare.py"'
    _run(
        "mmdebstrap",
        "--variant=apt",
        f"--include={packages}",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in UNUSED),
        f"--customize-hook={hook}",
        f'--customize-hook=chroot "$1" python3 /labyard/prepare.py {KERNELS[recipe.kernel]}',
        recipe.suite,
        str(archive),
        *([recipe.mirror] if recipe.mirror else []),
        say=say,
    )
    say("file system")
    tree.mkdir()
    _as_owner("tar", "--extract", "--exclude=./dev/*", "--file", str(archive), "--directory", str(tree))
    archive.unlink()
    (tree / "labyard/vmlinux").rename(work / "vmlinux")
    versions = json.loads((tree / "labyard/versions.json").read_text(encoding="utf-8"))
    base = _initramfs_base(tree, versions["kernel"])
    shutil.rmtree(tree / "labyard")
    size = int(_run("du", "--summarize", "--block-size=1M", str(tree)).split()[0]) + SLACK
    image = work / "root.ext4"
    # It is only ever read: no journal, no reserved blocks. The date is fixed so that two builds are alike.
    make = ("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-L", "labyard-vm", "-d", str(tree))
    _as_owner(*make, str(image), f"{size}M")
    _as_owner("rm", "-rf", str(tree))
    return versions, base


def _initramfs_base(tree: Path, kernel: str) -> bytes:
    """busybox and the modules that lead to the root, with the order to load them in."""
    modules = tree / "usr/lib/modules" / kernel
    cpio = Cpio()
    for folder in ("dev", "lower", "new", "proc", "sys", "upper"):
        cpio.folder(folder)
    cpio.device("dev/console", 5, 1)
    cpio.device("dev/null", 1, 3)
    busybox = next(path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.is_file())
    cpio.file("bin/busybox", busybox.read_bytes(), 0o755)
    order = load_order(
        (modules / "modules.dep").read_text(encoding="utf-8"),
        (modules / "modules.builtin").read_text(encoding="utf-8"),
        MODULES,
    )
    # Each named alone and in order, so that none of them needs another to be looked up.
    place = f"lib/modules/{kernel}"
    for path in order:
        cpio.file(f"{place}/{_module(path)}.ko", _unpacked(modules / path))
    cpio.file(f"{place}/modules.dep", "".join(f"{_module(path)}.ko:\n" for path in order).encode())
    cpio.file("modules", " ".join(map(_module, order)).encode() + b"\n")
    return bytes(cpio)


def load_order(dependencies: str, builtin: str, wanted: Sequence[str]) -> list[str]:
    """Paths of the wanted modules and of those that they need, each after those it needs itself.

    The texts are depmod's modules.dep and the kernel's modules.builtin. VMError: there is no such module.
    """
    needs = dict(line.split(":", 1) for line in dependencies.splitlines() if ":" in line)
    paths = {_module(path): path for path in needs}
    in_kernel = {_module(path) for path in builtin.split()}
    order: list[str] = []
    for name in map(_module, wanted):
        if name in in_kernel:
            continue
        if name not in paths:
            raise VMError(f"the kernel has no module {name}")
        path = paths[name]
        # depmod names all that it needs, the deepest last.
        order += [module for module in (*reversed(needs[path].split()), path) if module not in order]
    return order


def _module(path: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", Path(path).name).replace("-", "_")


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq"], input=content, check=True, stdout=subprocess.PIPE).stdout
    return content


def _as_owner(*command: str) -> None:
    """Run a program as root, or as what looks like root to it: files of the root then belong to root in the image."""
    _run(*(() if os.geteuid() == 0 else ("unshare", "--map-root-user", "--")), *command)


def _run(*command: str, say: Callable[[str], None] | None = None) -> str:
    """Run a program; what it writes. With `say`, hand on the steps that mmdebstrap names. VMError: it failed."""
    lines = []
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        with process:
            for line in process.stderr or ():
                lines.append(line)
                if say and line.startswith("I: ") and line.endswith("...\n"):
                    say(line.removeprefix("I: ").rstrip(".\n"))
        output.seek(0)
        written = output.read().decode(errors="replace")
    if process.returncode != 0:
        raise VMError(f"{command[0]} failed with {process.returncode}:\n{(''.join(lines) or written).strip()[-3000:]}")
    return written
