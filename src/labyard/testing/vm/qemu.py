"""One QEMU process: its command line, start and end."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from labyard.testing.vm.client import Agent
from labyard.testing.vm.errors import VMError, VMUnavailable
from labyard.testing.vm.folders import RunFolder
from labyard.testing.vm.guest.agent import PORT
from labyard.testing.vm.image import Image

PROGRAM = "qemu-system-x86_64"
# lpj: measuring how long a delay loop is would take 0.4 s, and emulated hardware wants no exact delays.
KERNEL_LINE = (
    "console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check cryptomgr.notests nowatchdog "
    "raid=noautodetect lpj=10000000"
)
SNAPSHOT = "base"
DISK = "snapshot"  # QEMU's name for the drive that holds it
STOP_SECONDS = 5.0
SERIAL_LINES = 30
LEASE = 3600  # s that a VM which is kept after its test may run


def program() -> str:
    """Where QEMU is. VMUnavailable: nowhere."""
    found = shutil.which(PROGRAM)
    if not found:
        raise VMUnavailable(f"{PROGRAM} not found: apt-get install qemu-system-x86 qemu-utils")
    return found


@dataclass(frozen=True)
class Nic:
    """A network card; all cards with the same group and port are on one wire, which no packet leaves."""

    mac: str
    group: str
    port: int


@dataclass(frozen=True)
class Hardware:
    """The machine. `memory` in MiB."""

    accel: str
    memory: int = 2048
    cpus: int = 2
    kernel_args: str = ""
    nics: tuple[Nic, ...] = ()

    def arguments(self, image: Image, snapshot: Path) -> list[str]:
        """QEMU's, but for what is another for each VM. A snapshot fits machines with the same ones."""
        accel = "tcg,thread=multi" if self.accel == "tcg" else "kvm"
        words = [
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-accel", accel, "-smp", str(self.cpus), "-m", str(self.memory),
            # Both have RDRAND. Without, the guest's first program waits for a second until there are random numbers.
            "-cpu", "host" if self.accel == "kvm" else "qemu64,+rdrand",
            "-kernel", str(image.vmlinux), "-initrd", str(image.initrd),
            "-append", f"{KERNEL_LINE} {self.kernel_args}".strip(),
            "-drive", f"file={escape(image.root)},format=raw,if=none,id=root,readonly=on",
            "-device", "virtio-blk-pci,drive=root",
            # No device: it holds the snapshot, and the guest has no disk that it could write to.
            "-drive", f"file={escape(snapshot)},format=qcow2,if=none,id={DISK}",
            "-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=agent,name={PORT}",
        ]  # fmt: skip
        for number, nic in enumerate(self.nics):
            wire = f"socket,id=nic{number},mcast={nic.group}:{nic.port},localaddr=127.0.0.1"
            words += ["-netdev", wire, "-device", f"virtio-net-pci,netdev=nic{number},mac={nic.mac},romfile="]
        return words


def escape(path: Path) -> str:
    """A path as a value in a list of options."""
    return str(path).replace(",", ",,")


class Qemu:
    """QEMU in a run folder, from its start to its end, with a connection to the agent."""

    def __init__(
        self, folder: RunFolder, image: Image, hardware: Hardware, snapshot: Path, restore: bool, keep: bool = False
    ) -> None:
        """Start it: cold, or from the snapshot. `keep`: it may outlive this process, by LEASE at most."""
        self.folder = folder
        self.name = f"labyard-vm-{uuid.uuid4()}"
        path = folder.path
        sockets = {name: _listener(path / f"{name}.sock") for name in ("agent", "qmp", "console")}
        command = [
            *(("timeout", "--signal=KILL", str(LEASE)) if keep else ("setpriv", "--pdeathsig=KILL", "--")),
            program(), "-name", self.name,
            "-serial", f"file:{path / 'serial.log'}",
            "-serial", "chardev:console",
            "-mon", "chardev=qmp,mode=control",
            *hardware.arguments(image, snapshot),
            *(("-loadvm", SNAPSHOT) if restore else ()),
        ]  # fmt: skip
        for name, listener in sockets.items():
            command += ["-chardev", f"socket,id={name},fd={listener.fileno()},server=on,wait=off"]
        inherited = [listener.fileno() for listener in sockets.values()]
        if keep:
            inherited.append(folder.lock)
        try:
            with (path / "qemu.log").open("wb") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=inherited,
                    # Ctrl-C is for us: we end it, in order.
                    start_new_session=True,
                )
            try:
                facts = {"pid": self.process.pid, "memory": hardware.memory, "name": self.name}
                folder.note(**facts, owner=os.getpid(), started=time.time())
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(str(path / "agent.sock"))
            except BaseException:
                end_process(self.process)
                raise
            self.agent = Agent(connection)
        finally:
            for listener in sockets.values():
                listener.close()

    def hello(self, seconds: float) -> str:
        """Wait for the agent; the kernel's release. VMUnavailable: silent; with the end of the serial log."""
        try:
            return str(self.agent.hello(seconds)["kernel"])
        except BaseException as error:  # Ctrl-C as well
            self.stop()
            if not isinstance(error, VMError):
                raise
            raise VMUnavailable(f"{error}\n{self.last_words()}".rstrip()) from error

    def last_words(self) -> str:
        """The end of the serial log, and of what QEMU itself said."""
        parts = []
        for name, text in (("QEMU", self.read_log("qemu.log")), ("serial log", self.read_log("serial.log"))):
            if lines := text.strip().splitlines():
                parts += [f"{name}:", *(f"  {line}" for line in lines[-SERIAL_LINES:])]
        return "\n".join(parts)

    def read_log(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder.path / name).read_text(encoding="utf-8", errors="replace")
        return ""

    def save(self) -> None:
        """Put the state as SNAPSHOT into the snapshot file and let go of that file; the guest goes on from there.
        VMError: QEMU's reason."""
        # Imported here: each run of pytest imports this file, and few of them make a snapshot.
        from labyard.testing.vm.monitor import monitor

        said = monitor(self.folder.path / "qmp.sock", f"savevm {SNAPSHOT}", f"drive_del {DISK}")
        if said:
            raise VMError(f"QEMU could not save the VM's state: {said}")

    def stop(self) -> None:
        """End it, if need be the hard way, and hang up."""
        end_process(self.process)
        self.agent.close()


def end_process(process: subprocess.Popen[bytes]) -> None:
    """QEMU writes its files out on SIGTERM."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def rss(pid: int) -> int:
    """Memory that a process holds, in bytes; 0 when it has ended."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _listener(path: Path) -> socket.socket:
    """A socket that QEMU takes over: whoever connects waits in its backlog, and not for QEMU to make it."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    return listener
