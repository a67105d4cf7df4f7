"""What the machine is: user, system, space, mirror, networks. Looks, and changes nothing."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from labyard.doctor.engine import docker
from labyard.doctor.model import GIB, Check, Finding, Problem, Settings, Status
from labyard.doctor.subnets import check_subnets
from labyard.doctor.work import Work, last_line

# A package of a few KB that every Debian and Ubuntu mirror carries.
TINY_PACKAGE = "hostname"
OLDEST_DEBIAN = 12
OLDEST_UBUNTU = 22
# Where the engine keeps images when nobody moved them; used when it cannot be asked.
USUAL_ENGINE_ROOT = Path("/var/lib/docker")


def check_root(_work: Work, _settings: Settings) -> Finding:
    """The user is root: networks, containers and packages need it."""
    if os.geteuid() == 0:
        return Finding("running as root")
    return Finding(f"running as user {os.geteuid()}", Status.FAIL, "run it with sudo")


def check_system(_work: Work, _settings: Settings) -> Finding:
    """Debian 12 or newer, or an Ubuntu LTS, on x86_64."""
    return judge_system(platform.freedesktop_os_release(), platform.machine(), platform.release())


def judge_system(release: dict[str, str], machine: str, kernel: str) -> Finding:
    """Decides about the fields of os-release, the architecture and the kernel's version."""
    found = f"{release.get('PRETTY_NAME', 'an unnamed system')}, {machine}, kernel {kernel}"
    wanted = "use Debian 12 or newer, or Ubuntu 22.04 LTS or newer, on x86_64"
    if machine != "x86_64":
        return Finding(found, Status.FAIL, f"the lab's kernels and firmware are for x86_64: {wanted}")
    identity = release.get("ID", "")
    # Debian testing and unstable have no number, and are newer than any that has.
    number = int(release.get("VERSION_ID", "999").partition(".")[0] or 999)
    if identity == "debian":
        return Finding(found) if number >= OLDEST_DEBIAN else Finding(found, Status.FAIL, wanted)
    if identity == "ubuntu":
        if number < OLDEST_UBUNTU:
            return Finding(found, Status.FAIL, wanted)
        if "LTS" not in release.get("VERSION", "") + release.get("PRETTY_NAME", ""):
            return Finding(found, Status.WARN, f"nobody has tried this release; should packages be missing: {wanted}")
        return Finding(found)
    if {"debian", "ubuntu"} & set(release.get("ID_LIKE", "").split()):
        return Finding(found, Status.WARN, f"nobody has tried this derivative; should packages be missing: {wanted}")
    return Finding(found, Status.FAIL, wanted)


def check_disk(work: Work, settings: Settings) -> Finding:
    """Enough free space where the engine keeps its images and where the checkout is."""
    try:
        root = Path(docker(work, "info", "--format", "{{.DockerRootDir}}", timeout=4.0))
    except Problem:
        root = USUAL_ENGINE_ROOT
    folders = [nearest(root), nearest(settings.checkout)]
    done = work.run(["df", "--block-size=1", "--output=avail,target", *map(str, folders)])
    if done.returncode != 0:
        raise Problem(f"df: {last_line(done.stderr)}", "run `df` by hand")
    return judge_disk(parse_df(done.stdout), settings.free_bytes)


