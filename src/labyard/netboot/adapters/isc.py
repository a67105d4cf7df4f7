"""ISC dhcpd, for sites that still run it (contract section 8, `isc`).

Reservations stand in a managed section of the main configuration file, always rendered whole. dhcpd has no reload: it
dies on SIGHUP, so applying means restarting it.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters import services
from labyard.netboot.adapters.dhcp import DhcpStatus, Reservation
from labyard.netboot.adapters.isc_text import conflicts, cut, read_section, render_base, render_section
from labyard.netboot.adapters.reservations import BadReservations, narrow, sort_out
from labyard.netboot.settings import Settings

SETTLE_SECONDS = 0.3  # a dhcpd that does not like its network ends within it

_HOST = re.compile(r"^\s*host\s+\S+\s*\{", re.MULTILINE)


def _without_banner(said: str) -> str:
    """What dhcpd has to say about its configuration, without its copyright and its advice on bug reports."""
    text = said.partition("For info, please visit")[2].partition("\n")[2] or said
    return "dhcpd refuses its configuration: " + text.partition("\nConfiguration file errors")[0].strip()


class Isc:
    """The DHCP backend `isc`."""

    name = "isc"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._config = Path(settings.dhcp_config or "/etc/dhcp/dhcpd.conf")

    def apply(self, reservations: Sequence[Reservation]) -> None:
        """Write the section anew, test, swap and restart. Nothing is done when nothing is different.

        BadReservations after all good entries have been set, when others cannot be served; AdapterError when nothing
        was changed: the last good file is in place.
        """
        current = self._read()
        before, section, after = self._cut(render_base(self._settings) if current is None else current)
        good, bad = sort_out(reservations)
        bad |= conflicts(before + after, good)
        good = [entry for entry in good if entry.machine_id not in bad]

        def render(entries: Sequence[Reservation]) -> str:
            return before + render_section(entries, self._settings.uefi_secure_file) + after

        if render(good) != current:
            if self._refusal(render(good)):
                bad |= narrow(good, read_section(section), lambda part: self._refusal(render(part)))
                good = [entry for entry in good if entry.machine_id not in bad]
            if render(good) != current:
                self._swap(render(good), current)
        if bad:
            raise BadReservations(bad)

    def observed(self) -> list[Reservation]:
        """The entries of the managed section, sorted by machine id. AdapterError when the file cannot be read."""
        return read_section(self._cut(self._read() or "")[1])

    def ping(self) -> None:
        """AdapterError when dhcpd does not run, or that cannot be found out."""
        if self._settings.service_manager == "none":
            return
        unit = self._settings.dhcp_unit
        if not services.unit_running(self._settings, unit):
            raise AdapterError(f"{unit} does not run; see `systemctl status {unit}`")

    def status(self) -> DhcpStatus:
        """Contract section 5.7."""
        errors: list[str] = []
        exists, count, valid = False, None, None
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(services.unit_running, self._settings, self._settings.dhcp_unit)
            try:
                text = self._read()
                exists = text is not None
                if text is None:
                    errors.append(f"{self._config} is not there")
                    valid = False
                else:
                    count = len(_HOST.findall(self._cut(text)[1]))
                    self._test(self._config, services.STATUS_SECONDS)
                    valid = True
            except services.CommandFailed as error:
                errors.append(str(error))
                valid = False
            except AdapterError as error:
                errors.append(str(error))
        service_running: bool | None = None
        try:
            service_running = running.result()
        except AdapterError as error:
            errors.append(str(error))
        return DhcpStatus(service_running, exists, valid, count, "; ".join(errors) or None)

    def _read(self) -> str | None:
        try:
            return self._config.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise AdapterError(f"{self._config} cannot be read: {error}") from error

    def _cut(self, text: str) -> tuple[str, str, str]:
        try:
            return cut(text)
        except ValueError as error:
            raise AdapterError(f"{self._config} {error}") from None

    def _test(self, path: Path, timeout: float) -> None:
        try:
            services.run(["dhcpd", "-t", "-cf", str(path)], timeout)
        except services.CommandFailed as error:
            raise services.CommandFailed(_without_banner(str(error)).replace(str(path), str(self._config))) from None

    def _refusal(self, text: str) -> str:
        """Why dhcpd would refuse this file, or nothing. AdapterError when it cannot be asked."""
        candidate = self._candidate(text)
        try:
            self._test(candidate, self._settings.dhcp_timeout_seconds)
        except services.CommandFailed as error:
            return str(error)
        finally:
            candidate.unlink()
        return ""

    def _candidate(self, text: str) -> Path:
        """The text on the disk, beside the live file: a confined dhcpd may read nowhere else."""
        try:
            self._config.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f"{self._config.name}.labyard-", dir=self._config.parent)
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                # dhcpd may have given up root before it reads its configuration.
                os.fchmod(handle, 0o644)
                with suppress(FileNotFoundError):
                    live = self._config.stat()
                    os.fchown(handle, live.st_uid, live.st_gid)
                    os.fchmod(handle, live.st_mode & 0o7777)
                os.fsync(handle)
        except OSError as error:
            raise AdapterError(f"{self._config} cannot be written: {error}") from error
        return Path(name)

    def _put(self, text: str) -> None:
        self._candidate(text).rename(self._config)
        folder = os.open(self._config.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _swap(self, text: str, last_good: str | None) -> None:
        self._put(text)
        try:
            self._restart()
        except AdapterError as error:
            if last_good is None:
                self._config.unlink()
            else:
                self._put(last_good)
            with suppress(AdapterError):
                self._restart()
            raise AdapterError(
                f"dhcpd did not come up with the new configuration; the last one is back: {error}"
            ) from error

    def _restart(self) -> None:
        unit, seconds = self._settings.dhcp_unit, self._settings.dhcp_timeout_seconds
        services.restart(self._settings, unit, ["dhcpd", "-4", "-q", "-cf", str(self._config)], seconds)
        if self._settings.service_manager != "none":
            time.sleep(SETTLE_SECONDS)
            self.ping()
