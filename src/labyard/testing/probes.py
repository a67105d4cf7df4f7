"""Real protocol clients, run on a host inside the lab: udhcpc, tftp-hpa, libiscsi and QEMU's iSCSI driver.

Nothing is sent from this machine: the clients run on a lab host of the group `probes` (role `probe`).
"""

from __future__ import annotations

import base64
import secrets
import shlex
from dataclasses import dataclass, field

from labyard.lab import LabHost

# udhcpc starts its script with the event as argument and the lease in the environment.
_UDHCPC_SCRIPT = '#!/bin/sh\n[ "$1" = bound ] && env | grep -E "^[a-z0-9_]+=" > "$LEASE_FILE"\nexit 0\n'


class ProbeError(Exception):
    """A client was refused or got no answer; the message is what the client said."""


@dataclass(frozen=True)
class Lease:
    """What a DHCP server handed out."""

    address: str
    server: str
    next_server: str
    boot_file: str
    hostname: str
    seconds: int
    options: dict[str, str] = field(repr=False)


class DhcpProbe:
    """A DHCP client with a MAC address of its own (RFC 2131), on a macvlan interface over the lab segment's."""

    def __init__(self, host: LabHost, interface: str) -> None:
        self.host = host
        self.interface = interface

    def exchange(self, mac: str, *, arch: int | None = None, user_class: str = "", seconds: int = 30) -> Lease:
        """Discover, request and bind an address.

        arch is the client system architecture of option 93 (RFC 4578: 0 BIOS, 7 UEFI x64), user_class option 77,
        seconds how long to wait for an answer. ProbeError when none comes.
        """
        options = []
        if arch is not None:
            options += ["-V", f"PXEClient:Arch:{arch:05d}:UNDI:002001", "-x", f"0x5d:{arch:04x}"]
        if user_class:
            options += ["-x", "0x4d:" + user_class.encode().hex()]
        name = f"dhcp{secrets.token_hex(4)}"
        folder = f"/var/tmp/{name}"  # /run may forbid running the script
        client = (
            f"LEASE_FILE={folder}/lease udhcpc -f -q -n -t {max(seconds, 1)} -T 1 -i {name} "
            f"-s {folder}/script -O bootfile -O tftp -O hostname {shlex.join(options)}"
        )
        result = self.host.run(
            f"""
            mkdir {folder}
            trap 'ip link delete {name} 2>/dev/null; rm -rf {folder}' EXIT
            printf %s {shlex.quote(_UDHCPC_SCRIPT)} > {folder}/script && chmod +x {folder}/script
            ip link add link {self.interface} name {name} address {mac} type macvlan mode bridge &&
            ip link set {name} up &&
            {client} >&2 &&
            cat {folder}/lease
            """
        )
        if result.rc != 0:
            raise ProbeError(f"no lease for {mac} on {self.interface}: {result.stderr.strip()}")
        found = dict(line.split("=", 1) for line in result.stdout.splitlines())
        return Lease(
            address=found["ip"],
            server=found.get("serverid", ""),
            next_server=found.get("siaddr", ""),
            boot_file=found.get("boot_file", ""),
            hostname=found.get("hostname", ""),
            seconds=int(found.get("lease", 0)),
            options=found,
        )


