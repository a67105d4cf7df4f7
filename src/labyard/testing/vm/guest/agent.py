"""The agent: process 1 of the VM. It does what the host asks on the virtio-serial port, many things at a time.

One thread and one poll, so that nothing needs a lock. Being process 1, it also reaps what others leave behind.
It imports little: under emulation an import is most of the time until it answers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
import time
from collections import deque
from collections.abc import Callable

from .frames import CHUNK, Frames, pack

TYPE_CHECKING = False  # see frames
if TYPE_CHECKING:
    from .frames import Header

PORT = "lab.labyard.agent.0"
PORTS = "/sys/class/virtio-ports"
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LOGNAME": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",
    "SHELL": "/bin/bash",
    "USER": "root",
}
READ = 1 << 16
CROWDED = 4 << 20  # bytes that wait for the host: until it has read them, no output of commands is taken in
LINGER = 0.5  # s that a command's output is still read after its shell has ended, when it left something running
GROUP_STEP = 0.01  # s between two looks whether a process group is gone
ADD_ENTROPY, RESEED = 0x40085203, 0x5207  # RNDADDENTROPY, RNDRESEEDCRNG of linux/random.h


class Child:
    """A command: its shell, which leads a process group, and its pipes."""

    def __init__(self, key: int, pid: int, whole_group: bool, outputs: dict[int, str], stdin: int | None) -> None:
        self.key = key
        self.pid = pid
        self.whole_group = whole_group  # it has ended when its group is gone, not when its shell has ended
        self.outputs = outputs  # name of the stream by descriptor
        self.stdin = stdin
        self.input: deque[memoryview] = deque()
        self.input_is_whole = False
        self.code: int | None = None
        self.ended_at = 0.0
        self.told = False  # the host knows that it has ended, or is another host by now

    def group_is_gone(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        return False


class Upload:
    """A file on its way in, beside the place where it will be."""

    def __init__(self, path: str, mode: int) -> None:
        self.path = os.path.realpath(path)
        self.mode = mode
        folder, name = os.path.split(self.path)
        os.makedirs(folder, exist_ok=True)
        if os.path.isdir(self.path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self.part = os.path.join(folder, f".{name[:200]}.{time.monotonic_ns()}")
        self.file = os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.file, view) :]

    def finish(self) -> None:
        os.fchmod(self.file, self.mode)
        os.close(self.file)
        os.rename(self.part, self.path)

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.file)
        with contextlib.suppress(OSError):
            os.unlink(self.part)


def identity(path: str) -> Header:
    """What changes when a file is replaced or written to."""
    found = os.stat(path)
    return {
        "inode": found.st_ino,
        "size": found.st_size,
        "ctime": found.st_ctime_ns,
        "mode": found.st_mode & 0o7777,
    }


class Agent:
    """The loop, the verbs, and all that is under way."""

    def __init__(self, port: int, out: int | None = None) -> None:
        """`port` is where requests come from, and answers go there, too, unless there is an `out`."""
        self.port = port
        self.out_port = port if out is None else out
        self.frames = Frames()
        self.out: deque[memoryview] = deque()
        self.waiting = 0  # bytes in out
        self.children: dict[int, Child] = {}
        self.forgotten: list[Child] = []  # of hosts that are gone, or told to have ended while something holds a pipe
        self.uploads: dict[int, Upload] = {}
        self.downloads: deque[tuple[int, int]] = deque()
        self.verbs: dict[str, Callable[[int, Header, bytes], None]] = {
            "hello": self.hello,
            "settime": self.settime,
            "run": self.run,
            "spawn": self.run,
            "input": self.input,
            "kill": self.kill,
            "write": self.write,
            "read": self.read,
            "stat": self.stat,
        }
        self.wake, wake = os.pipe()
        for end in (self.wake, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    # ------------------------------------------------------------------------------------- the loop

    def serve(self) -> None:
        while True:
            self.turn()

    def turn(self) -> None:
        """Wait until there is something to do, and do it."""
        crowded = self.waiting > CROWDED
        poll = select.poll()
        poll.register(self.port, select.POLLIN)
        if self.out:
            poll.register(self.out_port, select.POLLOUT | (select.POLLIN if self.out_port == self.port else 0))
        poll.register(self.wake, select.POLLIN)
        readers: dict[int, Child] = {}
        writers: dict[int, Child] = {}
        for child in (*self.children.values(), *self.forgotten):
            if not crowded:
                readers.update(dict.fromkeys(child.outputs, child))
            if child.stdin is not None and child.input:
                writers[child.stdin] = child
        for descriptor in readers:
            poll.register(descriptor, select.POLLIN)
        for descriptor in writers:
            poll.register(descriptor, select.POLLOUT)
        for descriptor, event in poll.poll(self._pause(crowded)):
            if descriptor == self.port:
                self._port(event)
            elif descriptor == self.out_port:
                self._flush()
            elif descriptor == self.wake:
                self._reap()
            elif descriptor in readers:
                self._output(readers[descriptor], descriptor)
            else:
                self._feed(writers[descriptor])
        if self.downloads and self.waiting <= CROWDED:
            self._download()
        for child in [child for child in self.children.values() if child.code is not None]:
            self._end(child)
        self.forgotten = [child for child in self.forgotten if child.outputs]

    def _pause(self, crowded: bool) -> float | None:
        """Milliseconds to wait at most; None: until something happens."""
        if self.downloads and not crowded:
            return 0
        if any(child.code is not None for child in self.children.values()):
            return GROUP_STEP * 1000
        return None

    def _port(self, event: int) -> None:
        data = None
        if event & select.POLLIN:
            with contextlib.suppress(BlockingIOError):
                data = os.read(self.port, READ)
        if data:
            for header, payload in self.frames.feed(data):
                self._do(header, payload)
        elif data == b"" or event & select.POLLHUP:
            self.hung_up()
            return
        if event & select.POLLOUT:
            self._flush()

    def hung_up(self) -> None:
        """No host: half a frame will never be whole, and nobody waits for what was to be sent. Another may come."""
        self.frames = Frames()
        self.out.clear()
        self.waiting = 0
        time.sleep(GROUP_STEP)

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.out:
                written = os.write(self.out_port, self.out[0][:READ])
                self.waiting -= written
                self.out[0] = self.out[0][written:]
                if not self.out[0]:
                    self.out.popleft()

    def send(self, header: Header, payload: bytes = b"") -> None:
        frame = memoryview(pack(header, payload))
        self.waiting += len(frame)
        self.out.append(frame)
        if len(self.out) == 1:
            self._flush()

    def _do(self, header: Header, payload: bytes) -> None:
        key = int(header.get("id", -1))
        try:
            self.verbs[header["verb"]](key, header, payload)
        except OSError as error:
            upload = self.uploads.pop(key, None)
            if upload:
                upload.drop()
            self.send({"id": key, "end": True, "errno": error.errno, "error": error.strerror or str(error)})
        except Exception as error:  # a faulty request must not end process 1, and with it the VM
            self.send({"id": key, "end": True, "errno": None, "error": repr(error)})

    # ------------------------------------------------------------------------------------ the verbs

    def hello(self, key: int, header: Header, payload: bytes) -> None:
        """A host begins. What an earlier one has started goes on, but nobody is told of it."""
        for child in self.children.values():
            self._silence(child)
        self.children.clear()
        for upload in self.uploads.values():
            upload.drop()
        self.uploads.clear()
        for _, descriptor in self.downloads:
            os.close(descriptor)
        self.downloads.clear()
        self.send({"id": key, "end": True, "nonce": header["nonce"], "kernel": os.uname().release})

    def settime(self, key: int, header: Header, payload: bytes) -> None:
        """Set the clock, and take the payload into the kernel's random numbers: else all VMs restored from one
        snapshot would have the time and the random numbers of the snapshot."""
        time.clock_settime_ns(time.CLOCK_REALTIME, header["time"])
        with open("/dev/urandom", "wb") as random:
            entropy = struct.pack("ii", len(payload) * 8, len(payload)) + payload
            fcntl.ioctl(random, ADD_ENTROPY, entropy)
            fcntl.ioctl(random, RESEED)
        self.send({"id": key, "end": True})

    def run(self, key: int, header: Header, payload: bytes) -> None:
        """`run` and `spawn`: a command in a session of its own; `spawn` says its pid at once."""
        environment = ENVIRONMENT | (header.get("env") or {})
        ours: list[int] = []
        theirs: list[int] = []
        stdin = None
        try:
            for _ in range(2):
                reading, writing = os.pipe()
                ours.append(reading)
                theirs.append(writing)
            if header.get("input"):
                reading, stdin = os.pipe()
                ours.append(stdin)
            else:
                reading = os.open("/dev/null", os.O_RDONLY)
            theirs.append(reading)
            os.chdir(header.get("cwd") or "/root")
            pid = os.posix_spawn(
                "/bin/bash",
                ["bash", "-c", header["command"]],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs[2], 0),
                    (os.POSIX_SPAWN_DUP2, theirs[0], 1),
                    (os.POSIX_SPAWN_DUP2, theirs[1], 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            os.chdir("/")
            for descriptor in theirs:
                os.close(descriptor)
        for descriptor in ours:
            os.set_blocking(descriptor, False)
        spawned = header["verb"] == "spawn"
        self.children[key] = Child(key, pid, spawned, {ours[0]: "stdout", ours[1]: "stderr"}, stdin)
        if spawned:
            self.send({"id": key, "pid": pid})

    def input(self, key: int, header: Header, payload: bytes) -> None:
        """More of a command's input; `id` is the command's."""
        child = self.children.get(key)
        if child is None or child.stdin is None:
            return
        if payload:
            child.input.append(memoryview(payload))
        child.input_is_whole = not header["more"]
        self._feed(child)

    def kill(self, key: int, header: Header, payload: bytes) -> None:
        """A signal to the whole group of command `of`. One that has ended is left alone."""
        child = self.children.get(header["of"])
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, header["signal"])
        self.send({"id": key, "end": True})

    def write(self, key: int, header: Header, payload: bytes) -> None:
        """A piece of a file. The first names the path, the last puts the file in its place."""
        if "path" in header:
            self.uploads[key] = Upload(header["path"], header["mode"])
        upload = self.uploads.get(key)
        if upload is None:
            return  # it has failed, and the host was told
        upload.write(payload)
        if not header["more"]:
            upload.finish()
            del self.uploads[key]
            self.send({"id": key, "end": True, **identity(upload.path)})

    def read(self, key: int, header: Header, payload: bytes) -> None:
        """A file, in pieces. Its size is not asked: that of files in /proc is 0."""
        descriptor = os.open(header["path"], os.O_RDONLY | os.O_NONBLOCK)
        self.downloads.append((key, descriptor))

    def stat(self, key: int, header: Header, payload: bytes) -> None:
        self.send({"id": key, "end": True, **identity(header["path"])})

    # ------------------------------------------------------------------------- what is under way

    def _download(self) -> None:
        """The next piece of the file at the front; files take turns."""
        key, descriptor = self.downloads.popleft()
        try:
            piece = os.read(descriptor, CHUNK)
        except BlockingIOError:
            piece = b""
        except OSError as error:
            os.close(descriptor)
            self.send({"id": key, "end": True, "errno": error.errno, "error": error.strerror})
            return
        if piece:
            self.send({"id": key, "stream": "data"}, piece)
            self.downloads.append((key, descriptor))
        else:
            os.close(descriptor)
            self.send({"id": key, "end": True})

    def _feed(self, child: Child) -> None:
        try:
            while child.input and child.stdin is not None:
                written = os.write(child.stdin, child.input[0][:READ])
                child.input[0] = child.input[0][written:]
                if not child.input[0]:
                    child.input.popleft()
        except BlockingIOError:
            return
        except BrokenPipeError:  # it does not want the rest
            child.input.clear()
            child.input_is_whole = True
        if child.input_is_whole and child.stdin is not None:
            os.close(child.stdin)
            child.stdin = None

    def _output(self, child: Child, descriptor: int) -> bool:
        """Pass on what a command has written. Returns whether there may be more."""
        try:
            piece = os.read(descriptor, READ)
        except BlockingIOError:
            return False
        if not piece:
            del child.outputs[descriptor]
            os.close(descriptor)
            return False
        if not child.told:
            self.send({"id": child.key, "stream": child.outputs[descriptor]}, piece)
        return True

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, READ)
        leaders = {child.pid: child for child in self.children.values() if child.code is None}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in leaders:
                code = os.waitstatus_to_exitcode(status)
                leaders[pid].code = code if code >= 0 else 128 - code
                leaders[pid].ended_at = time.monotonic()

    def _end(self, child: Child) -> None:
        """Tell the host that a command has ended, when it has."""
        gone = child.group_is_gone()
        if gone:
            # What they wrote is in the pipes, whoever else still holds their other ends.
            for descriptor in list(child.outputs):
                while self._output(child, descriptor):
                    pass
        lingered = time.monotonic() - child.ended_at > LINGER
        if gone or (not child.whole_group and (not child.outputs or lingered)):
            self.send({"id": child.key, "end": True, "code": child.code})
            del self.children[child.key]
            self._silence(child)

    def _silence(self, child: Child) -> None:
        """Go on reading what it writes, for it must not hang or die of a full or closed pipe, and drop that."""
        child.told = True
        if child.stdin is not None:
            os.close(child.stdin)
            child.stdin = None
        self.forgotten.append(child)


def open_port() -> int:
    """The port to the host. The device's name comes from the kernel: there is no udev."""
    while True:
        for device in os.listdir(PORTS) if os.path.isdir(PORTS) else ():
            with open(f"{PORTS}/{device}/name") as name:
                if name.read().strip() == PORT:
                    return os.open(f"/dev/{device}", os.O_RDWR | os.O_NONBLOCK)
        time.sleep(0.01)


def main() -> None:
    """What udev would do, as far as programs count on it, and then the agent."""
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"/dev/{name}")
    os.mkdir("/run/lock")
    Agent(open_port()).serve()
