"""What is decided without a VM: the accelerator, the snapshot's key, whether there is memory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from labyard.testing.vm import accel, cache, memory, snapshot
from labyard.testing.vm.errors import VMError, VMUnavailable
from labyard.testing.vm.image import Image
from labyard.testing.vm.qemu import Hardware, Nic
from labyard.testing.vm.session import Wires
from labyard.testing.vm.snapshot import Content, base_key
from labyard.testing.vm.vm import time_scale

IMAGE = Image(Path("/image"), {"kernel": "6.1.0-test", "files": {"vmlinux": {"sha256": "a", "size": 1}}})
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABYARD_VM_CACHE", str(tmp_path / "cache"))


class TestAccelerator:
    @pytest.fixture
    def trials(self, monkeypatch, tmp_path):
        device = tmp_path / "kvm"
        device.touch()
        monkeypatch.setattr(accel, "DEVICE", device)
        monkeypatch.setattr(accel, "qemu_key", lambda: "qemu")
        tried = []
        outcome = {"failure": "silent\nserial log"}

        def trial(image):
            tried.append(image)
            return outcome["failure"]

        monkeypatch.setattr(accel, "_trial", trial)
        return tried, outcome

    def test_auto_falls_back_and_remembers(self, trials):
        assert accel.known("auto", IMAGE) == "auto (KVM not tried yet)"
        assert [accel.choose("auto", IMAGE), accel.choose("auto", IMAGE)] == ["tcg", "tcg"]
        assert len(trials[0]) == 1
        assert accel.known("auto", IMAGE) == "tcg (KVM: silent)"

    def test_kvm_by_name_is_an_error_when_it_fails(self, trials):
        with pytest.raises(VMError, match="--vm-accel=kvm: silent"):
            accel.choose("kvm", IMAGE)

    def test_kvm_when_it_works(self, trials):
        trials[1]["failure"] = ""
        assert accel.choose("auto", IMAGE) == accel.choose("kvm", IMAGE) == "kvm"
        assert accel.known("auto", IMAGE) == "kvm"

    def test_another_image_is_another_trial(self, trials):
        accel.choose("auto", IMAGE)
        accel.choose("auto", replace(IMAGE, manifest={"files": {"vmlinux": {"sha256": "b", "size": 1}}}))
        assert len(trials[0]) == 2

    def test_tcg_tries_nothing(self, trials):
        assert accel.choose("tcg", IMAGE) == accel.known("tcg", IMAGE) == "tcg"
        assert trials[0] == []

    def test_no_device(self, trials, monkeypatch, tmp_path):
        monkeypatch.setattr(accel, "DEVICE", tmp_path / "none")
        assert accel.choose("auto", IMAGE) == "tcg"
        with pytest.raises(VMError, match=r"no .*none"):
            accel.choose("kvm", IMAGE)
        assert trials[0] == []

    def test_the_time_scale(self, monkeypatch):
        monkeypatch.delenv("LABYARD_VM_TIME_SCALE", raising=False)
        assert (time_scale("kvm"), time_scale("tcg")) == (1, 3)
        monkeypatch.setenv("LABYARD_VM_TIME_SCALE", "2.5")
        assert time_scale("kvm") == 2.5


class TestSnapshotKey:
    HARDWARE = Hardware("tcg")
    CONTENT = Content({"/a": b"a"}, ("true",), {"/a": "digest"})

    def test_the_same_gives_the_same(self):
        assert self.key() == self.key()

    @pytest.mark.parametrize(
        "other",
        [
            {"image": replace(IMAGE, manifest={"files": {"vmlinux": {"sha256": "b", "size": 1}}})},
            {"hardware": Hardware("kvm")},
            {"hardware": Hardware("tcg", memory=1024)},
            {"hardware": Hardware("tcg", cpus=1)},
            {"hardware": Hardware("tcg", kernel_args="debug")},
            {"content": Content({"/a": b"b"}, ("true",), {"/a": "other"})},
            {"content": Content({"/b": b"a"}, ("true",), {"/b": "digest"})},
            {"content": Content({"/a": b"a"}, ("false",), {"/a": "digest"})},
            {"qemu": "other"},
        ],
        ids=["image", "accelerator", "memory", "cpus", "kernel line", "content", "path", "warm-up", "qemu"],
    )
    def test_whatever_makes_another_snapshot_gives_another(self, other):
        assert self.key(**other) != self.key()

    def key(self, image=IMAGE, hardware=HARDWARE, content=CONTENT, qemu="qemu"):
        return base_key(image, hardware, content, qemu)


def test_old_snapshots_go(tmp_path):
    for number in range(9):
        disk = tmp_path / f"{number}.qcow2"
        disk.touch()
        disk.with_suffix(".json").touch()
        os.utime(disk, (number, number))
    (tmp_path / "killed.part").touch()
    snapshot._prune(tmp_path, tmp_path / "0.qcow2")
    assert not (tmp_path / "killed.part").exists()
    assert sorted(path.name for path in tmp_path.glob("*.qcow2")) == [
        "0.qcow2",
        "3.qcow2",
        "4.qcow2",
        "5.qcow2",
        "6.qcow2",
        "7.qcow2",
        "8.qcow2",
    ]
    assert {path.stem for path in tmp_path.glob("*.json")} == {path.stem for path in tmp_path.glob("*.qcow2")}


class TestMemory:
    @pytest.fixture
    def machine(self, monkeypatch):
        """10 GiB available; guests as (MiB, bytes that they hold)."""
        guests: list[tuple[int, int]] = []
        monkeypatch.setattr(memory, "available", lambda: 10240 * MIB)
        monkeypatch.setattr(
            memory, "live", lambda: [(Path(str(n)), {"memory": size, "pid": n}) for n, (size, _) in enumerate(guests)]
        )
        monkeypatch.setattr(memory, "rss", lambda pid: guests[pid][1])
        monkeypatch.setattr(memory, "STEP", 0.01)
        return guests

    @pytest.mark.parametrize(
        ("guests", "wanted", "fits"),
        [
            ([], 8192, True),
            ([], 8193, False),
            ([(2048, 0)] * 3, 2048, True),
            ([(2048, 0)] * 4, 2048, False),
            # What they hold is no longer available, and theirs already.
            ([(2048, 2048 * MIB)] * 4, 2048, True),
        ],
    )
    def test_a_share_of_what_is_available(self, machine, guests, wanted, fits):
        machine += guests
        assert memory.room(wanted)[0] is fits

    def test_waits_until_another_has_ended(self, machine, monkeypatch):
        machine += [(8000, 0)]
        looks = []

        def sleep(seconds):
            looks.append(seconds)
            if len(looks) == 3:
                machine.clear()

        monkeypatch.setattr(memory.time, "sleep", sleep)
        assert memory.when_it_fits(1000, lambda: len(looks)) == 3

    def test_what_never_fits_is_said_at_once(self, machine):
        with pytest.raises(VMUnavailable, match="no memory for a VM of 9000 MiB: 10240 MiB are available"):
            memory.when_it_fits(9000, lambda: None)

    def test_so_is_what_never_fits_beside_our_own(self, machine, monkeypatch):
        machine += [(8000, 0)]
        monkeypatch.setattr(memory, "live", lambda: [(Path("0"), {"memory": 8000, "pid": 0, "owner": os.getpid()})])
        with pytest.raises(VMUnavailable, match="no memory for a VM of 1000 MiB"):
            memory.when_it_fits(1000, lambda: None)


class TestCommandLine:
    def test_no_network_unless_asked_for(self):
        words = Hardware("tcg").arguments(IMAGE, Path("/s"))
        assert "-nodefaults" in words
        assert not any("net" in word for word in words)

    def test_cpu_host_is_for_kvm_only(self):
        assert "host" not in Hardware("tcg").arguments(IMAGE, Path("/s"))
        assert "host" in Hardware("kvm").arguments(IMAGE, Path("/s"))

    def test_a_comma_in_a_path(self):
        words = Hardware("tcg").arguments(replace(IMAGE, folder=Path("/a,b")), Path("/s"))
        assert "file=/a,,b/root.ext4,format=raw,if=none,id=root,readonly=on" in words

    def test_cards_of_one_network_differ_and_meet(self):
        wires = Wires()
        one, two, other = wires.nic("lan"), wires.nic("lan"), wires.nic("wan")
        assert (one.group, one.port) == (two.group, two.port) != (other.group, other.port)
        assert len({one.mac, two.mac, other.mac}) == 3
        words = Hardware("tcg", nics=(Nic("52:54:00:00:00:01", "239.1.2.3", 20000),)).arguments(IMAGE, Path("/s"))
        assert "socket,id=nic0,mcast=239.1.2.3:20000,localaddr=127.0.0.1" in words


def test_a_cache_that_cannot_be_made(monkeypatch):
    monkeypatch.setenv("LABYARD_VM_CACHE", "/proc/none")
    with pytest.raises(VMError, match="LABYARD_VM_CACHE"):
        cache.folder()
