"""What the lab will do, done once in small. Each probe takes down what it made, however it ends."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

from labyard.doctor.engine import docker, remedy_for
from labyard.doctor.model import Check, Finding, Problem, Settings, Status
from labyard.doctor.work import STALE_SECONDS, Work, last_line, undo

# ----------------------------------------------------------------------------------------- engine

CAPABILITIES = ("SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "MKNOD", "IPC_LOCK", "SYS_NICE")
# What the container does with them; each line it prints names one thing that worked.
IN_CONTAINER = """\
/bin/busybox echo started
/bin/busybox mount -t tmpfs none /mnt && /bin/busybox echo mount
/bin/busybox ip link add labyard0 type bridge && /bin/busybox echo bridge
: < /dev/fuse && /bin/busybox echo fuse
: < /dev/net/tun && /bin/busybox echo tun
/bin/busybox touch /run/written && /bin/busybox echo tmpfs
"""
EXPECTED = ("started", "mount", "bridge", "fuse", "tun", "tmpfs")


def probe_engine(work: Work, _settings: Settings) -> Finding:
    """A container of an image made on the spot starts with everything a lab host gets, and may use it."""
    busybox = work.need("busybox", "busybox-static")
    program = work.need("docker", "the engine")
    version = docker(work, "version", "--format", "{{.Server.Version}}", timeout=8.0)

    name = f"labyard-doctor-{os.getpid()}-{secrets.token_hex(3)}"
    image = f"labyard/doctor:{name}"
    # Only what an earlier doctor left behind that was killed hard: its label, and older than any doctor runs.
    stale = ("--force", "--filter", "label=labyard=doctor", "--filter", f"until={STALE_SECONDS:.0f}s")
    work.run([program, "container", "prune", *stale])
    work.run([program, "image", "prune", "--all", *stale])
    work.on_end(lambda: undo([program, "image", "rm", "--force", image]))
    work.on_end(lambda: undo([program, "container", "rm", "--force", "--volumes", name]))

    archive = work.folder() / "busybox.tar"
    archive.write_bytes(image_archive(Path(busybox)))
    docker(work, "import", "--change", "LABEL labyard=doctor", str(archive), image)
    docker(work, *create_arguments(name, image))
    done = work.run([program, "start", "--attach", name])
    seen = done.stdout.split()
    if missing := [step for step in EXPECTED if step not in seen]:
        message = last_line(done.stderr, done.stdout)
        remedy = remedy_for(done.stderr)
        if any(sign in message for sign in ("exec format", "not found", "no such file")):
            remedy = "busybox must be the static one: apt-get install busybox-static"
        raise Problem(f"engine {version}: in a container failed: {', '.join(missing)} ({message})", remedy)
    return Finding(f"engine {version} ran a container with all a lab host needs ({len(CAPABILITIES)} capabilities)")


def image_archive(busybox: Path) -> bytes:
    """A file system for `docker import`: the static busybox and empty folders to mount on."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in ("bin", "mnt", "run", "tmp", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        program = tarfile.TarInfo("bin/busybox")
        content = busybox.read_bytes()
        program.size, program.mode = len(content), 0o755
        archive.addfile(program, io.BytesIO(content))
    return buffer.getvalue()


