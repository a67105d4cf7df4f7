"""The tgt backend against a real tgtd of its own: private management socket, loopback portal, libiscsi's clients."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from ports import free_port

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters.iscsi import Connection, Lun, TargetSpec
from labyard.netboot.adapters.tgt import NO_ADDRESS, Tgt
from labyard.netboot.adapters.tgt_wire import Code, Mode, Op, Wire, pack
from labyard.netboot.settings import Settings
from labyard.testing.waiting import PATIENCE, wait_until

TOOLS = Path(__file__).parents[3] / ".cache/tools/usr"
MB = 1 << 20


class Daemon:
    """A tgtd that nobody else speaks to."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.socket = folder / "socket.1"
        environment = os.environ | {
            "TGT_IPC_SOCKET": str(folder / "socket"),
            "LD_LIBRARY_PATH": ":".join(str(found) for found in TOOLS.glob("lib/*-linux-gnu")),
        }
        portal = f"portal=127.0.0.1:{self.port}"
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [_program("tgtd", "tgt"), "-f", "-C", "1", "-t", "2", "--iscsi", portal],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(self.answers, "tgtd listens")

    def answers(self) -> bool:
        assert self.process.poll() is None, "tgtd ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def login(self, spec: TargetSpec, lun: int = 1, initiator: str = "", secret: str = "") -> bool:
        """Log in as the spec says, or otherwise, and ask the LUN what it is."""
        url = f"iscsi://{self.url(spec, lun, secret)}"
        command = [_program("iscsi-inq", "libiscsi-bin"), "-i", initiator or spec.initiator, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert "VIRTUAL-DISK" in done.stdout or done.returncode != 0, done
        return done.returncode == 0

    def url(self, spec: TargetSpec, lun: int = 1, secret: str = "") -> str:
        return f"{spec.chap_user}%{secret or spec.chap_secret}@127.0.0.1:{self.port}/{spec.iqn}/{lun}"

    def disk(self, spec: TargetSpec, lun: int, *commands: str) -> subprocess.Popen[str]:
        """qemu-io on a LUN. It stays logged in until its input ends."""
        options = {"initiator-name": spec.initiator, "user": spec.chap_user, "password": spec.chap_secret}
        options |= {"transport": "tcp", "portal": f"127.0.0.1:{self.port}", "target": spec.iqn, "lun": str(lun)}
        image = "driver=raw,file.driver=iscsi," + ",".join(f"file.{name}={value}" for name, value in options.items())
        command = [_program("qemu-io", "qemu-utils, qemu-block-extra"), "--image-opts", image]
        for each in commands:
            command += ["-c", each]
        return subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def _program(name: str, package: str) -> str:
    unpacked = TOOLS / "sbin" / name
    found = str(unpacked) if unpacked.exists() else shutil.which(name)
    assert found, f"{name} is missing: run scripts/bootstrap, or: apt-get install {package}"
    return found


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    running = Daemon(tmp_path_factory.mktemp("tgtd"))
    yield running
    assert running.process.poll() is None, "tgtd did not live through the tests"
    running.stop()


@pytest.fixture
def settings(daemon: Daemon, tmp_path: Path) -> Settings:
    return Settings(
        tgt_socket=daemon.socket, state_dir=tmp_path, portal_ip="127.0.0.1", step_timeout_seconds=int(PATIENCE)
    )


@pytest.fixture
def tgt(settings: Settings) -> Iterator[Tgt]:
    backend = Tgt(settings)
    yield backend
    for iqn, seen in backend.observed().items():
        backend.remove(iqn, seen.chap_users[0] if seen.chap_users else "")
    for user in backend.accounts():
        backend.remove_account(user)


@pytest.fixture
def wire(daemon: Daemon) -> Wire:
    return Wire(daemon.socket, PATIENCE)


@pytest.fixture
def spec(settings: Settings, tmp_path: Path) -> TargetSpec:
    return make_spec(settings, tmp_path, 1)


def make_spec(settings: Settings, folder: Path, machine: int) -> TargetSpec:
    suffix = f"{machine:08x}"
    disk, seed = folder / f"machine-{machine}.raw", folder / f"machine-{machine}.seed"
    for path in (disk, seed):
        path.touch()
        os.truncate(path, MB)
    return TargetSpec(
        iqn=f"{settings.iqn_prefix}:target-machine-{machine}-{suffix}",
        initiator=f"{settings.iqn_prefix}:initiator-0011223344{machine:02x}",
        chap_user=f"s-{suffix}",
        chap_secret="Secret0123456789",
        luns=(Lun(1, disk), Lun(2, seed, readonly=True)),
    )


def tid(wire: Wire, spec: TargetSpec) -> int:
    return wire.show().tids[spec.iqn]


class TestApply:
    def test_client_with_name_and_secret_gets_both_disks(self, daemon: Daemon, tgt: Tgt, spec: TargetSpec) -> None:
        tgt.apply(spec)
        assert daemon.login(spec, 1) and daemon.login(spec, 2)
        assert not daemon.login(spec, 3)
        listed = subprocess.run(
            [_program("iscsi-ls", "libiscsi-bin"), "-i", spec.initiator, f"iscsi://127.0.0.1:{daemon.port}"],
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert spec.iqn in listed.stdout

    def test_disk_takes_writes_and_seed_refuses_them(self, daemon: Daemon, tgt: Tgt, spec: TargetSpec) -> None:
        tgt.apply(spec)
        written, _ = daemon.disk(spec, 1, "write -P 0x4c 4096 512", "flush").communicate(timeout=PATIENCE)
        assert "wrote 512/512" in written
        assert spec.luns[0].path.read_bytes()[4096:4608] == b"\x4c" * 512
        refused, _ = daemon.disk(spec, 2, "write -P 0x4c 0 512").communicate(timeout=PATIENCE)
        assert "wrote" not in refused
        assert not any(spec.luns[1].path.read_bytes())

    def test_strangers_stay_out(self, daemon: Daemon, tgt: Tgt, spec: TargetSpec, settings: Settings) -> None:
        tgt.apply(spec)
        assert not daemon.login(spec, secret="Secret9876543210")
        assert not daemon.login(spec, initiator=f"{settings.iqn_prefix}:initiator-ffffffffffff")
        url = f"iscsi://127.0.0.1:{daemon.port}/{spec.iqn}/1"
        bare = subprocess.run(["iscsi-inq", "-i", spec.initiator, url], capture_output=True, timeout=PATIENCE)
        assert bare.returncode != 0
        assert daemon.login(spec)

    def test_new_secret_ends_the_old_one(self, daemon: Daemon, tgt: Tgt, spec: TargetSpec) -> None:
        tgt.apply(spec)
        tgt.apply(replace(spec, chap_secret="AnotherSecret123"))
        assert not daemon.login(spec)
        assert daemon.login(spec, secret="AnotherSecret123")

    def test_again_keeps_target_and_session(self, daemon: Daemon, tgt: Tgt, spec: TargetSpec, wire: Wire) -> None:
        tgt.apply(spec)
        before, number = tgt.observed(), tid(wire, spec)
        client = daemon.disk(spec, 1)
        wait_until(lambda: tgt.observed()[spec.iqn].connections, "the client is there")
        tgt.apply(spec)
        assert tid(wire, spec) == number
        assert len(tgt.observed()[spec.iqn].connections) == 1
        out, _ = client.communicate("read 0 512\nquit\n", timeout=PATIENCE)
        assert "read 512/512" in out
        wait_until(lambda: tgt.observed() == before, "the client is gone")

    def test_tells_what_it_made(self, tgt: Tgt, spec: TargetSpec, wire: Wire) -> None:
        tgt.apply(spec)
        seen = tgt.observed()[spec.iqn]
        assert (seen.luns, seen.initiators, seen.chap_users) == (spec.luns, (spec.initiator,), (spec.chap_user,))
        assert seen.backing_ok and not seen.connections
        target = wire.show().target(spec.iqn)
        assert target and NO_ADDRESS in target.rules

    def test_refuses_what_tgtd_would_misread(self, tgt: Tgt, spec: TargetSpec, tmp_path: Path) -> None:
        comma = tmp_path / "a,b"
        comma.write_bytes(bytes(512))
        for wrong, says in (
            (replace(spec, iqn=spec.iqn + "_x"), "is no name"),
            (replace(spec, luns=(Lun(0, spec.luns[0].path),)), "0 is the controller"),
            (replace(spec, luns=(Lun(1, tmp_path / "none"),)), "No such file"),
            (replace(spec, luns=(Lun(1, comma),)), "comma"),
            (replace(spec, chap_user="root"), "s-<8 hex digits>"),
            (replace(spec, chap_secret="with,comma"), "password"),
        ):
            with pytest.raises(AdapterError, match=says) as error:
                tgt.apply(wrong)
            assert "with,comma" not in str(error.value)


class TestRepair:
    """From each half-done or spoiled state, `apply` makes the target right and `observed` would have told."""

    def half_target(self, wire: Wire, spec: TargetSpec) -> None:
        wire.call("", pack(Mode.TARGET, Op.NEW, {"targetname": spec.iqn}, tid=900))

    def half_disk(self, wire: Wire, spec: TargetSpec) -> None:
        self.half_target(wire, spec)
        wire.call("", pack(Mode.LUN, Op.NEW, {"path": str(spec.luns[0].path)}, tid=900, lun=1))

    def half_account(self, wire: Wire, spec: TargetSpec) -> None:
        self.half_disk(wire, spec)
        account = {"user": spec.chap_user, "password": "OldOldOldOldOld1"}
        wire.call("", pack(Mode.ACCOUNT, Op.NEW, account))

    def wrong_file(self, wire: Wire, spec: TargetSpec) -> None:
        wire.call("", pack(Mode.LUN, Op.DELETE, tid=tid(wire, spec), lun=1))
        wire.call("", pack(Mode.LUN, Op.NEW, {"path": str(spec.luns[1].path)}, tid=tid(wire, spec), lun=1))

    def writable_seed(self, wire: Wire, spec: TargetSpec) -> None:
        wire.call("", pack(Mode.LUN, Op.UPDATE, {"readonly": "0"}, tid=tid(wire, spec), lun=2))

    def open_to_all(self, wire: Wire, spec: TargetSpec) -> None:
        wire.call("", pack(Mode.TARGET, Op.BIND, {"initiator-address": "ALL"}, tid=tid(wire, spec)))

    def no_account(self, wire: Wire, spec: TargetSpec) -> None:
        wire.call("", pack(Mode.ACCOUNT, Op.DELETE, {"user": spec.chap_user}))

    def second_account(self, wire: Wire, spec: TargetSpec) -> None:
        account = {"user": "s-ffffffff", "password": "OldOldOldOldOld1"}
        wire.call("", pack(Mode.ACCOUNT, Op.NEW, account), Code.USER_EXIST)
        wire.call("", pack(Mode.ACCOUNT, Op.BIND, {"user": "s-ffffffff"}, tid=tid(wire, spec)))

    def offline(self, wire: Wire, spec: TargetSpec) -> None:
        wire.call("", pack(Mode.TARGET, Op.UPDATE, {"state": "offline"}, tid=tid(wire, spec)))

    def replaced_file(self, wire: Wire, spec: TargetSpec) -> None:
        other = spec.luns[0].path.with_suffix(".new")
        other.write_bytes(bytes(MB))
        other.replace(spec.luns[0].path)

    @pytest.mark.parametrize("state", ["half_target", "half_disk", "half_account"])
    def test_half_done(self, state: str, daemon: Daemon, tgt: Tgt, spec: TargetSpec, wire: Wire) -> None:
        getattr(self, state)(wire, spec)
        self.mend(daemon, tgt, spec)

    @pytest.mark.parametrize(
        "state",
        ["wrong_file", "writable_seed", "open_to_all", "no_account", "second_account", "offline", "replaced_file"],
    )
    def test_spoiled(self, state: str, daemon: Daemon, tgt: Tgt, spec: TargetSpec, wire: Wire) -> None:
        tgt.apply(spec)
        right = tgt.observed()[spec.iqn]
        getattr(self, state)(wire, spec)
        assert tgt.observed()[spec.iqn] != right
        self.mend(daemon, tgt, spec)

    def mend(self, daemon: Daemon, tgt: Tgt, spec: TargetSpec) -> None:
        tgt.apply(spec)
        seen = tgt.observed()[spec.iqn]
        assert (seen.luns, seen.initiators, seen.chap_users) == (spec.luns, (spec.initiator,), (spec.chap_user,))
        assert seen.backing_ok
        assert daemon.login(spec, 1) and daemon.login(spec, 2)
        assert not daemon.login(spec, secret="OldOldOldOldOld1")
        assert not daemon.login(spec, initiator="iqn.2025-01.lab.labyard:initiator-ffffffffffff")

    def test_deleted_file_is_noticed(self, tgt: Tgt, spec: TargetSpec) -> None:
        tgt.apply(spec)
        spec.luns[0].path.unlink()
        assert not tgt.observed()[spec.iqn].backing_ok


class TestRemove:
    def test_takes_all_and_may_be_repeated(self, daemon: Daemon, tgt: Tgt, spec: TargetSpec) -> None:
        tgt.apply(spec)
        for _ in range(2):
            tgt.remove(spec.iqn, spec.chap_user)
            assert not tgt.observed() and not tgt.accounts()
        assert not daemon.login(spec)
        held = {os.path.realpath(entry) for entry in Path(f"/proc/{daemon.process.pid}/fd").iterdir()}
        assert str(spec.luns[0].path) not in held

    def test_drops_a_client_that_is_logged_in(self, daemon: Daemon, tgt: Tgt, spec: TargetSpec) -> None:
        tgt.apply(spec)
        client = daemon.disk(spec, 1)
        wait_until(lambda: tgt.observed()[spec.iqn].connections, "the client is there")
        assert tgt.observed()[spec.iqn].connections == (Connection(spec.initiator, "127.0.0.1"),)
        tgt.remove(spec.iqn, spec.chap_user)
        assert spec.iqn not in tgt.observed()
        client.kill()
        client.communicate()

    def test_drops_clients_under_load(self, daemon: Daemon, tgt: Tgt, settings: Settings, tmp_path: Path) -> None:
        specs = [make_spec(settings, tmp_path, machine) for machine in (1, 2, 3)]
        for spec in specs:
            tgt.apply(spec)
        perf = _program("iscsi-perf", "libiscsi-bin")
        clients = [
            subprocess.Popen(
                [perf, "-i", spec.initiator, "-m", "32", "-b", "64", "-r", f"iscsi://{daemon.url(spec)}"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for spec in specs
        ]  # fmt: skip
        try:
            wait_until(lambda: all(seen.connections for seen in tgt.observed().values()), "the clients are there")
            time.sleep(0.3)
            for spec in specs:
                tgt.remove(spec.iqn, spec.chap_user)
            assert not tgt.observed() and not tgt.accounts()
            assert daemon.process.poll() is None
        finally:
            for client in clients:
                client.kill()
                client.wait()

    def test_leaves_other_targets_alone(self, daemon: Daemon, tgt: Tgt, settings: Settings, tmp_path: Path) -> None:
        first, eleventh = make_spec(settings, tmp_path, 1), make_spec(settings, tmp_path, 11)
        tgt.apply(first)
        tgt.apply(eleventh)
        tgt.remove(first.iqn, first.chap_user)
        assert set(tgt.observed()) == {eleventh.iqn}
        assert daemon.login(eleventh)

    def test_account_without_target(self, tgt: Tgt, wire: Wire) -> None:
        for user in ("s-0000abcd", "labyard"):
            wire.call("", pack(Mode.ACCOUNT, Op.NEW, {"user": user, "password": "Secret0123456789"}))
        assert tgt.accounts() == {"s-0000abcd"}
        for _ in range(2):
            tgt.remove_account("s-0000abcd")
            assert tgt.accounts() == set()
        wire.call("", pack(Mode.ACCOUNT, Op.DELETE, {"user": "labyard"}))

    def test_account_beside_others_is_not_deleted(self, tgt: Tgt, spec: TargetSpec, wire: Wire) -> None:
        tgt.apply(spec)
        TestRepair().second_account(wire, spec)
        with pytest.raises(AdapterError, match="beside s-ffffffff"):
            tgt.remove_account(spec.chap_user)


class TestTogether:
    def test_many_writers(self, daemon: Daemon, settings: Settings, tmp_path: Path, tgt: Tgt) -> None:
        specs = [make_spec(settings, tmp_path, machine) for machine in range(1, 41)]
        others = [Tgt(settings) for _ in range(4)]
        with ThreadPoolExecutor(40) as pool:
            list(pool.map(lambda job: others[job[0] % 4].apply(job[1]), enumerate(specs)))
            assert set(tgt.observed()) == {spec.iqn for spec in specs}
            assert daemon.login(specs[17])
            list(pool.map(lambda job: others[job[0] % 4].remove(job[1].iqn, job[1].chap_user), enumerate(specs)))
        assert not tgt.observed() and not tgt.accounts()

    def test_sees_only_names_of_its_form(self, tgt: Tgt, wire: Wire) -> None:
        name = "iqn.2025-01.lab.labyard:target-m1"
        wire.call("", pack(Mode.TARGET, Op.NEW, {"targetname": name}, tid=800))
        assert tgt.observed() == {}
        wire.call("", pack(Mode.TARGET, Op.DELETE, tid=800))


class TestNoAnswer:
    def test_not_running(self, tmp_path: Path) -> None:
        tgt = Tgt(Settings(tgt_socket=tmp_path / "none", state_dir=tmp_path))
        with pytest.raises(AdapterError, match=r"tgt does not answer on .*/none: No such file"):
            tgt.ping()

    def test_silent_and_hanging_up(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        tgt = Tgt(Settings(tgt_socket=path, state_dir=tmp_path, step_timeout_seconds=0.6))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            with pytest.raises(AdapterError, match=r"silent for 0\.2 s"):
                tgt.observed()
        path.unlink()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            patient = Tgt(Settings(tgt_socket=path, state_dir=tmp_path, step_timeout_seconds=3 * PATIENCE))
            with ThreadPoolExecutor(1) as pool:
                pool.submit(lambda: server.accept()[0].close())
                with pytest.raises(AdapterError, match=r"hung up|Broken pipe|reset"):
                    patient.ping()

    def test_answers(self, tgt: Tgt) -> None:
        tgt.ping()
