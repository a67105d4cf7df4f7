"""ISC dhcpd's configuration as text: managed section, entries, base file (contract section 8). Pure functions."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from labyard.netboot.adapters.dhcp import Reservation
from labyard.netboot.settings import Settings

BEGIN = "# BEGIN labyard netboot"
END = "# END labyard netboot"

_ENTRY = re.compile(
    r"(?:^# machine (?P<machine>\d+), (?P<mode>\w+)\n)?"
    r"^host (?P<label>\S+) \{\n"
    r"  hardware ethernet (?P<mac>\S+);\n"
    r"(?:  fixed-address (?P<address>\S+);\n)?"
    r'  option host-name "[^"]*";\n'
    r"  next-server (?P<next_server>\S+);\n"
    r'  if exists user-class [^{]*\{ filename "(?P<file>[^"]*)"; \}\n'
    r'(?:  elsif substring[^{]*\{[^}]*filename "(?P<http>[^"]*)"; \}\n)?',
    re.MULTILINE,
)


def render_entry(entry: Reservation, uefi_secure_file: str = "boot/snponly.efi") -> str:
    """The host declaration of one machine, as contract section 8 has it, with a newline at its end."""
    lines = [f"host {entry.label} {{", f"  hardware ethernet {entry.mac};"]
    if entry.address:
        lines.append(f"  fixed-address {entry.address};")
    lines += [
        f'  option host-name "{entry.label}";',
        f"  next-server {entry.next_server};",
        f'  if exists user-class and option user-class = "iPXE" {{ filename "{entry.ipxe_file}"; }}',
    ]
    if entry.http_boot:
        lines.append(
            '  elsif substring (option vendor-class-identifier, 0, 10) = "HTTPClient" '
            f'{{ option vendor-class-identifier "HTTPClient"; filename "{entry.http_boot}"; }}'
        )
    if entry.boot_mode == "uefi_secure":
        lines.append(f'  else {{ filename "{uefi_secure_file}"; }}')
    return "\n".join([*lines, "}", ""])


def render_section(entries: Sequence[Reservation], uefi_secure_file: str = "boot/snponly.efi") -> str:
    """The managed section with its markers, sorted by machine id. What an entry cannot say stands in a comment."""
    parts = [
        f"# machine {entry.machine_id}, {entry.boot_mode}\n{render_entry(entry, uefi_secure_file)}"
        for entry in sorted(entries, key=lambda entry: entry.machine_id)
    ]
    return "\n".join([BEGIN, *(part.rstrip("\n") for part in parts), END])


def render_base(settings: Settings) -> str:
    """The file for a host that has none: the portal's /24 and the boot file by client, and an empty section."""
    network = ipaddress.IPv4Network(f"{settings.portal_ip}/24", strict=False)
    first, last = (part.strip() for part in settings.dhcp_range.split("-", 1))
    return f"""# Begun by the Labyard netboot service. Yours to edit, but for what stands between the two markers below.
authoritative;
default-lease-time 600;
max-lease-time 7200;
next-server {settings.portal_ip};

option arch code 93 = unsigned integer 16;
option space ipxe;
option ipxe-encap-opts code 175 = encapsulate ipxe;
option ipxe.no-pxedhcp code 176 = unsigned integer 8;
# iPXE would wait 3 s for a ProxyDHCP server otherwise.
option ipxe.no-pxedhcp 1;

# iPXE gets a script, firmware the iPXE program of its kind.
if exists user-class and option user-class = "iPXE" {{ filename "boot.ipxe"; }}
elsif option arch = 00:07 or option arch = 00:09 {{ filename "boot/snponly.efi"; }}
elsif option arch = 00:0b {{ filename "boot/snponly-arm64.efi"; }}
else {{ filename "boot/undionly.kpxe"; }}

subnet {network.network_address} netmask {network.netmask} {{
  range {first} {last};
}}

{BEGIN}
{END}
"""


def cut(text: str) -> tuple[str, str, str]:
    """The file before, inside and after the managed section, markers not included. ValueError when they are not right.

    A file without markers gets the section at its end.
    """
    lines = text.split("\n")
    begins = [number for number, line in enumerate(lines) if line.strip() == BEGIN]
    ends = [number for number, line in enumerate(lines) if line.strip() == END]
    if not begins and not ends:
        return text + ("\n" if text and not text.endswith("\n") else ""), "", "\n"
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
        raise ValueError(
            f"has {len(begins)} lines {BEGIN!r} and {len(ends)} lines {END!r}; "
            "it must have one of each, in this order, or neither"
        )
    before, after = lines[: begins[0]], lines[ends[0] + 1 :]
    return (
        "".join(line + "\n" for line in before),
        "\n".join(lines[begins[0] + 1 : ends[0]]),
        "".join("\n" + line for line in after),
    )


def read_section(section: str) -> list[Reservation]:
    """The entries of a managed section. An entry that a stranger put there has machine id 0."""
    return sorted(
        (
            Reservation(
                machine_id=int(found["machine"] or 0),
                label=found["label"],
                mac=found["mac"].upper(),
                address=found["address"],
                next_server=found["next_server"],
                ipxe_file=found["file"],
                boot_mode=found["mode"] or "",
                http_boot=found["http"] or "",
            )
            for found in _ENTRY.finditer(section)
        ),
        key=lambda entry: entry.machine_id,
    )


def conflicts(outside: str, entries: Sequence[Reservation]) -> dict[int, str]:
    """Entries that clash with what others wrote outside the section, by machine id. `dhcpd -t` accepts most of them."""
    text = re.sub(r"#.*", "", outside)
    hosts = {name.lower() for name in re.findall(r"\bhost\s+(\S+)\s*\{", text)}
    macs = {mac.lower() for mac in re.findall(r"\bhardware\s+ethernet\s+([0-9A-Fa-f:]+)\s*;", text)}
    fixed = {
        address.strip() for group in re.findall(r"\bfixed-address\s+([^;]+);", text) for address in group.split(",")
    }
    nets = [
        ipaddress.IPv4Network("/".join(pair)) for pair in re.findall(r"\bsubnet\s+([\d.]+)\s+netmask\s+([\d.]+)", text)
    ]
    # Subnets may stand in a file that is included; then only dhcpd knows.
    known = not re.search(r"\binclude\s+\"", text)
    found = {}
    for entry in entries:
        taken = [
            f"{what} {value}"
            for what, value, others in (
                ("label", entry.label, hosts),
                ("MAC address", entry.mac, macs),
                ("address", entry.address, fixed),
            )
            if value is not None and value.lower() in others
        ]
        if taken:
            found[entry.machine_id] = (
                f"{' and '.join(taken)} is used by another host outside the managed section of dhcpd's configuration; "
                "change one of them"
            )
        elif entry.address and known and not any(ipaddress.IPv4Address(entry.address) in net for net in nets):
            found[entry.machine_id] = (
                f"address {entry.address} of {entry.mac} is in none of dhcpd's subnets "
                f"({', '.join(map(str, nets)) or 'none'}); give the machine another address or add the subnet"
            )
    return found
