# Part of the role boot_image
"""What a machine runs: the initramfs, and the root on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boot_image.modules import Modules
from boot_image.options import Options
from boot_image.packages import find
from boot_image.tools import BuildError, read, run
from boot_image.tree import Tree

# What the scripts and a person at the shell need before `busybox --install` has run.
APPLETS = (
    *("acpid", "awk", "cat", "chmod", "cp", "cut", "dd", "echo", "grep", "head", "hostname", "ifconfig", "insmod"),
    *("ip", "mkdir", "mount", "poweroff", "readlink", "reboot", "route", "sed", "setsid", "sh", "sha256sum", "sleep"),
    *("switch_root", "sync", "timeout", "tr", "udhcpc", "umount", "wget"),
)

# By the stage that loads them; the last two may also be loaded by a root that came from the disk.
MODULES: dict[str, tuple[str, ...]] = {
    "network": ("virtio_pci", "virtio_net", "iscsi_ibft"),
    "disk": ("iscsi_tcp", "sd_mod", "ext4"),
    "seed": ("isofs", "vfat", "nls_cp437", "nls_ascii"),
    "idle": ("button", "evdev"),
}
ROOT_STAGES = ("seed", "idle")

UDHCPC = """#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig "$interface" "$ip" netmask "${subnet:-255.255.255.0}"
set -- $staticroutes
# RFC 3442: with these, the router does not count.
[ $# = 0 ] && for gateway in $router; do route add default gw "$gateway"; break; done
while [ $# -ge 2 ]; do ip route add "$1" via "$2" dev "$interface"; shift 2; done
echo "$ip" >/run/address
echo "$hostname" >/run/hostname
"""

PROFILE = """PS1='labyard# '
export PS1
alias poweroff=/etc/acpi/PWRF/00000080 reboot=/etc/reboot
[ -e /bin/vi ] || busybox --install -s /bin
"""
END = "#!/bin/sh\nsync\nmount -o remount,ro / 2>/dev/null\nexec {} -f\n"


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


def userland(options: Options) -> Tree:
    """What the initramfs and the root on the disk have in common."""
    tree = Tree()
    for name in ("dev", "proc", "sys", "run", "tmp", "root", "var"):
        tree.folder(name)
    tree.file("bin/busybox", read(options.busybox), 0o755)
    for applet in APPLETS:
        tree.link(f"bin/{applet}", "busybox")
    tree.file("sbin/init", read(options.scripts / "userland"), 0o755)
    tree.file("lib/labyard.sh", read(options.scripts / "labyard.sh"))
    tree.file("etc/profile", PROFILE.encode())
    tree.file("etc/acpi/PWRF/00000080", END.format("poweroff").encode(), 0o755)
    tree.file("etc/reboot", END.format("reboot").encode(), 0o755)
    return tree


def trees(options: Options, roots: Sequence[Path]) -> tuple[Tree, Tree]:
    """The initramfs, and the root on the disk: that one comes up in a kernel that has network and disk already."""
    initramfs, root = userland(options), userland(options)
    initramfs.device("dev/console", 0o600, 5, 1)
    initramfs.device("dev/null", 0o666, 1, 3)
    initramfs.file("init", read(options.scripts / "init"), 0o755)
    initramfs.file("etc/udhcpc", UDHCPC.encode(), 0o755)
    iscsistart = find(roots, ["sbin/iscsistart", "usr/sbin/iscsistart"])
    initramfs.file("bin/iscsistart", read(iscsistart), 0o755)
    for path, library in libraries(iscsistart, roots).items():
        initramfs.file(path, read(library), 0o755)

    modules = Modules.of(roots)
    loaded: set[str] = set()
    for stage, names in MODULES.items():
        if stage == "network":
            names = (*names, *options.modules)
        order = modules.in_order(names, loaded)
        for tree in (initramfs, root) if stage in ROOT_STAGES else (initramfs,):
            for name in order:
                tree.file(f"lib/modules/{name}.ko", modules.contents[name])
            tree.file(f"etc/modules.{stage}", "".join(f"/lib/modules/{name}.ko\n" for name in order).encode())
    return initramfs, root
