"""Status of DHCP, TFTP and iSCSI (contract sections 5.7 and 5.8). Answers within 2 s, whatever the daemons do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from labyard.core import audit
from labyard.core.adapter import AdapterError
from labyard.core.clock import as_text, now
from labyard.core.errors import ServiceError
from labyard.core.observer import Finding, Report
from labyard.core.steps import call
from labyard.netboot.adapters.dhcp import DhcpStatus
from labyard.netboot.adapters.tftp import TftpStatus
from labyard.netboot.service.shared import Shared

WITHIN = 1.8  # seconds; the contract allows 2

T = TypeVar("T")


class Network:
    def __init__(self, shared: Shared) -> None:
        self._db = shared.database
        self._settings = shared.settings
        self._adapters = shared.provision.adapters
        self._reservations = shared.reservations

    def dhcp_status(self) -> dict[str, Any]:
        status, error = _within(self._adapters.dhcp.status, DhcpStatus(None, False, None, None))
        reloaded = self._reservations.last_reload
        return {
            "service_running": status.service_running,
            "config_file_exists": status.config_file_exists,
            "config_valid": status.config_valid,
            "machines_configured": status.machines_configured,
            "last_reload": as_text(reloaded) if reloaded else None,
            "backend": self._adapters.dhcp.name,
            "config_path": str(self._settings.dhcp_config),
            "last_error": self._reservations.last_error,
            "error": error or status.error,
        }

    def reservations(self) -> list[dict[str, Any]]:
        try:
            entries = call(self._adapters.dhcp.observed, self._settings.dhcp_timeout_seconds)
        except (AdapterError, TimeoutError) as error:
            raise ServiceError(500, "dhcp_error", str(error)) from error
        return [
            {
                "machine_id": entry.machine_id,
                "label": entry.label,
                "mac_address": entry.mac,
                "ip_address": entry.address,
                "filename": entry.ipxe_file if not entry.ipxe_file.startswith("http") else "(over HTTP)",
            }
            for entry in entries
        ]

    def apply(self) -> dict[str, Any]:
        try:
            call(self._reservations.apply, self._reservations.timeout)
        except (AdapterError, TimeoutError) as error:
            raise ServiceError(500, "dhcp_error", str(error)) from error
        with self._db.write() as session:
            audit.record(
                session, "config_changed", "DHCP reservations applied", resource=("dhcp", "config"), status_code=200
            )
        return self.dhcp_status()

    def tftp_status(self) -> dict[str, Any]:
        status, error = _within(self._adapters.scripts.status, TftpStatus(None, False, False, False, None, None, None))
        return {
            "service_running": status.service_running,
            "tftp_root_exists": status.tftp_root_exists,
            "machines_dir_exists": status.machines_dir_exists,
            "boot_dir_exists": status.boot_dir_exists,
            "machine_scripts_count": status.machine_scripts_count,
            "boot_files_count": status.boot_files_count,
            "tftp_root": str(self._settings.tftp_root),
            "error": error or status.error,
        }

    def scripts(self) -> list[dict[str, Any]]:
        try:
            found = self._adapters.scripts.observed()
        except AdapterError as error:
            raise ServiceError(500, "tftp_error", str(error)) from error
        return [
            {
                "filename": name.removeprefix("machines/"),
                "path": str(self._settings.tftp_root / name),
                "size": seen.size,
                "modified": as_text(seen.modified),
                "machine_mac": seen.mac,
            }
            for name, seen in sorted(found.items())
        ]

    def script(self, filename: str) -> str | None:
        try:
            return self._adapters.scripts.read(filename)
        except AdapterError as error:
            raise ServiceError(500, "tftp_error", str(error)) from error

    def services(self) -> list[dict[str, Any]]:
        checked = as_text(now())

        def state(running: bool | None, error: str | None) -> str:
            return "RUNNING" if running else "ERROR" if error and running is None else "STOPPED"

        dhcp, tftp = self.dhcp_status(), self.tftp_status()
        _, iscsi_error = _within(self._adapters.iscsi.ping, None)
        return [
            {"name": name, "status": status, "port": port, "last_check": checked}
            for name, status, port in (
                ("dhcp", state(dhcp["service_running"], dhcp["error"]), 67),
                ("tftp", state(tftp["service_running"], tftp["error"]), 69),
                ("iscsi", "RUNNING" if iscsi_error is None else "STOPPED", self._settings.portal_port),
            )
        ]

    def report(self, report: Report | None) -> dict[str, Any]:
        if report is None:
            return {"checked_at": None, "findings": [], "repaired": [], "failed": []}

        def shown(finding: Finding) -> dict[str, Any]:
            return {
                "difference": finding.difference,
                "thing": finding.thing,
                "key": finding.key,
                "detail": finding.detail,
            }

        return {
            "checked_at": as_text(report.checked_at),
            "findings": [shown(finding) for finding in report.findings],
            "repaired": [shown(finding) for finding in report.repaired],
            "failed": [shown(finding) | {"reason": reason} for finding, reason in report.failed],
        }


def _within(ask: Callable[[], T], otherwise: T) -> tuple[T, str | None]:
    try:
        return call(ask, WITHIN), None
    except Exception as error:  # a status is always answered, whatever a daemon says
        return otherwise, str(error) or type(error).__name__
