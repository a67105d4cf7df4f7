"""What a server has on disk: its account, its certificate, the files that its daemons read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from labyard.desktops.adapters.agent import AgentRefused, ServerSpec
from labyard.desktops.agent.rdp import config
from labyard.desktops.agent.rdp.account import Accounts, give, group_of
from labyard.desktops.agent.rdp.certificate import make_certificate
from labyard.desktops.agent.rdp.place import Made, Place
from labyard.desktops.agent.rdp.run import run
from labyard.desktops.agent.rdp.systemd import X_SOCKETS
from labyard.desktops.agent.settings import Settings

DAEMON_USER = "xrdp"
SYSTEM_XRDP = Path("/etc/xrdp")
START_FAILED = "RDP_START_FAILED"


class Files:
    def __init__(self, settings: Settings, accounts: Accounts) -> None:
        self._settings = settings
        self._accounts = accounts

    def write(self, place: Place, spec: ServerSpec) -> Made:
        """All of it. What is there already stays, except the configuration. AdapterError, OSError."""
        account = self._accounts.ensure(spec.account, f"/home/{spec.account}")
        place.make()
        if not place.home.is_mount():
            give(place.home, account, 0o700)
        fingerprint = self._keys(place, spec.server_id)
        desktop, effective = self._desktop(spec.configuration, spec.fallback)
        self._configuration(place, spec, desktop)
        for folder in (place.run, place.log):
            shutil.chown(folder, DAEMON_USER, DAEMON_USER)
        made = replace(Made.of(spec), certificate_sha256=fingerprint, desktop_effective=effective)
        place.note(made)
        return made

    def clean(self, place: Place, port: int) -> None:
        """Sockets and pid files of a life that ended by force: sesman would take its display for one in use."""
        first = self._settings.display(port)
        for number in range(first, first + self._settings.rdp_displays):
            (X_SOCKETS / f"X{number}").unlink(missing_ok=True)
        for entry in place.run.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        sockets = place.run / "sockdir"
        sockets.mkdir()
        shutil.chown(sockets, 0, DAEMON_USER)  # the desktop's sockets get its group, so that xrdp may connect
        sockets.chmod(0o3777)

    def _keys(self, place: Place, server_id: str) -> str:
        """The certificate's fingerprint."""
        group = group_of(DAEMON_USER)
        before = place.made()
        fingerprint = before.certificate_sha256 if before else None
        if fingerprint is None:
            fingerprint = make_certificate(server_id, place.etc / "cert.pem", place.etc / "key.pem", group)
        keys = place.etc / "rsakeys.ini"
        if not keys.exists():
            run("xrdp-keygen", "xrdp", str(keys))
            shutil.chown(keys, 0, group)
            keys.chmod(0o640)
        return fingerprint

    def _configuration(self, place: Place, spec: ServerSpec, desktop: config.Desktop) -> None:
        server = config.Server(
            account=spec.account,
            port=spec.port,
            sesman_port=spec.port + self._settings.rdp_sesman_offset,
            display=self._settings.display(spec.port),
            idle_timeout=self._settings.rdp_idle_timeout,
            configuration=spec.configuration,
        )
        for path, text, mode in (
            (place.etc / "xrdp.ini", config.xrdp_ini(server), 0o644),
            (place.etc / "sesman.ini", config.sesman_ini(server), 0o644),
            (place.etc / "startwm.sh", config.start_script(desktop), 0o755),
            (place.etc / "reconnectwm.sh", config.RECONNECT_SCRIPT, 0o755),
            (place.pam, config.PAM, 0o644),
        ):
            _put(path, text, mode)
        for keymap in (*SYSTEM_XRDP.glob("km-*.ini"), SYSTEM_XRDP / "xrdp_keyboard.ini"):
            if not (place.etc / keymap.name).exists():
                shutil.copy(keymap, place.etc)

    def _desktop(self, configuration: Mapping[str, Any], fallback: bool) -> tuple[config.Desktop, str]:
        """The one that was asked for, or the fallback; with its word."""
        asked = str(configuration.get("desktop_environment", "xfce"))
        for name in (asked, config.FALLBACK):
            desktop = config.DESKTOPS.get(name)
            if desktop and shutil.which(desktop.program):
                return desktop, name
            if not fallback:
                raise AgentRefused(f"the desktop {asked} is not installed on this node", START_FAILED)
        raise AgentRefused(f"neither {asked} nor {config.FALLBACK} is installed on this node", START_FAILED)


def _put(path: Path, text: str, mode: int) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)
