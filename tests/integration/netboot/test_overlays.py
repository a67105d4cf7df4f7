"""Session disks against a qemu-storage-daemon of the test's own. Needs root and FUSE, as the daemon's mounts do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters import qmp
from labyard.netboot.adapters.disks import OverlaySeen, OverlaySpec
from labyard.netboot.adapters.overlays import Overlays
from labyard.netboot.adapters.qmp import Qmp
from labyard.testing.waiting import PATIENCE, wait_until

BINARY = "qemu-storage-daemon"
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which(BINARY) is None or not Path("/dev/fuse").exists(),
    reason=f"needs root, /dev/fuse and {BINARY} (packages qemu-system-common, qemu-utils)",
)
ONE, TWO = "machine-1-0a1b2c3d", "machine-2-0a1b2c3e"
MIB = 1 << 20


@dataclass
class Daemon:
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def socket(self) -> Path:
        return self.folder / "qmp.sock"

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        chardev = f"socket,id=qmp,path={self.socket},server=on,wait=off"
        self.process = subprocess.Popen([BINARY, "--chardev", chardev, "--monitor", "chardev=qmp"])
        wait_until(self.answers, f"{BINARY} answers", despite=AdapterError)

    def answers(self) -> bool:
        with Qmp(self.socket, PATIENCE).talk(patience=0):
            return True

    def stop(self, how: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(PATIENCE)

    def nodes(self) -> set[str]:
        with Qmp(self.socket, PATIENCE).talk() as talk:
            nodes = talk.do("query-named-block-nodes", {"flat": True})
        return {node["node-name"] for node in nodes if not node["node-name"].startswith("#")}


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    # Not tmp_path: its name may be too long for a socket's, and /tmp may not keep holes.
    folder = Path(tempfile.mkdtemp(prefix="labyard-overlays-", dir="/var/tmp"))
    (folder / "disks").mkdir()
    daemon = Daemon(folder)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop(signal.SIGKILL)
        for raw in (folder / "disks").glob("*.raw"):
            subprocess.run(["umount", "--lazy", "--quiet", raw], check=False)
        shutil.rmtree(folder)


@pytest.fixture
def disks(daemon: Daemon) -> Overlays:
    return Overlays(daemon.folder / "disks", daemon.socket, timeout=PATIENCE)


@pytest.fixture
def image(daemon: Daemon) -> Path:
    path = daemon.folder / "image.raw"
    path.write_bytes(b"base" * (2 * MIB))
    return path


@pytest.fixture
def spec(image: Path) -> Callable[..., OverlaySpec]:
    def make(target_id: str = ONE, base: Path = image, base_format: str = "raw") -> OverlaySpec:
        return OverlaySpec(target_id, base, base_format)

    return make


def read(path: Path, at: int, length: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), length, at)


def write(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, at)
        os.fsync(file.fileno())


class TestApply:
    def test_disk_reads_the_image_and_writes_its_own_file(
        self, disks: Overlays, spec: Callable[..., OverlaySpec]
    ) -> None:
        disks.apply(spec(ONE))
        disks.apply(spec(TWO))
        one, two = disks.export_path(ONE), disks.export_path(TWO)
        assert one == disks.overlay_path(ONE).with_suffix(".raw")
        write(one, 5000, b"mine")
        assert read(one, 4996, 12) == b"basemineb" + b"ase"
        assert read(two, 5000, 4) == b"base"
        assert spec().base.read_bytes() == b"base" * (2 * MIB)
        assert disks.size(ONE) == 8 * MIB
        assert disks.overlay_path(ONE).stat().st_mode & 0o777 == 0o600

    def test_again_changes_nothing(self, daemon: Daemon, disks: Overlays, spec: Callable[..., OverlaySpec]) -> None:
        disks.apply(spec())
        write(disks.export_path(ONE), 0, b"mine")
        nodes = daemon.nodes()
        with disks.export_path(ONE).open("rb", buffering=0) as open_file:
            disks.apply(spec())
            assert open_file.read(4) == b"mine"
        assert daemon.nodes() == nodes

    @pytest.mark.parametrize("base_format", ["raw", "qcow2", "vhdx", "vhd", "vmdk", "vdi"])
    def test_every_format(
        self, disks: Overlays, spec: Callable[..., OverlaySpec], image: Path, base_format: str
    ) -> None:
        driver = "vpc" if base_format == "vhd" else base_format
        base = image.with_suffix(f".{base_format}.image")
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", driver, image, base], check=True)
        disks.apply(spec(ONE, base, base_format))
        assert read(disks.export_path(ONE), MIB, 4) == b"base"
        assert disks.size(ONE) >= 8 * MIB
        disks.remove(ONE)

    def test_image_with_an_odd_size_is_padded_to_sectors(
        self, disks: Overlays, spec: Callable[..., OverlaySpec], image: Path
    ) -> None:
        image.write_bytes(b"x" * 1000)
        disks.apply(spec())
        assert disks.size(ONE) == 1024
        assert read(disks.export_path(ONE), 0, 2000) == b"x" * 1000 + b"\0" * 24

    def test_changed_image_gives_new_sessions_its_new_content(
        self, daemon: Daemon, disks: Overlays, spec: Callable[..., OverlaySpec], image: Path
    ) -> None:
        disks.apply(spec(ONE))
        newer = image.with_name("newer")
        newer.write_bytes(b"newer" * MIB)
        newer.rename(image)
        disks.apply(spec(TWO))
        assert read(disks.export_path(ONE), 0, 5) == b"baseb"
        assert read(disks.export_path(TWO), 0, 5) == b"newer"
        assert disks.size(TWO) == 5 * MIB

    def test_image_that_is_not_there(self, disks: Overlays, spec: Callable[..., OverlaySpec]) -> None:
        with pytest.raises(AdapterError, match="the image /nowhere cannot be read: No such file"):
            disks.apply(spec(ONE, Path("/nowhere")))
        assert disks.observed() == {}

    def test_image_of_another_format(self, daemon: Daemon, disks: Overlays, spec: Callable[..., OverlaySpec]) -> None:
        with pytest.raises(AdapterError, match=r"cannot open the image .*not in qcow2 format"):
            disks.apply(spec(base_format="qcow2"))
        with pytest.raises(AdapterError, match="no image format 'iso'"):
            disks.apply(spec(base_format="iso"))
        assert disks.observed() == {}
        assert daemon.nodes() == set()

    def test_overlay_of_another_image_is_refused(
        self, disks: Overlays, spec: Callable[..., OverlaySpec], image: Path
    ) -> None:
        disks.apply(spec())
        other = image.with_name("other")
        shutil.copy(image, other)
        with pytest.raises(AdapterError, match=r"was made on .*image.raw, not on .*other"):
            disks.apply(spec(ONE, other))

    @pytest.mark.parametrize("name", ["../etc", "machine-1-0a1b2c3d.qcow2", "machine-1-0A1B2C3D", ""])
    def test_other_names_are_refused(self, disks: Overlays, spec: Callable[..., OverlaySpec], name: str) -> None:
        for verb in (lambda: disks.apply(spec(name)), lambda: disks.remove(name), lambda: disks.size(name)):
            with pytest.raises(AdapterError, match="no target_id"):
                verb()


class TestRemove:
    def test_nothing_is_left(self, daemon: Daemon, disks: Overlays, spec: Callable[..., OverlaySpec]) -> None:
        disks.apply(spec(ONE))
        disks.apply(spec(TWO))
        assert len(daemon.nodes()) == 3  # two overlays, one image
        disks.remove(ONE)
        assert read(disks.export_path(TWO), 0, 4) == b"base"
        disks.remove(TWO)
        assert daemon.nodes() == set()
        assert list(disks.overlay_path(ONE).parent.iterdir()) == []

    def test_while_a_client_has_it_open(self, disks: Overlays, spec: Callable[..., OverlaySpec]) -> None:
        disks.apply(spec())
        client = os.open(disks.export_path(ONE), os.O_RDWR)
        os.write(client, b"x" * MIB)
        disks.remove(ONE)
        with pytest.raises(OSError, match=r"Transport endpoint|abort"):
            os.read(client, 1)
        with suppress(OSError):
            os.close(client)
        assert disks.observed() == {}

    def test_absent_is_fine(self, disks: Overlays, spec: Callable[..., OverlaySpec]) -> None:
        disks.remove(ONE)
        disks.apply(spec())
        disks.remove(ONE)
        disks.remove(ONE)
        disks.remove(ONE, keep=True)

    def test_keep_moves_what_the_machine_wrote(
        self, daemon: Daemon, disks: Overlays, spec: Callable[..., OverlaySpec]
    ) -> None:
        disks.apply(spec())
        write(disks.export_path(ONE), 0, b"mine")
        disks.remove(ONE, keep=True)
        kept = disks.overlay_path(ONE).parent / "kept" / f"{ONE}.qcow2"
        raw = daemon.folder / "kept.raw"
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", kept, raw], check=True)
        assert read(raw, 0, 8) == b"minebase"
        assert disks.observed() == {}

    def test_start_again_at_once_is_an_untouched_disk(self, disks: Overlays, spec: Callable[..., OverlaySpec]) -> None:
        for _ in range(5):
            disks.apply(spec())
            assert read(disks.export_path(ONE), 0, 4) == b"base"
            write(disks.export_path(ONE), 0, b"mine")
            disks.remove(ONE)

    def test_when_the_image_is_gone(self, disks: Overlays, spec: Callable[..., OverlaySpec], image: Path) -> None:
        disks.apply(spec())
        image.unlink()
        disks.remove(ONE)
        assert disks.observed() == {}


class TestObserved:
    def test_says_what_is_there(self, disks: Overlays, spec: Callable[..., OverlaySpec], image: Path) -> None:
        disks.apply(spec(ONE))
        disks.apply(spec(TWO))
        both = OverlaySeen(overlay=True, exported=True, base=image)
        assert disks.observed() == {ONE: both, TWO: both}

    def test_files_without_an_export_and_only_of_our_form(
        self, disks: Overlays, spec: Callable[..., OverlaySpec]
    ) -> None:
        folder = disks.overlay_path(ONE).parent
        for name in (
            f"{ONE}.raw",
            f"{TWO}.qcow2",
            "machine-3-00000000.qcow2.new",
            "iqn.2025-01.lab:m1.qcow2",
            f"{ONE}.txt",
        ):
            (folder / name).touch()
        (folder / "kept").mkdir()
        nothing = OverlaySeen(overlay=False, exported=False)
        assert disks.observed() == {ONE: nothing, TWO: nothing, "machine-3-00000000": nothing}
        for target_id in disks.observed():
            disks.remove(target_id)
        assert {path.name for path in folder.iterdir()} == {"iqn.2025-01.lab:m1.qcow2", f"{ONE}.txt", "kept"}

    def test_an_unmounted_export_is_not_healthy_and_apply_mends_it(
        self, disks: Overlays, spec: Callable[..., OverlaySpec], image: Path
    ) -> None:
        disks.apply(spec())
        write(disks.export_path(ONE), 0, b"mine")
        subprocess.run(["umount", "--lazy", disks.export_path(ONE)], check=True)
        assert disks.observed() == {ONE: OverlaySeen(overlay=True, exported=False, base=image)}
        with pytest.raises(AdapterError, match="is not exported"):
            disks.size(ONE)
        disks.apply(spec())
        assert read(disks.export_path(ONE), 0, 4) == b"mine"


class TestCrash:
    def test_daemon_killed(
        self, daemon: Daemon, disks: Overlays, spec: Callable[..., OverlaySpec], image: Path
    ) -> None:
        disks.apply(spec(ONE))
        disks.apply(spec(TWO))
        write(disks.export_path(ONE), 0, b"mine")
        daemon.stop(signal.SIGKILL)
        with pytest.raises(OSError, match="Transport endpoint"):
            read(disks.export_path(TWO), 0, 1)
        with pytest.raises(AdapterError, match="start the unit"):
            disks.ping()
        daemon.start()
        disks.ping()
        disks.apply(spec(ONE))
        assert read(disks.export_path(ONE), 0, 4) == b"mine"
        assert disks.observed() == {
            ONE: OverlaySeen(overlay=True, exported=True, base=image),
            TWO: OverlaySeen(overlay=True, exported=False, base=image),
        }
        disks.remove(TWO)
        assert set(disks.observed()) == {ONE}

    def test_verbs_wait_for_a_daemon_that_comes_back(
        self,
        daemon: Daemon,
        disks: Overlays,
        spec: Callable[..., OverlaySpec],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(qmp, "RESTART_SECONDS", PATIENCE)
        disks.apply(spec())
        daemon.stop(signal.SIGKILL)
        restart = threading.Timer(1, daemon.start)
        restart.start()
        disks.apply(spec())
        restart.join()
        assert read(disks.export_path(ONE), 0, 4) == b"base"

    def test_a_hung_daemon_is_an_error_in_time(
        self, daemon: Daemon, disks: Overlays, spec: Callable[..., OverlaySpec]
    ) -> None:
        hasty = Overlays(daemon.folder / "disks", daemon.socket, timeout=0.3)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)
        for verb in (hasty.ping, hasty.observed, lambda: hasty.apply(spec()), lambda: hasty.remove(ONE)):
            with pytest.raises(AdapterError, match=r"did not answer .* within 0.3 s"):
                verb()
        daemon.process.send_signal(signal.SIGCONT)
        disks.apply(spec())

    @pytest.mark.parametrize("commands", range(4))
    def test_apply_and_remove_after_each_half_done_apply(
        self, daemon: Daemon, disks: Overlays, spec: Callable[..., OverlaySpec], commands: int
    ) -> None:
        """What a kill -9 of the service between two commands leaves: the image open, the overlay open, …"""
        for finish in (lambda: disks.apply(spec()), lambda: disks.remove(ONE)):
            self.half_apply(daemon, disks, spec(), commands)
            finish()
            disks.apply(spec())
            assert read(disks.export_path(ONE), 0, 4) == b"base"
            disks.remove(ONE)
            assert daemon.nodes() <= {"image"}
            with Qmp(daemon.socket, PATIENCE).talk() as talk:
                talk.run(("blockdev-del", {"node-name": "image"}))

    @pytest.mark.parametrize("commands", range(4))
    def test_files_deleted_behind_our_back(
        self, daemon: Daemon, disks: Overlays, spec: Callable[..., OverlaySpec], commands: int
    ) -> None:
        self.half_apply(daemon, disks, spec(), commands)
        if commands == 3:
            write(disks.export_path(ONE), 0, b"gone")
        disks.overlay_path(ONE).unlink()
        disks.apply(spec())
        assert read(disks.export_path(ONE), 0, 4) == b"base"
        write(disks.export_path(ONE), 0, b"mine")
        disks.remove(ONE, keep=True)
        assert (disks.overlay_path(ONE).parent / "kept" / f"{ONE}.qcow2").stat().st_blocks > 8

    def test_half_an_overlay_is_made_anew(self, disks: Overlays, spec: Callable[..., OverlaySpec]) -> None:
        disks.overlay_path(ONE).write_bytes(b"QFI\xfb")
        disks.apply(spec())
        assert read(disks.export_path(ONE), 0, 4) == b"base"

    def test_an_image_left_open_is_closed(
        self, daemon: Daemon, disks: Overlays, spec: Callable[..., OverlaySpec], image: Path
    ) -> None:
        with Qmp(daemon.socket, PATIENCE).talk() as talk:
            talk.do(
                "blockdev-add", {"driver": "file", "node-name": "base-left", "filename": str(image), "read-only": True}
            )
        disks.apply(spec())
        assert "base-left" not in daemon.nodes()

    def half_apply(self, daemon: Daemon, disks: Overlays, spec: OverlaySpec, commands: int) -> None:
        overlay = disks.overlay_path(spec.target_id)
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", spec.base, "-F", "raw", overlay]
        subprocess.run(create, check=True)
        disks.export_path(spec.target_id).touch()
        file = {"driver": "file", "filename": str(overlay)}
        image = {"driver": "file", "filename": str(spec.base), "read-only": True}
        mountpoint = str(disks.export_path(spec.target_id))
        with Qmp(daemon.socket, PATIENCE).talk() as talk:
            for name, arguments in [
                ("blockdev-add", {"driver": "raw", "node-name": "image", "read-only": True, "file": image}),
                ("blockdev-add", {"driver": "qcow2", "node-name": spec.target_id, "file": file, "backing": "image"}),
                (
                    "block-export-add",
                    {
                        "type": "fuse",
                        "id": spec.target_id,
                        "node-name": spec.target_id,
                        "mountpoint": mountpoint,
                        "writable": True,
                    },
                ),
            ][:commands]:
                talk.do(name, arguments)


class TestManyAtOnce:
    def test_a_hundred_starts_and_stops(
        self, daemon: Daemon, disks: Overlays, spec: Callable[..., OverlaySpec], image: Path
    ) -> None:
        """Two adapters stand for two processes of the service."""
        adapters = [disks, Overlays(daemon.folder / "disks", daemon.socket, timeout=PATIENCE)]
        names = [f"machine-{number}-00000000" for number in range(1, 101)]
        with ThreadPoolExecutor(50) as pool:
            list(pool.map(lambda pair: adapters[pair[0] % 2].apply(spec(pair[1])), enumerate(names)))
            assert disks.observed() == dict.fromkeys(names, OverlaySeen(overlay=True, exported=True, base=image))
            assert len(daemon.nodes()) == 101
            list(pool.map(lambda pair: adapters[pair[0] % 2].remove(pair[1]), enumerate(names)))
        assert disks.observed() == {}
        assert daemon.nodes() == set()


class TestQmp:
    def test_a_daemon_that_is_killed_in_the_conversation(self, daemon: Daemon) -> None:
        with pytest.raises(AdapterError, match="went away"), Qmp(daemon.socket, PATIENCE).talk() as talk:
            daemon.stop(signal.SIGKILL)
            talk.do("query-jobs")

    def test_a_daemon_that_hangs_up_before_its_greeting(self, tmp_path: Path) -> None:
        path = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
            with pytest.raises(AdapterError, match="it closed the connection"), Qmp(path, PATIENCE).talk(patience=0):
                pass

    def test_the_reply_to_a_client_that_was_killed_is_not_ours(self, tmp_path: Path) -> None:
        path = tmp_path / "s"

        def answer(server: socket.socket) -> None:
            with server.accept()[0].makefile("rw") as lines:
                print('{"QMP": {}}', file=lines, flush=True)
                for line in lines:
                    print('{"error": {"desc": "not yours"}, "id": -1}', file=lines)
                    print(json.dumps({"return": "yours", "id": json.loads(line)["id"]}), file=lines, flush=True)

        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            threading.Thread(target=answer, args=[server], daemon=True).start()
            with Qmp(path, PATIENCE).talk() as talk:
                assert talk.do("query-jobs") == "yours"

    def test_a_refusal_is_the_daemons_own_words(self, daemon: Daemon) -> None:
        words = "refused no-such: The command no-such has not been found"
        with pytest.raises(AdapterError, match=words), Qmp(daemon.socket, PATIENCE).talk() as talk:
            talk.do("no-such")
