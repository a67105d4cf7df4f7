"""Which domain type works on this host (contract section 5.1). That libvirt lists kvm does not prove that it boots."""

from __future__ import annotations

import json
import os
import time
import xml.etree.ElementTree as ET
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import libvirt

from labyard.core.adapter import AdapterError
from labyard.vms.adapters.libvirt_connection import asked

PROBE_LINE = "labyard-probe-ok"
PROBE_MIB = 256
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Probe:
    """The guest that proves KVM: it prints PROBE_LINE on its first serial port within `seconds`."""

    kernel: Path | None
    initrd: Path | None
    seconds: float


@dataclass(frozen=True)
class Accel:
    """The domain type in effect, `qemu` or `kvm`, why, and its CPU mode (empty: libvirt's default)."""

    domain_type: str
    reason: str
    cpu_mode: str


def resolve(connection: libvirt.virConnect, wanted: str, probe: Probe, folder: Path) -> Accel:
    """Make `qemu`, `kvm` or `auto` definite. `folder` takes the probe's result, kept for this host boot.

    AdapterError when `kvm` was demanded and is not there.
    """
    if wanted == "auto":
        domain_type, reason = _auto(connection, probe, folder)
    else:
        domain_type, reason = wanted, "set by VMAN_DOMAIN_TYPE"
        if wanted == "kvm" and (problem := _kvm_problem(connection)):
            raise AdapterError(f"VMAN_DOMAIN_TYPE is kvm, but virConnectGetDomainCapabilities failed: {problem}")
    return Accel(domain_type, reason, _cpu_mode(connection, domain_type))


def max_vcpus(connection: libvirt.virConnect, domain_type: str) -> int:
    """The most CPUs that the machine type can have."""
    return int(_capabilities(connection, domain_type).find("vcpu").get("max"))  # type: ignore[union-attr, arg-type]


def boots(connection: libvirt.virConnect, domain_type: str, cpu_mode: str, probe: Probe, folder: Path) -> str:
    """Boot the probe guest as a transient domain; why it failed, or an empty string when it said its line in time.

    AdapterError when libvirt cannot even start it.
    """
    assert probe.kernel and probe.initrd
    console = folder / f".accel-probe-{os.getpid()}.txt"
    console.unlink(missing_ok=True)
    xml = _probe_xml(domain_type, cpu_mode, probe, console)
    with asked("virDomainCreateXML"):
        # AUTODESTROY: it ends with our connection, also when we are killed.
        domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY)
    try:
        return _watch(domain, console, probe.seconds)
    finally:
        with suppress(libvirt.libvirtError):  # it powered itself off
            domain.destroy()
        console.unlink(missing_ok=True)


def _auto(connection: libvirt.virConnect, probe: Probe, folder: Path) -> tuple[str, str]:
    if problem := _kvm_problem(connection):
        return "qemu", f"libvirt does not offer kvm: {problem}"
    if not (probe.kernel and probe.initrd):
        return "qemu", "no probe guest is configured to prove kvm"
    cache = folder / ".accel.json"
    asked_for = [BOOT_ID.read_text().strip(), _identity(probe.kernel), _identity(probe.initrd), probe.seconds]
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(cache.read_text())
        if known["asked_for"] == asked_for:
            return known["domain_type"], known["reason"]
    try:
        problem = boots(connection, "kvm", "host-passthrough", probe, folder)
    except AdapterError as error:
        return "qemu", f"the probe guest was not tried: {error}"  # hence not kept: it may be tried another time
    result = ("kvm", "the probe guest boots")
    if problem:
        result = ("qemu", f"the probe guest does not boot under kvm: {problem}")
    written = cache.with_suffix(".part")
    written.write_text(json.dumps({"asked_for": asked_for, "domain_type": result[0], "reason": result[1]}))
    written.replace(cache)
    return result


def _identity(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError as error:
        return f"{path} {error.strerror}"
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"


def _capabilities(connection: libvirt.virConnect, domain_type: str) -> ET.Element:
    with asked("virConnectGetDomainCapabilities"):
        return ET.fromstring(connection.getDomainCapabilities(None, "x86_64", "q35", domain_type))


def _kvm_problem(connection: libvirt.virConnect) -> str:
    try:
        connection.getDomainCapabilities(None, "x86_64", "q35", "kvm")
    except libvirt.libvirtError as error:
        return str(error)
    return ""


def _cpu_mode(connection: libvirt.virConnect, domain_type: str) -> str:
    wanted = "host-passthrough" if domain_type == "kvm" else "maximum"
    mode = _capabilities(connection, domain_type).find(f"cpu/mode[@name='{wanted}']")
    return wanted if mode is not None and mode.get("supported") == "yes" else ""


def _probe_xml(domain_type: str, cpu_mode: str, probe: Probe, console: Path) -> str:
    domain = ET.Element("domain", type=domain_type)
    # Not with the prefix of our domains: nobody is to take it for a machine.
    ET.SubElement(domain, "name").text = f"accel-probe-{os.getpid()}"
    ET.SubElement(domain, "memory", unit="MiB").text = str(PROBE_MIB)
    ET.SubElement(domain, "vcpu").text = "1"
    system = ET.SubElement(domain, "os")
    ET.SubElement(system, "type", arch="x86_64", machine="q35").text = "hvm"
    ET.SubElement(system, "kernel").text = str(probe.kernel)
    ET.SubElement(system, "initrd").text = str(probe.initrd)
    ET.SubElement(system, "cmdline").text = "console=ttyS0 panic=-1"
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if cpu_mode:
        ET.SubElement(domain, "cpu", mode=cpu_mode)
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        ET.SubElement(domain, event).text = "destroy"
    serial = ET.SubElement(ET.SubElement(domain, "devices"), "serial", type="pty")
    ET.SubElement(serial, "target", port="0")
    ET.SubElement(serial, "log", file=str(console), append="off")
    return ET.tostring(domain, encoding="unicode")


def _watch(domain: libvirt.virDomain, console: Path, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while True:
        try:
            active = bool(domain.isActive())
        except libvirt.libvirtError:
            active = False  # a transient domain is gone once it ended
        text = console.read_text(errors="replace") if console.exists() else ""
        if PROBE_LINE in text:
            return ""
        if not active:
            return "it ended before it was up"
        if time.monotonic() >= deadline:
            return f"it was not up within {seconds:g} s"
        time.sleep(_POLL_SECONDS)
