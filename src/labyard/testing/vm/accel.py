"""KVM or software emulation. /dev/kvm may be there and yet boot nothing: so a guest is booted once, and that counts."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from labyard.testing.vm.cache import locked
from labyard.testing.vm.errors import VMError
from labyard.testing.vm.folders import RunFolder
from labyard.testing.vm.image import Image
from labyard.testing.vm.qemu import Hardware, Qemu, program
from labyard.testing.vm.snapshot import new_disk

CHOICES = ("auto", "kvm", "tcg")
TRIAL_SECONDS = 10.0
DEVICE = Path("/dev/kvm")


def choose(wanted: str, image: Image) -> str:
    """`kvm` or `tcg`. VMError: KVM was asked for by name and does not work, with the reason."""
    if wanted == "tcg":
        return "tcg"
    failure = _device_failure() or _verdict(image)
    if not failure:
        return "kvm"
    if wanted == "kvm":
        raise VMError(f"--vm-accel=kvm: {failure}")
    return "tcg"


def known(wanted: str, image: Image) -> str:
    """The same in words, for the header; nothing is booted to find out."""
    if wanted == "tcg":
        return "tcg"
    if failure := _device_failure():
        return f"tcg ({failure})"
    with locked("accel") as cache:
        verdict = _cached(cache / "accel.json", _key(image))
    if verdict is None:
        return f"{wanted} (KVM not tried yet)"
    return f"tcg (KVM: {verdict.splitlines()[0]})" if verdict else "kvm"


def _device_failure() -> str:
    if not DEVICE.exists():
        return f"no {DEVICE}"
    return "" if os.access(DEVICE, os.R_OK | os.W_OK) else f"{DEVICE} is not ours to open"


def _verdict(image: Image) -> str:
    """Why KVM does not work; empty when it does. One trial for each start of the host, QEMU and image."""
    key = _key(image)
    with locked("accel") as cache:
        file = cache / "accel.json"
        failure = _cached(file, key)
        if failure is None:
            failure = _trial(image)
            file.write_text(json.dumps({"key": key, "failure": failure}), encoding="utf-8")
        return failure


def _cached(file: Path, key: str) -> str | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return str(found["failure"]) if found["key"] == key else None
    except (OSError, ValueError, KeyError):
        return None


def _key(image: Image) -> str:
    host = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{host} {qemu_key()} {image.key}"


def qemu_key() -> str:
    """Another for each QEMU that is installed; asking it for its version would take longer."""
    path = Path(program()).resolve()
    found = path.stat()
    return hashlib.sha256(f"{path} {found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:16]


def _trial(image: Image) -> str:
    folder = RunFolder()
    try:
        qemu = Qemu(folder, image, Hardware("kvm"), new_disk(folder.path / "trial.qcow2"), restore=False)
        qemu.hello(TRIAL_SECONDS)
        qemu.stop()
    except VMError as error:
        return f"a guest did not come up within {TRIAL_SECONDS:g} s: {error}"
    finally:
        folder.remove()
    return ""
