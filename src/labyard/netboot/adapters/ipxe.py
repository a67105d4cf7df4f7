"""iPXE scripts: made and checked (contract section 7). Pure text; the TFTP adapter puts it in place."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from labyard.netboot.adapters.reservations import is_ipv4
from labyard.netboot.adapters.tftp import MARKER
from labyard.netboot.models import BootMethod, Transport
from labyard.netboot.names import iqn_error, san_uri, script_filename

_MENU = """\
menu {title}
item retry Try again
item local Boot from local disk
item shell iPXE shell
item restart Reboot
choose --default retry --timeout 15000 sel || goto retry
goto ${{sel}}
:retry
sleep 5
goto attempt
:local
exit 0
:shell
shell
goto failed
:restart
reboot
"""

_GENERIC = """\
#!ipxe
echo Welcome to Labyard netboot
:attempt
echo MAC ${{net0/mac}} address ${{net0/ip}}
chain --autofree tftp://${{next-server}}/machines/${{net0/mac:hexhyp}}.ipxe || goto failed
exit 0
:failed
"""

_MACHINE = """\
#!ipxe
{marker}machine {machine_id}, session {session_id}
set event-url {event_url}
echo Booting {machine_name}
imgfetch --name ev --timeout 2000 ${{event-url}}/ipxe_load && imgfree ev || echo Event not sent
set initiator-iqn {initiator}
set username {chap_user}
set password {chap_secret}
:attempt
{boot}
:failed
imgfetch --name ev --timeout 2000 ${{event-url}}/boot_failed && imgfree ev || echo Event not sent
"""

KERNEL, INITRD, KERNEL_OPTIONS = "vmlinuz", "initrd.img", "cmdline"  # files of an image below boot/

_NOT_IN_ROM = {"console", "poweroff", "ntp"}
_NEEDS_FALLBACK = {"sanboot", "sanhook", "chain", "imgfetch", "choose", "kernel", "initrd", "boot"}
# The variables that our scripts use; any other `${` came from somebody's data.
_OUR_VARIABLES = {"event-url", "net0/mac", "net0/ip", "net0/mac:hexhyp", "next-server", "sel"}
_SAN = re.compile(r"iscsi:(?P<ip>\d{1,3}(?:\.\d{1,3}){3})::(?P<port>\d{1,5}):(?P<lun>[0-9a-f]{1,4}):(?P<iqn>\S+)")


@dataclass(frozen=True)
class ScriptSpec:
    """What a machine's script is made of."""

    machine_id: int
    machine_name: str
    session_id: str
    event_url: str
    initiator: str
    chap_user: str
    chap_secret: str = field(repr=False)
    portal_ip: str
    portal_port: int
    lun: int
    iqn: str
    method: str = BootMethod.SANBOOT
    transport: str = Transport.TFTP
    boot_files: str = ""  # where kernel and initrd are: a folder's address for iPXE, for methods other than sanboot
    kernel_options: str = ""


@dataclass(frozen=True)
class ScriptError:
    """One thing wrong in a script. `line` counts from 1."""

    line: int
    code: str
    message: str


def generate_machine_script(spec: ScriptSpec) -> str:
    """The script of one session. Names are checked where they come in; `validate` checks the result."""
    uri = san_uri(spec.portal_ip, spec.portal_port, spec.lun, spec.iqn)
    if spec.method == BootMethod.SANBOOT:
        boot = [f"sanboot {uri} || goto failed"]
    else:
        # What an attempt before this one left is freed first, or "Try again" would fail.
        boot = ["imgfree || goto failed"]
        if spec.method == BootMethod.ISCSI_ROOT:
            boot += ["sanunhook || goto failed", f"sanhook {uri} || goto failed"]
        boot += [
            # UEFI's kernel looks for the initrd under the name that its own command line gives.
            f"kernel {spec.boot_files}/{KERNEL} initrd={INITRD} {spec.kernel_options} || goto failed",
            f"initrd {spec.boot_files}/{INITRD} || goto failed",
            "boot || goto failed",
        ]
    head = _MACHINE.format(
        marker=MARKER,
        machine_id=spec.machine_id,
        session_id=spec.session_id,
        event_url=spec.event_url,
        machine_name=spec.machine_name,
        initiator=spec.initiator,
        chap_user=spec.chap_user,
        chap_secret=spec.chap_secret,
        boot="\n".join(boot),
    )
    return head + _MENU.format(title=f"Labyard: {spec.machine_name} did not boot")