def nearest(path: Path) -> Path:
    """The path, or its nearest parent that is there."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))


def parse_df(output: str) -> dict[str, int]:
    """Mount point -> free bytes, from `df --block-size=1 --output=avail,target`. Each mount point once."""
    lines = (line.split(maxsplit=1) for line in output.splitlines()[1:] if line.strip())
    return {mount: int(free) for free, mount in lines}


def judge_disk(free: dict[str, int], needed: int) -> Finding:
    """Every file system must have the needed bytes."""
    found = ", ".join(f"{size / GIB:.1f} GiB free on {mount}" for mount, size in free.items())
    short = [mount for mount, size in free.items() if size < needed]
    if not short:
        return Finding(found)
    return Finding(
        found,
        Status.FAIL,
        f"the lab needs {needed / GIB:g} GiB: free space on {', '.join(short)} (`docker system df` shows "
        "what images take), or move the checkout or the engine's data-root to a larger disk",
    )


def check_memory(_work: Work, settings: Settings) -> Finding:
    """Enough memory available."""
    return judge_memory(Path("/proc/meminfo").read_text(), settings.memory_bytes)


def judge_memory(meminfo: str, needed: int) -> Finding:
    """Decides about the text of /proc/meminfo."""
    sizes = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE)}
    available = sizes["MemAvailable"]
    found = f"{available / GIB:.1f} of {sizes['MemTotal'] / GIB:.1f} GiB available"
    if available >= needed:
        return Finding(found)
    return Finding(
        found,
        # Not a failure: a lab that is up already takes what it needs from this.
        Status.WARN,
        f"a lab takes up to {needed / GIB:g} GiB when all its machines are on: end other programs, give this machine "
        "more, or make the lab's machines smaller in the inventory",
    )


def check_host(_work: Work, _settings: Settings) -> Finding:
    """Reports the cgroup version and IPv4 forwarding."""
    top = Path("/sys/fs/cgroup")
    unified = (top / "cgroup.controllers").exists()
    legacy = any((top / name / "cgroup.procs").exists() for name in ("memory", "systemd", "cpu"))
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    return judge_host(2 if unified else 1 if legacy else 0, forwarding)


def judge_host(cgroup_version: int, forwarding: bool) -> Finding:
    """Decides about the cgroup version (0: none mounted) and IPv4 forwarding."""
    found = f"cgroup v{cgroup_version}" if cgroup_version else "no cgroups mounted"
    found += f", IPv4 forwarding {'on' if forwarding else 'off'}"
    if not cgroup_version:
        return Finding(found, Status.FAIL, "mount /sys/fs/cgroup: the engine and systemd in the lab's hosts need it")
    if not forwarding:
        remedy = "the engine turns it on when it starts; if not: sysctl -w net.ipv4.ip_forward=1"
        return Finding(found, Status.WARN, remedy)
    return Finding(found)


def check_mirror(work: Work, _settings: Settings) -> Finding:
    """Fetches something small from a configured mirror with apt: its proxies and certificates count."""
    address = tiny_package(work.run([work.need("apt-get", "apt"), "download", "--print-uris", TINY_PACKAGE]).stdout)
    lists_empty = address is None
    address = address or _release_file(work)
    if address is None:
        return Finding("apt has no package source", Status.FAIL, "name a mirror in /etc/apt/sources.list.d")
    helper = work.need("/usr/lib/apt/apt-helper", "apt")
    target = work.folder() / "fetched"
    options = [f"-oAcquire::{scheme}::Timeout=6" for scheme in ("http", "https", "ftp")]
    # No sandbox user: it may not write to a folder of ours, and there is nothing to protect.
    done = work.run(
        [
            helper,
            *options,
            "-oAcquire::Retries=0",
            "-oAPT::Sandbox::User=root",
            "download-file",
            address,
            str(target),
        ]
    )
    host = re.sub(r"^(\w+://)?(?:[^@/]*@)?([^/]*).*", r"\2", address) or address
    if done.returncode == 0 and target.exists() and target.stat().st_size:
        found = f"{host} sent {target.stat().st_size / 1024:.0f} KB"
        if lists_empty:
            return Finding(f"{found}; the package lists are empty", Status.WARN, "`make lab` runs `apt-get update`")
        return Finding(found)
    message = download_error(done.stderr)
    if "404" in message:
        return Finding(f"{host} answers, but the package lists are old", Status.WARN, "run: apt-get update")
    return Finding(
        f"{host}: {message}",
        Status.FAIL,
        "check the network, the name server and /etc/apt/sources.list*; behind a proxy set "
        "Acquire::http::Proxy in /etc/apt/apt.conf.d or http_proxy; then try: apt-get update",
    )


def tiny_package(output: str) -> str | None:
    """The address in the output of `apt-get download --print-uris`; None when there is none."""
    match = re.search(r"^'([^']+)'", output, re.MULTILINE)
    return match.group(1) if match else None


def download_error(errors: str) -> str:
    """What apt says went wrong, without the address it says it about."""
    match = re.search(r"^E: (?:Failed to fetch \S+\s+)?(.+)$", errors, re.MULTILINE)
    return match.group(1).strip() if match else last_line(errors)


def _release_file(work: Work) -> str | None:
    # Known without package lists, on a machine where `apt-get update` never ran.
    command = [work.need("apt-get", "apt"), "indextargets", "--format", "$(REPO_URI)dists/$(RELEASE)/Release"]
    lines = work.run(command).stdout.split()
    return lines[0] if lines else None


SYSTEM_CHECKS: tuple[Check, ...] = (
    Check("root", check_root),
    Check("system", check_system),
    Check("disk", check_disk, 8.0),
    Check("memory", check_memory),
    Check("host", check_host),
    Check("mirror", check_mirror, 12.0),
    Check("subnets", check_subnets, 8.0),
)