def create_arguments(name: str, image: str) -> list[str]:
    """Arguments of `docker create` for the probe's container: a lab host's rights, but no network."""
    return [
        "container", "create", "--name", name, "--label", "labyard=doctor", "--network", "none",
        *(f"--cap-add={capability}" for capability in CAPABILITIES),
        "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
        "--device", "/dev/fuse", "--device", "/dev/net/tun",
        "--tmpfs=/run", "--tmpfs=/tmp",
        image, "/bin/busybox", "sh", "-c", IN_CONTAINER,
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ guest


def probe_guest(work: Work, settings: Settings) -> Finding:
    """A real kernel boots under KVM, else under TCG. The Ansible module does it, run as a program."""
    qemu = work.need("qemu-system-x86_64", "qemu-system-x86")
    if not settings.kernel.is_file():
        remedy = "`make lab` fetches it; by itself: scripts/fetch-tools"
        raise Problem("there is no kernel to boot yet (vmlinuz of the unpacked tools)", remedy, Status.LATER)
    if not settings.accel_module.is_file():
        raise Problem(
            f"the checkout lacks {settings.accel_module.relative_to(settings.checkout)}",
            "run the doctor in a complete checkout: git status shows what is missing",
        )
    # Two boots at most, together below the check's own limit: so the module's message arrives.
    arguments = {"kernel": str(settings.kernel), "qemu": qemu, "timeout": 20}
    done = work.run([sys.executable, str(settings.accel_module)], stdin=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
    return judge_accel(done.stdout, done.stderr)


def judge_accel(output: str, errors: str) -> Finding:
    """Decides about what the module printed. KVM is fine, TCG a warning, anything else a failure."""
    if "No module named 'ansible" in errors:
        raise Problem("Ansible is not installed yet", "`make lab` installs it", Status.LATER)
    try:
        answer = json.loads(output)
    except ValueError:
        answer = {"failed": True, "msg": last_line(errors, output)}
    if answer.get("failed") or answer.get("accel") not in ("kvm", "tcg"):
        remedy = "reinstall qemu-system-x86, remove vmlinuz from the unpacked tools and run scripts/fetch-tools"
        return Finding(f"no guest can run: {answer.get('msg', 'no answer')}", Status.FAIL, remedy)
    if answer["accel"] == "kvm":
        return Finding(f"chosen: KVM; {answer['reason']}")
    return Finding(
        f"chosen: TCG, software emulation (booted in {answer['seconds']:.1f} s); {answer['reason']}",
        Status.WARN,
        "everything works, guests just run slower; for KVM: turn on virtualisation in the firmware, or "
        "nested virtualisation where this machine is itself a guest",
    )


# ----------------------------------------------------------------------------------------- target

IQN = "iqn.2025-01.lab.labyard:doctor"
LOOPBACK = "127.0.0.1"


def probe_target(work: Work, settings: Settings) -> Finding:
    """A private tgtd on a loopback port serves a small disk, and an initiator reads its name."""
    lio = lio_in_kernel(work)
    client = work.need("iscsi-inq", "libiscsi-bin")
    programs = settings.tools_folder / "usr" / "sbin"
    if not (programs / "tgtd").is_file():
        raise Problem("tgt is not unpacked yet", "`make lab` does it; by itself: scripts/fetch-tools", Status.LATER)

    state = work.folder()
    disk = state / "disk"
    disk.write_bytes(b"labyard\n" * 131072)
    port = free_port()
    control = str(secrets.randbelow(20000) + 1000)
    env = {
        # Its own socket and lock file: a tgtd that is already running here is never spoken to.
        "TGT_IPC_SOCKET": str(state / "socket"),
        "LD_LIBRARY_PATH": ":".join(str(folder) for folder in library_folders(settings.tools_folder)),
    }

    def tgtadm(*arguments: str) -> subprocess.CompletedProcess[str]:
        return work.run([str(programs / "tgtadm"), "-C", control, "--lld", "iscsi", *arguments], env=env)

    daemon = work.start([str(programs / "tgtd"), "-f", "-C", control, "--iscsi", f"portal={LOOPBACK}:{port}"], env=env)
    listening = work.until(
        lambda: daemon.poll() is not None or answers(port), f"waiting for tgtd on port {port}", timeout=5.0
    )
    if not listening or daemon.poll() is not None:
        work.stop_one(daemon)
        said = last_line(daemon.stdout.read() if daemon.stdout else "")
        raise Problem(
            f"tgtd does not start: {said}",
            "empty the folder of the unpacked tools, then: scripts/fetch-tools",
        )
    for step in (
        ("--op", "new", "--mode", "target", "--tid", "1", "--targetname", IQN),
        ("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--backing-store", str(disk)),
        ("--op", "bind", "--mode", "target", "--tid", "1", "--initiator-address", LOOPBACK),
    ):
        done = tgtadm(*step)
        if done.returncode != 0:
            raise Problem(f"tgtadm {' '.join(step[:4])}: {last_line(done.stderr)}", "run scripts/fetch-tools again")
    seen = work.run([client, f"iscsi://{LOOPBACK}:{port}/{IQN}/1"])
    tgtadm("--op", "delete", "--mode", "target", "--force", "--tid", "1")
    if seen.returncode != 0 or "VIRTUAL-DISK" not in seen.stdout:
        remedy = "a firewall on the loopback interface? Look at `nft list ruleset` and `iptables -S`"
        raise Problem(f"the initiator did not get the disk: {last_line(seen.stderr, seen.stdout)}", remedy)
    backend = choose_target(lio, settings.lio_supported)
    return Finding(f"chosen: {backend}; tgt served a disk over iSCSI; this kernel has {'LIO' if lio else 'no LIO'}")


def choose_target(lio: bool, lio_supported: bool) -> str:
    """The iSCSI target the lab uses: LIO where the kernel has it and the lab has a role for it, else tgt."""
    return "LIO" if lio and lio_supported else "tgt"


def lio_in_kernel(work: Work) -> bool:
    """True when LIO is built into the kernel, loaded, or can be loaded."""
    if Path("/sys/kernel/config/target").exists() or Path("/sys/module/target_core_mod").exists():
        return True
    try:
        modprobe = work.need("modprobe", "kmod")
    except Problem:
        return False
    return work.run([modprobe, "--dry-run", "--quiet", "target_core_mod"]).returncode == 0


def library_folders(tools: Path) -> list[Path]:
    """Folders of unpacked libraries: one per architecture, as Debian lays them out."""
    return [folder for base in ("usr/lib", "lib") for folder in sorted((tools / base).glob("*-linux-gnu"))]


def free_port() -> int:
    """A TCP port on the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """True when something listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((LOOPBACK, port)) == 0


# ----------------------------------------------------------------------------------------- packet

# Inside the probe's own namespaces only; addresses set aside for documentation.
SENDER, RECEIVER, PREFIX = "198.51.100.1", "198.51.100.2", 24
RECEIVE = """\
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 6767))
s.settimeout(5)
data, (address, _port) = s.recvfrom(99)
print(data.decode(), address)
"""
# Again and again, since the bridge and the receiver need a moment.
SEND = """\
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
for _ in range(100):
    s.sendto(b"labyard", ("255.255.255.255", 6767))
    time.sleep(0.05)
"""


def probe_packet(work: Work, _settings: Settings) -> Finding:
    """A broadcast crosses a bridge from one network namespace to another.

    The namespaces have no names and belong to processes of this check: they are gone with them, even after
    kill -9. The bridge is in a third one, so nothing of it shows on the machine.
    """
    ip, nsenter = work.need("ip", "iproute2"), work.need("nsenter", "util-linux")
    bridge, sender, receiver = (_namespace(work) for _ in range(3))
    cabling = (
        "link add br0 type bridge forward_delay 0\nlink set br0 up\n"
        f"link add port1 type veth peer name eth0 netns {sender}\nlink set port1 master br0 up\n"
        f"link add port2 type veth peer name eth0 netns {receiver}\nlink set port2 master br0 up\n"
    )
    plug = "address add {}/{} dev eth0\nlink set lo up\nlink set eth0 up\n"
    for pid, commands in (
        (bridge, cabling),
        (sender, plug.format(SENDER, PREFIX)),
        (receiver, plug.format(RECEIVER, PREFIX)),
    ):
        done = work.run([nsenter, f"--net=/proc/{pid}/ns/net", ip, "-batch", "-"], stdin=commands)
        if done.returncode != 0:
            raise Problem(
                f"no bridge between two network namespaces: {last_line(done.stderr)}",
                "this needs bridge and veth in the kernel (modprobe -a bridge veth) and all of root's rights",
            )
    python = [sys.executable, "-I", "-S", "-c"]
    listener = work.start([nsenter, f"--net=/proc/{receiver}/ns/net", *python, RECEIVE])
    work.start([nsenter, f"--net=/proc/{sender}/ns/net", *python, SEND])
    heard = work.until(lambda: listener.poll() is not None, "waiting for the broadcast", timeout=6.0)
    output = listener.stdout.read() if heard and listener.stdout else ""
    if output.split() != ["labyard", SENDER]:
        raise Problem(
            f"a broadcast did not cross the bridge: {last_line(output)}",
            "a firewall drops bridged packets? Look at `sysctl net.bridge` and `nft list ruleset`",
        )
    return Finding("a broadcast crossed a bridge between two network namespaces")


def _namespace(work: Work) -> int:
    """Process id of the holder of a new network namespace."""
    holder = work.start([work.need("unshare", "util-linux"), "--net", "sleep", "60"])
    mine = Path("/proc/self/ns/net").readlink()
    return _holder(work, holder, f"/proc/{holder.pid}/ns/net", mine, "network")


def _holder(work: Work, holder: subprocess.Popen[str], link: str, mine: Path, kind: str) -> int:
    def entered() -> bool:
        try:
            return holder.poll() is not None or Path(link).readlink() != mine
        except OSError:
            return False

    if not work.until(entered, f"waiting for a {kind} namespace", timeout=3.0) or holder.poll() is not None:
        work.stop_one(holder)
        said = last_line(holder.stdout.read() if holder.stdout else "")
        raise Problem(
            f"no {kind} namespace: {said}",
            "run as root on the machine itself, not in an unprivileged container",
        )
    return holder.pid


# ------------------------------------------------------------------------------------------- fuse

DISK_BYTES = 4 * 1024**2
PATTERN = b"labyard!"
PATTERN_AT = 1024**2


def probe_fuse(work: Work, _settings: Settings) -> Finding:
    """qemu-storage-daemon shows a qcow2 image as a raw file, and the file has the image's content.

    The mount is in a mount namespace of the daemon's own: it is gone with the daemon, even after kill -9.
    It is read through the daemon's /proc/PID/root.
    """
    daemon_program = work.need("qemu-storage-daemon", "qemu-system-common")
    image_tool = work.need("qemu-img", "qemu-utils")
    if not Path("/dev/fuse").exists():
        raise Problem("there is no /dev/fuse", "load the module: modprobe fuse")
    folder = work.folder()
    raw, image, mount = folder / "raw", folder / "image.qcow2", folder / "mounted"
    content = bytearray(DISK_BYTES)
    content[PATTERN_AT : PATTERN_AT + len(PATTERN)] = PATTERN
    raw.write_bytes(content)
    made = work.run([image_tool, "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)])
    if made.returncode != 0:
        raise Problem(f"qemu-img: {last_line(made.stderr)}", "reinstall qemu-utils")
    mount.touch()
    daemon = work.start([
        work.need("unshare", "util-linux"), "--mount", "--propagation", "private", daemon_program,
        "--blockdev", f"driver=file,filename={image},node-name=file",
        "--blockdev", "driver=qcow2,file=file,node-name=disk",
        "--export", f"type=fuse,id=export,node-name=disk,mountpoint={mount},writable=off",
    ])  # fmt: skip
    shown = Path(f"/proc/{daemon.pid}/root") / mount.relative_to("/")

    def mounted() -> bool:
        try:
            return daemon.poll() is not None or shown.stat().st_size == DISK_BYTES
        except OSError:
            return False

    ready = work.until(mounted, "waiting for the FUSE export", timeout=6.0)
    if not ready or daemon.poll() is not None:
        work.stop_one(daemon)
        said = last_line(daemon.stdout.read() if daemon.stdout else "")
        raise Problem(
            f"no FUSE export: {said}",
            "reinstall qemu-system-common; in a container, give it /dev/fuse and SYS_ADMIN",
        )
    # dd, not Python: a read that hangs must be in a process that can be killed.
    dd = shutil.which("dd") or "dd"
    got = work.run([dd, f"if={shown}", "bs=8", f"skip={PATTERN_AT // 8}", "count=1", "status=none"])
    if got.stdout.encode() != PATTERN:
        raise Problem(
            f"the FUSE export has wrong content: {last_line(got.stderr, got.stdout)}",
            "reinstall qemu-system-common",
        )
    return Finding("qemu-storage-daemon showed a qcow2 image as a raw file, and it was read")


PROBES: tuple[Check, ...] = (
    Check("engine", probe_engine, 25.0),
    Check("guest", probe_guest, 45.0, needs_root=True),
    Check("target", probe_target, 12.0, needs_root=True),
    Check("packet", probe_packet, 12.0, needs_root=True),
    Check("fuse", probe_fuse, 12.0, needs_root=True),
)
