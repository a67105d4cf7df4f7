"""Recorders as units of systemd: outside the servers' slices, so that they eat no user's quota."""

from __future__ import annotations

import sys
from pathlib import Path

from labyard.desktops.agent.rdp.run import run
from labyard.desktops.agent.rdp.systemd import UNITS, remove_templates, show, write_templates

STOP_TIMEOUT = 15  # seconds for the open slice

TEMPLATE = """\
[Unit]
Description=Recorder of Labyard session %i
StartLimitIntervalSec=0

[Service]
Slice={owner}-recorders.slice
ExecStart={python} -m labyard.desktops.recorder {runtime}/%i
Restart=on-failure
RestartSec=1
TimeoutStopSec={stop}
Nice=-5
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ReadWritePaths={runtime} {spool} -/tmp/.X11-unix
ProtectHome=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
PrivateDevices=yes
# An external desktop is an RDP client in an X server of its own.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
LimitCORE=0
"""


class SystemdRecorders:
    """`recorder.recorders.RecorderUnits`. `owner` begins the units' names; `runtime` holds a folder for each recorder,
    by its name, `spool` what they write."""

    def __init__(self, owner: str, runtime: Path, spool: Path, units: Path = UNITS) -> None:
        self._owner = owner
        self._runtime = runtime
        self._spool = spool
        self._units = units

    def prepare(self) -> None:
        """The template is there. AdapterError."""
        write_templates(self._units, {self._unit(""): self.template()})

    def remove(self) -> None:
        """The template is gone, and the recorders' slice."""
        remove_templates(self._units, [self._unit("")])
        run("systemctl", "stop", f"{self._owner}-recorders.slice")

    def template(self) -> str:
        return TEMPLATE.format(
            owner=self._owner, python=sys.executable, runtime=self._runtime, spool=self._spool, stop=STOP_TIMEOUT
        )

    def start(self, name: str, folder: Path) -> None:
        run("systemctl", "start", self._unit(name))

    def stop(self, name: str) -> None:
        run("systemctl", "stop", self._unit(name), timeout=2 * STOP_TIMEOUT)
        if show(self._unit(name), "ActiveState").get("ActiveState") == "failed":
            run("systemctl", "reset-failed", self._unit(name))

    def is_active(self, name: str) -> bool:
        state = show(self._unit(name), "ActiveState").get("ActiveState")
        return state in ("active", "activating", "reloading")

    def _unit(self, name: str) -> str:
        return f"{self._owner}-recorder@{name}.service"
