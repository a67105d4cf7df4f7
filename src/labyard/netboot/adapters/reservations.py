"""What both DHCP backends refuse before their daemon sees it (contract sections 3, 8 and 11.4)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters.dhcp import Reservation

MAX_FILE_BYTES = 127  # the `file` field of RFC 2131 holds 128 bytes, the last one zero
BOOT_MODES = ("legacy", "uefi", "uefi_secure")
_MAC = re.compile(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FILE = re.compile(r"[A-Za-z0-9._~:/?#@!&()*+,;=%-]+")


class BadReservations(AdapterError):
    """Some entries cannot be served. All others of the set have been applied and live.

    `problems` says for each bad machine id what is wrong with its entry; `machine_ids` are its keys.
    """

    def __init__(self, problems: Mapping[int, str]) -> None:
        super().__init__("; ".join(f"machine {number}: {text}" for number, text in sorted(problems.items())))
        self.problems = dict(problems)

    @property
    def machine_ids(self) -> frozenset[int]:
        return frozenset(self.problems)


def sort_out(reservations: Iterable[Reservation]) -> tuple[list[Reservation], dict[int, str]]:
    """Entries that can be served, by machine id, and what is wrong with the others, by machine id.

    Of two entries that exclude each other, the one of the lower machine id stays.
    """
    good: list[Reservation] = []
    bad: dict[int, str] = {}
    taken: dict[tuple[str, object], int] = {}
    for entry in sorted(reservations, key=lambda entry: entry.machine_id):
        keys = {("machine", entry.machine_id), ("MAC address", entry.mac.lower()), ("label", entry.label)}
        if entry.address is not None:
            keys.add(("address", entry.address))
        clash = next(((key, taken[key]) for key in sorted(keys, key=str) if key in taken), None)
        if problem := _problem(entry):
            bad[entry.machine_id] = problem
        elif clash:
            (what, value), other = clash
            bad[entry.machine_id] = f"{what} {value} belongs to machine {other} already; give one of them another"
        else:
            good.append(entry)
            taken |= dict.fromkeys(keys, entry.machine_id)
    return good, bad


def narrow(
    entries: Sequence[Reservation], seen: Sequence[Reservation], refusal: Callable[[Sequence[Reservation]], str]
) -> dict[int, str]:
    """Which entries a daemon refuses, with its reason, by machine id, when it has refused all of them together.

    Only those that are not in `seen`, which live already, are suspects. `refusal` tests a set and returns the daemon's
    reason, or nothing. AdapterError when what lives already is refused too: then it is none of the entries.
    """
    suspects = [entry for entry in entries if entry not in seen]
    kept = [entry for entry in entries if entry in seen]
    if reason := refusal(kept):
        raise AdapterError(reason)
    refused: dict[int, str] = {}

    def search(part: Sequence[Reservation]) -> None:
        reason = refusal([*kept, *part])
        if not reason:
            kept.extend(part)
        elif len(part) == 1:
            refused[part[0].machine_id] = reason
        else:
            search(part[: len(part) // 2])
            search(part[len(part) // 2 :])

    search(suspects)
    return refused


def _problem(entry: Reservation) -> str:
    """What is wrong with one entry by itself, or nothing."""
    if entry.machine_id < 1:
        return f"machine id {entry.machine_id} is not a positive number"
    if not _MAC.fullmatch(entry.mac):
        return f"{entry.mac!r} is not a MAC address of six pairs with colons"
    if not _LABEL.fullmatch(entry.label):
        return f"label {entry.label!r} must be 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'"
    if entry.boot_mode not in BOOT_MODES:
        return f"boot mode {entry.boot_mode!r} is none of {', '.join(BOOT_MODES)}"
    for what, address in (("address", entry.address), ("next-server", entry.next_server)):
        if address is not None and not is_ipv4(address):
            return f"{what} {address!r} is not an IPv4 address"
    for what, file in (("boot file", entry.ipxe_file), ("HTTP boot address", entry.http_boot or "-")):
        if not _FILE.fullmatch(file):
            return f"{what} {file!r} is empty or has characters that a file name or address cannot have"
        if len(file) > MAX_FILE_BYTES:
            return f"{what} {file!r} is longer than the {MAX_FILE_BYTES} bytes that DHCP can carry"
    return ""


def is_ipv4(text: str) -> bool:
    """Whether the text is a dotted quad."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
