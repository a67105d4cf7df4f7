"""What the DHCP and TFTP daemons say of the machines, taken from their own logs as they write them.

Kea writes leases to a file of their own; tftpd-hpa and ISC dhcpd write to the journal.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import structlog

from labyard.core.clock import now
from labyard.netboot.names import mac_of_script
from labyard.netboot.settings import Settings

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.1
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 60.0
MAX_LINE = 65536

_MAC = r"(?P<mac>[0-9a-f]{2}(?::[0-9a-f]{2}){5})"
_IPV4 = r"(?:::ffff:)?(?P<address>\d{1,3}(?:\.\d{1,3}){3})"
# An ADVERT is no request yet. hwtype 1 is Ethernet.
_KEA = re.compile(
    rf"(?P<at>\S+) DHCP4_LEASE_(?:ALLOC|REUSE) \[hwtype=1 {_MAC}\], .*: lease {_IPV4} has been (?P<detail>\w+)"
)
_DHCPD = re.compile(rf"DHCPACK on {_IPV4} to {_MAC}\b")
_TFTPD = re.compile(rf"RRQ from {_IPV4} filename (?P<detail>.+)")


@dataclass(frozen=True)
class Observation:
    """A daemon saw a client. `detail` is for people; `mac` is upper case with colons."""

    kind: Literal["dhcp_request", "tftp_request"]
    mac: str | None
    address: str | None
    detail: str
    at: datetime


def read_kea(line: str) -> Observation | None:
    """A line of Kea's lease log; None for one that tells of no lease given. Kea writes local time without a zone."""
    match = _KEA.match(line)
    if not match:
        return None
    try:
        at = datetime.fromisoformat(match["at"]).astimezone(UTC)
    except ValueError:
        at = now()
    return Observation("dhcp_request", match["mac"].upper(), match["address"], f"lease {match['detail']}", at)


def read_journal(entry: dict[str, Any]) -> Observation | None:
    """An entry of the journal in systemd's JSON form; None for one that tells of no client."""
    message = entry.get("MESSAGE")
    if isinstance(message, list):  # bytes that are not UTF-8
        message = bytes(message).decode(errors="replace")
    if not isinstance(message, str):
        return None
    program = entry.get("SYSLOG_IDENTIFIER")
    try:
        at = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
    except (KeyError, ValueError):
        at = now()
    if program == "in.tftpd" and (match := _TFTPD.fullmatch(message)):
        name = match["detail"].strip()[:200]
        return Observation("tftp_request", mac_of_script(name), match["address"], name, at)
    if program == "dhcpd" and (match := _DHCPD.match(message)):
        return Observation("dhcp_request", match["mac"].upper(), match["address"], "lease acknowledged", at)
    return None


class BootEventSources:
    """Follows the logs that the settings name; `emit` is called in the followers' threads, from `start` to `stop`."""

    def __init__(self, settings: Settings, emit: Callable[[Observation], object]) -> None:
        self._emit = emit
        self._followers: list[FileFollower | JournalFollower] = []
        if settings.dhcp_backend == "kea":
            self._followers.append(FileFollower(settings.kea_lease_log, lambda line: self._tell(read_kea(line))))
        if settings.service_manager == "systemd":
            units = [settings.tftp_unit]
            if settings.dhcp_backend == "isc":
                units.append(settings.dhcp_unit)
            self._followers.append(JournalFollower(units, lambda entry: self._tell(read_journal(entry))))

    def start(self) -> None:
        for follower in self._followers:
            follower.start()

    def stop(self) -> None:
        for follower in self._followers:
            follower.stop()

    def _tell(self, seen: Observation | None) -> None:
        if seen is None:
            return
        try:
            self._emit(seen)
        except Exception:
            # One event that cannot be kept must not end the watching of all others.
            log.exception("boot event lost", kind=seen.kind, mac=seen.mac, address=seen.address)


class FileFollower:
    """Gives each new line of a file to `take`, over rotation and truncation. What is there at the start is old."""

    def __init__(self, path: Path, take: Callable[[str], object]) -> None:
        self._path = path
        self._take = take
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow-{path.name}", daemon=True)
        self._file: BinaryIO | None = None
        self._rest = b""
        self._failing = False

    def start(self) -> None:
        self._open(at_end=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._close()

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._look()
            except OSError as error:
                self._close()
                if not self._failing:
                    log.warning("cannot follow a log", file=str(self._path), reason=error.strerror)
                self._failing = True

    def _look(self) -> None:
        if self._file is None:
            self._open(at_end=False)
            return
        self._drain(self._file)
        try:
            current = self._path.stat()
        except FileNotFoundError:
            return  # in the middle of a rotation; the old file may still grow
        if not os.path.samestat(current, os.fstat(self._file.fileno())):
            self._drain(self._file)  # what came between the last read and the rename
            self._close()
            self._open(at_end=False)
        elif current.st_size < self._file.tell():
            self._file.seek(0)
            self._rest = b""

    def _drain(self, file: BinaryIO) -> None:
        while chunk := file.read(MAX_LINE):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._rest = self._rest[-MAX_LINE:]
            for line in lines:
                self._take(line.decode(errors="replace"))

    def _open(self, at_end: bool) -> None:
        try:
            self._file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return
        except OSError as error:
            if not self._failing:
                log.warning("cannot follow a log", file=str(self._path), reason=error.strerror)
            self._failing = True
            return
        self._failing, self._rest = False, b""
        if at_end:
            self._file.seek(0, 2)
        else:
            self._drain(self._file)

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


class JournalFollower:
    """Gives each new entry of some units to `take`, from one `journalctl` that is begun again when it dies."""

    def __init__(self, units: list[str], take: Callable[[dict[str, Any]], object]) -> None:
        self._units = units
        self._take = take
        self._cursor = ""
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="follow-journal", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        with self._lock:
            if self._child:
                self._child.kill()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        pause = RETRY_SECONDS
        while not self._stop.is_set():
            try:
                for line in self._lines():
                    pause = RETRY_SECONDS
                    self._entry(line)
                reason = "it ended"
            except OSError as error:
                reason = str(error)
            if self._stop.is_set():
                return
            log.warning("journalctl does not run; trying again", reason=reason, seconds=pause)
            self._stop.wait(pause)
            pause = min(pause * 2, MAX_RETRY_SECONDS)

    def _lines(self) -> Iterator[bytes]:
        # After a restart it goes on where it was: what a client did meanwhile is not lost.
        begin = ["--no-tail", f"--after-cursor={self._cursor}"] if self._cursor else ["--lines=0"]
        fields = "--output-fields=MESSAGE,SYSLOG_IDENTIFIER"
        command = [
            "journalctl",
            "--follow",
            "--output=json",
            fields,
            *begin,
            *(f"--unit={unit}" for unit in self._units),
        ]
        with self._lock:
            if self._stop.is_set():
                return
            # This thread begins it and outlives it, so the signal comes only when the whole service dies.
            child = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._child = child
        assert child.stdout is not None
        try:
            yield from child.stdout
        finally:
            with self._lock:
                self._child = None
            child.kill()
            child.wait()
            child.stdout.close()

    def _entry(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if isinstance(entry, dict):
            self._take(entry)
            self._cursor = entry.get("__CURSOR", self._cursor)