def generate_generic_script() -> str:
    """What a machine without a session gets: it looks for its script, and offers a menu when there is none."""
    return _GENERIC.format() + _MENU.format(title="Labyard: no session for this machine")


def get_machine_script_filename(mac: str) -> str:
    return script_filename(mac)


def validate(text: str) -> list[ScriptError]:
    """All that is wrong in a machine or generic script; empty when it is good (contract section 7, Validator)."""
    lines = text.removesuffix("\n").split("\n")  # not splitlines: that would hide a carriage return
    errors = [
        ScriptError(number, "control_character", "control characters do not belong in a script")
        for number, line in enumerate(lines, 1)
        if any(unicodedata.category(character) == "Cc" and character != "\t" for character in line)
    ]
    if not lines[0].startswith("#!ipxe"):
        errors.append(ScriptError(1, "no_shebang", "the first line must start with #!ipxe"))
    code = {number: line.strip() for number, line in enumerate(lines, 1) if not line.lstrip().startswith("#")}
    labels = {line[1:] for line in code.values() if line.startswith(":")}
    items = {item for line in code.values() if (item := _item(line.split()))}
    for number, line in code.items():
        if line and not line.startswith(":"):
            errors += _line_errors(number, line, labels, items)
    return sorted(errors + _purpose_errors(code), key=lambda error: error.line)


def _item(words: list[str]) -> str:
    """The label that a menu's entry leads to; empty for a line that is none, or that only parts entries."""
    if words[:1] != ["item"] or "--gap" in words or "-g" in words:
        return ""
    rest = iter(words[1:])
    for word in rest:
        if word in ("--key", "-k", "--menu", "-m"):
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return ""


def _line_errors(number: int, line: str, labels: set[str], items: set[str]) -> list[ScriptError]:
    errors = []
    words = line.split()
    for at, command in enumerate(words):
        if at and words[at - 1] not in ("||", "&&"):
            continue  # an argument
        if command in _NOT_IN_ROM:
            errors.append(ScriptError(number, "unknown_command", f"{command} does not exist in the stock iPXE"))
        if command in _NEEDS_FALLBACK and "||" not in words[at:]:
            errors.append(
                ScriptError(number, "no_fallback", f"{command} needs `|| …`: a failing command ends the script")
            )
    for goal in re.findall(r"\bgoto\s+(\S+)", line):
        wanted = items if goal == "${sel}" else {goal}
        for label in sorted(wanted - labels):
            errors.append(ScriptError(number, "no_label", f"goto {label}: there is no line `:{label}`"))
    for variable in re.findall(r"\$\{([^}]*)\}?", line):
        if variable not in _OUR_VARIABLES:
            errors.append(
                ScriptError(number, "foreign_variable", f"${{{variable}}} is not one of this script's variables")
            )
    return errors


def _purpose_errors(code: Mapping[int, str]) -> list[ScriptError]:
    """A machine script hooks a SAN disk; a generic one chains to the machine's script. `code`: lines by number."""
    hooks = [(number, line) for number, line in code.items() if line.startswith(("sanboot", "sanhook"))]
    if not hooks:
        chains = any(line.startswith("chain ") and "tftp://" in line and "machines/" in line for line in code.values())
        if chains or any(line.startswith("kernel ") for line in code.values()):
            return []
        return [
            ScriptError(1, "no_boot", "neither a machine script (sanboot) nor a generic one (chain tftp://…machines/…)")
        ]
    errors = []
    for number, line in hooks:
        match = _SAN.search(line)
        if not match or not is_ipv4(match["ip"]):
            errors.append(ScriptError(number, "bad_san_uri", "expected iscsi:<ip>::<port>:<lun in hex>:<target iqn>"))
            continue
        if not 0 < int(match["port"]) < 65536:
            errors.append(ScriptError(number, "bad_san_uri", f"port {match['port']} is not between 1 and 65535"))
        if problem := iqn_error(match["iqn"]):
            errors.append(ScriptError(number, "bad_iqn", f"{match['iqn']}: {problem}"))
    return errors
