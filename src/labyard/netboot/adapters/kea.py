"""Kea's DHCPv4 server through its control socket (contract section 8; commands: Kea reference manual, section 18.3).

The whole set is set at once: `config-get`, our part exchanged, `config-test`, `config-set`, `config-write`. Nothing is
restarted and no request is lost. The caller serialises apply across processes: what another writes between our get and
our set would be lost.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters import services
from labyard.netboot.adapters.dhcp import DhcpStatus, Reservation
from labyard.netboot.adapters.kea_merge import Json, merge, same, split
from labyard.netboot.adapters.reservations import BadReservations, narrow, sort_out
from labyard.netboot.settings import Settings


class KeaRefused(AdapterError):
    """Kea answered, and said no."""


class Kea:
    """The DHCP backend `kea`."""

    name = "kea"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._config = Path(settings.dhcp_config or "/etc/kea/kea-dhcp4.conf")

    def apply(self, reservations: Sequence[Reservation]) -> None:
        """Set exactly these reservations, in the live daemon and in its file.

        Nothing is sent when nothing is different. BadReservations after all good entries have been set, when others
        cannot be served; AdapterError when nothing was changed, or the file could not be written.
        """
        live = self._live()
        base, seen = split(live)
        good, bad = sort_out(reservations)
        config, misplaced = self._merge(base, good)
        bad |= misplaced
        if not same(live, config):
            good = [entry for entry in good if entry.machine_id not in bad]
            if self._refusal(config):
                bad |= narrow(good, seen, lambda part: self._refusal(self._merge(base, part)[0]))
                config, _ = self._merge(base, [entry for entry in good if entry.machine_id not in bad])
            if not same(live, config):
                self._set(config, live)
        if bad:
            raise BadReservations(bad)

    def observed(self) -> list[Reservation]:
        """The reservations of ours in the live configuration, sorted by machine id. AdapterError."""
        return split(self._live())[1]

    def ping(self) -> None:
        """AdapterError when Kea does not answer on its control socket."""
        self._ask("status-get", timeout=services.STATUS_SECONDS)

    def status(self) -> DhcpStatus:
        """Contract section 5.7. The three questions are asked side by side, to keep within 2 s."""
        errors: list[str] = []
        with ThreadPoolExecutor(3) as pool:
            running = pool.submit(self._running, errors)
            valid = pool.submit(self._valid, errors)
            count = pool.submit(self._count, errors)
        return DhcpStatus(
            service_running=running.result(),
            config_file_exists=valid.result()[0],
            config_valid=valid.result()[1],
            machines_configured=count.result(),
            error="; ".join(errors) or None,
        )

    def _running(self, errors: list[str]) -> bool | None:
        if self._settings.service_manager == "process":
            try:
                self.ping()
            except AdapterError:
                return False
            return True
        try:
            return services.unit_running(self._settings, self._settings.dhcp_unit)
        except AdapterError as error:
            errors.append(str(error))
            return None

    def _valid(self, errors: list[str]) -> tuple[bool, bool | None]:
        """Whether the file that Kea starts from is there, and whether Kea would take it."""
        try:
            if not self._config.exists():
                errors.append(f"{self._config} is not there")
                return False, False
            services.run(["kea-dhcp4", "-t", str(self._config)], services.STATUS_SECONDS, KEA_LOCKFILE_DIR="none")
        except services.CommandFailed as error:
            errors.append(str(error))
            return True, False
        except (AdapterError, OSError) as error:
            errors.append(str(error))
            return True, None
        return True, True

    def _count(self, errors: list[str]) -> int | None:
        try:
            return len(split(self._live(services.STATUS_SECONDS))[1])
        except AdapterError as error:
            errors.append(str(error))
            return None

    def _merge(self, base: Json, entries: Sequence[Reservation]) -> tuple[Json, dict[int, str]]:
        return merge(base, entries, self._settings.uefi_secure_file)

    def _refusal(self, config: Json) -> str:
        """Why Kea would refuse a configuration, or nothing. AdapterError when it does not answer."""
        try:
            self._ask("config-test", {"Dhcp4": config})
        except KeaRefused as error:
            return str(error)
        return ""

    def _set(self, config: Json, before: Json) -> None:
        try:
            self._ask("config-set", {"Dhcp4": config})
        except KeaRefused:
            # It passed the test and failed for real. Kea goes on with what it had; make sure that it is all of it.
            self._ask("config-set", {"Dhcp4": before})
            raise
        try:
            self._ask("config-write", {"filename": str(self._config)})
        except KeaRefused as error:
            raise AdapterError(
                f"{error}. The reservations live but would be lost when Kea restarts: Kea's user must be allowed to "
                f"write {self._config}"
            ) from error

    def _live(self, timeout: float | None = None) -> Json:
        answer = self._ask("config-get", timeout=timeout)
        try:
            dhcp4: Json = answer["Dhcp4"]
        except KeyError:
            raise AdapterError(
                f"what answers on {self._settings.kea_socket} is not a Kea DHCPv4 server; set "
                "LABYARD_NETBOOT_KEA_SOCKET to the control socket of kea-dhcp4"
            ) from None
        return dhcp4

    def _ask(self, command: str, arguments: Json | None = None, timeout: float | None = None) -> Json:
        """Kea's answer to one command. KeaRefused when it says no, AdapterError when it does not answer."""
        where = self._settings.kea_socket
        request: Json = {"command": command}
        if arguments is not None:
            request["arguments"] = arguments
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
                stream.settimeout(timeout or self._settings.dhcp_timeout_seconds)
                stream.connect(os.fspath(where))
                stream.sendall(json.dumps(request).encode())
                received = b"".join(iter(lambda: stream.recv(1 << 18), b""))
            answer: Any = json.loads(received)
            if not isinstance(answer, dict):
                raise ValueError(f"its answer is no JSON object: {received[:100]!r}")
        except (FileNotFoundError, ConnectionRefusedError):
            raise AdapterError(f"nothing listens on {where}; is Kea running?") from None
        except TimeoutError:
            raise AdapterError(f"Kea did not answer {command} on {where} in time") from None
        except (OSError, ValueError) as error:
            raise AdapterError(f"Kea did not answer {command} on {where}: {error}") from error
        if answer.get("result") != 0:
            raise KeaRefused(f"Kea refused {command}: {answer.get('text', 'without a reason')}")
        result: Json = answer.get("arguments", {})
        return result