class TftpProbe:
    """A TFTP client (RFC 1350)."""

    def __init__(self, host: LabHost, server: str, port: int = 69) -> None:
        self.host = host
        self.server = server
        self.port = port

    def _transfer(self, verb: str, source: str, target: str) -> str:
        # The client exits with 0 whatever happens; what it prints tells.
        command = f"timeout 20 tftp -4 -m binary {self.server} {self.port} -c {verb} {shlex.quote(source)} {target}"
        return str(self.host.run(command).stdout).strip()

    def get(self, name: str) -> bytes:
        """Return the file's content. ProbeError says why the server refused."""
        folder = self.host.check("mktemp -d").strip()
        try:
            said = self._transfer("get", name, f"{folder}/file")
            if said:
                raise ProbeError(f"tftp get {name} from {self.server}: {said}")
            # Base64, since a shell's output is text.
            return base64.b64decode(self.host.check(f"base64 {folder}/file"))
        finally:
            self.host.run(f"rm -rf {folder}")

    def put(self, name: str, content: str) -> None:
        """Upload a file. ProbeError when the server refuses, as a read-only one must."""
        folder = self.host.check("mktemp -d").strip()
        try:
            self.host.check(f"printf %s {shlex.quote(content)} > {folder}/file")
            said = self._transfer("put", f"{folder}/file", shlex.quote(name))
            if said:
                raise ProbeError(f"tftp put {name} to {self.server}: {said}")
        finally:
            self.host.run(f"rm -rf {folder}")


@dataclass(frozen=True)
class IscsiProbe:
    """An iSCSI initiator (RFC 7143) with CHAP."""

    host: LabHost
    portal: str
    port: int = 3260
    initiator: str = "iqn.2025-01.lab.labyard:probe"
    user: str = ""
    secret: str = field(default="", repr=False)

    def _environment(self) -> str:
        if not self.user:
            return ""
        return f"LIBISCSI_CHAP_USERNAME={shlex.quote(self.user)} LIBISCSI_CHAP_PASSWORD={shlex.quote(self.secret)} "

    def inquiry(self, iqn: str, lun: int = 1) -> dict[str, str]:
        """Return the standard inquiry data (SPC-4 6.4.2) as libiscsi names them. ProbeError when login is refused."""
        url = f"iscsi://{self.portal}:{self.port}/{iqn}/{lun}"
        result = self.host.run(f"{self._environment()}timeout 20 iscsi-inq -i {self.initiator} {url}")
        # iscsi-inq exits with 0 on a failed login too in some versions.
        fields = dict(line.split(":", 1) for line in result.stdout.splitlines() if ":" in line)
        if result.rc != 0 or "Vendor" not in fields:
            raise ProbeError(f"inquiry of {iqn} at {self.portal}: {(result.stderr or result.stdout).strip()}")
        return {name.strip(): value.strip() for name, value in fields.items()}

    def _image(self, iqn: str, lun: int) -> str:
        options = {
            "driver": "iscsi",
            "transport": "tcp",
            "portal": f"{self.portal}:{self.port}",
            "target": iqn,
            "lun": str(lun),
            "initiator-name": self.initiator,
        }
        if self.user:
            options |= {"user": self.user, "password-secret": "chap"}
        return ",".join(f"{name}={value}" for name, value in options.items())

    def _qemu_io(self, iqn: str, lun: int, command: str) -> str:
        secret = f"--object secret,id=chap,data={shlex.quote(self.secret)} " if self.user else ""
        image = shlex.quote(self._image(iqn, lun))
        result = self.host.run(f"timeout 60 qemu-io {secret}--image-opts -c {shlex.quote(command)} {image}")
        if result.rc != 0 or "failed" in result.stdout:
            raise ProbeError(f"{command} on {iqn}: {(result.stderr or result.stdout).strip()}")
        return str(result.stdout)

    def read(self, iqn: str, offset: int, length: int, lun: int = 1) -> bytes:
        """Read bytes from the disk. ProbeError when login or the read is refused."""
        said = self._qemu_io(iqn, lun, f"read -v {offset} {length}")
        rows = [
            line.split(":", 1)[1].strip().split("  ")[0]
            for line in said.splitlines()
            if line[:8].isalnum() and ":" in line
        ]
        return bytes.fromhex("".join(rows))[:length]

    def write(self, iqn: str, offset: int, byte: int, length: int, lun: int = 1) -> None:
        """Fill a range of the disk with one byte value. ProbeError when login or the write is refused."""
        self._qemu_io(iqn, lun, f"write -P {byte:#x} {offset} {length}")
