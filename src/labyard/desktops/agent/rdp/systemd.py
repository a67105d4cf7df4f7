"""systemd: template units that all servers share, and a slice with the limits of each."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from labyard.core.adapter import AdapterError
from labyard.desktops.agent.rdp.cgroup import Group, Taken
from labyard.desktops.agent.rdp.run import run
from labyard.desktops.agent.rdp.units import SERVICES, SESMAN, XRDP, Limits, UnitState

UNITS = Path("/run/systemd/system")
CONTROL = Path("/run/systemd/system.control")  # where set-property writes
X_SOCKETS = Path("/tmp/.X11-unix")
STOP_TIMEOUT = 10  # seconds until systemd kills
MIB = 2**20

# Each server sees its own /etc/xrdp, run directory and PAM file where the programs look for them: xrdp takes sesman's
# port from the compiled-in /etc/xrdp/sesman.ini, and a foreign pid file in /run/xrdp would keep it from starting.
_COMMON = """\
Slice={owner}-rdp-%i.slice
BindPaths={servers}/%i/etc:/etc/xrdp {servers}/%i/run:/run/xrdp {servers}/%i/log:/var/log/xrdp
ProtectHome=tmpfs
InaccessiblePaths={servers}
NoNewPrivileges=yes
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
KillMode=control-group
OOMPolicy=continue
TimeoutStopSec={stop}
"""
TEMPLATES = {
    SESMAN: """\
[Unit]
Description=Desktop of Labyard RDP server %i
After=network.target

[Service]
ExecStart=/usr/sbin/xrdp-sesman -n -c /etc/xrdp/sesman.ini
{common}BindPaths={servers}/%i/home:/home/rdp-%i {x_sockets}
BindReadOnlyPaths={servers}/%i/pam:/etc/pam.d/xrdp-sesman
PrivateTmp=yes
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_KILL CAP_AUDIT_WRITE
LimitCORE=0
""",
    XRDP: """\
[Unit]
Description=RDP of Labyard RDP server %i
After={owner}-sesman@%i.service

[Service]
User=xrdp
Group=xrdp
ExecStart=/usr/sbin/xrdp -n -c /etc/xrdp/xrdp.ini
Restart=on-failure
RestartSec=1
{common}PrivateTmp=yes
CapabilityBoundingSet=
LimitCORE=0
""",
}
_PROPERTIES = "ActiveState,MainPID,NRestarts,StateChangeTimestamp"


class Systemd:
    """`owner` begins the names of all units; `servers` is the folder of the servers' folders."""

    def __init__(self, owner: str, servers: Path, units: Path = UNITS) -> None:
        self._owner = owner
        self._servers = servers
        self._units = units
        self._groups: dict[str, Group] = {}
        self._ours = re.compile(rf"{owner}-(?:sesman@|xrdp@|rdp-)([0-9a-f]{{16}})\.(?:service|slice)")

    def prepare(self) -> None:
        # Shared by all servers, so that X sockets can be reached: who connects needs the display's cookie.
        X_SOCKETS.mkdir(exist_ok=True)
        X_SOCKETS.chmod(0o1777)
        write_templates(self._units, {self._unit("", service): self.template(service) for service in SERVICES})

    def remove(self) -> None:
        """The templates are gone, and the slice that all servers' are in."""
        remove_templates(self._units, [self._unit("", service) for service in SERVICES])
        run("systemctl", "stop", f"{self._owner}-rdp.slice")

    def template(self, service: str) -> str:
        common = _COMMON.format(owner=self._owner, servers=self._servers, stop=STOP_TIMEOUT)
        return TEMPLATES[service].format(owner=self._owner, servers=self._servers, common=common, x_sockets=X_SOCKETS)

    def limit(self, key: str, limits: Limits) -> None:
        run(
            "systemctl", "set-property", "--runtime", self._slice(key),
            f"CPUQuota={limits.cpu * 100:g}%", f"MemoryMax={limits.memory}M", "MemorySwapMax=0",
            f"TasksMax={limits.tasks}", "CPUAccounting=yes", "MemoryAccounting=yes",
        )  # fmt: skip

    def enforced(self, key: str, limits: Limits) -> dict[str, str | None]:
        group = self._group(key)
        cpu, memory = (group.cpu_limit(), group.memory_limit()) if group else (None, None)
        return {
            "cpu": None if cpu is not None and abs(cpu - limits.cpu) < 0.01 else "the cpu controller is not there",
            "memory": None if memory == limits.memory * MIB else "the memory controller is not there",
        }

    def start(self, key: str, service: str) -> None:
        run("systemctl", "start", self._unit(key, service))

    def stop(self, key: str) -> None:
        names = [self._unit(key, service) for service in reversed(SERVICES)]
        run("systemctl", "stop", *names, self._slice(key), timeout=2 * STOP_TIMEOUT)
        until = time.monotonic() + STOP_TIMEOUT
        while left := self.processes(key):
            if time.monotonic() > until:
                raise AdapterError(f"{len(left)} processes of {self._slice(key)} do not end")
            time.sleep(0.05)
        for unit in (*names, self._slice(key)):
            if show(unit, "ActiveState").get("ActiveState") == "failed":
                run("systemctl", "reset-failed", unit)
        self._groups.pop(key, None)

    def forget(self, key: str) -> None:
        if show(self._slice(key), "DropInPaths").get("DropInPaths"):
            run("systemctl", "revert", self._slice(key))

    def state(self, key: str, service: str) -> UnitState:
        found = show(self._unit(key, service), _PROPERTIES)
        return UnitState(
            active=found.get("ActiveState", "inactive"),
            since=_moment(found.get("StateChangeTimestamp", "")),
            main_pid=int(found.get("MainPID", 0)) or None,
            restarts=int(found.get("NRestarts", 0)),
        )

    def processes(self, key: str) -> list[int]:
        group = self._group(key)
        return group.processes() if group else []

    def taken(self, key: str) -> Taken:
        group = self._group(key)
        if group is None:
            raise AdapterError(f"{self._slice(key)} does not run")
        return group.taken()

    def log(self, key: str, lines: int) -> tuple[str, ...]:
        names = [argument for service in SERVICES for argument in ("--unit", self._unit(key, service))]
        return tuple(run("journalctl", "--no-pager", "--output=cat", f"--lines={lines}", *names).splitlines())

    def known(self) -> frozenset[str]:
        # Not --all: systemd goes on to name units for a while that are over.
        listed = run("systemctl", "list-units", "--plain", "--no-legend", f"{self._owner}-*").splitlines()
        names = [line.split()[0] for line in listed] + [path.stem for path in CONTROL.glob(f"{self._owner}-rdp-*")]
        return frozenset(found[1] for name in names if (found := self._ours.fullmatch(name)))

    def _unit(self, key: str, service: str) -> str:
        return f"{self._owner}-{service}@{key}.service"

    def _slice(self, key: str) -> str:
        return f"{self._owner}-rdp-{key}.slice"

    def _group(self, key: str) -> Group | None:
        """None when nothing of the server runs. Asked of systemd once in a life: it is looked at every second."""
        if key not in self._groups and (path := show(self._slice(key), "ControlGroup").get("ControlGroup")):
            self._groups[key] = Group(path)
        return self._groups.get(key)


def show(unit: str, properties: str) -> dict[str, str]:
    """What systemd knows of a unit, also of one that is not there."""
    lines = run("systemctl", "show", "--timestamp=unix", f"--property={properties}", unit).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def write_templates(folder: Path, templates: Mapping[str, str]) -> None:
    """Unit files by name; systemd is told when one changed."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = {name: text for name, text in templates.items() if _content(folder / name) != text}
    for name, text in changed.items():
        (folder / name).write_text(text)
    if changed:
        run("systemctl", "daemon-reload")


def remove_templates(folder: Path, names: Sequence[str]) -> None:
    there = [folder / name for name in names if (folder / name).exists()]
    for path in there:
        path.unlink()
    if there:
        run("systemctl", "daemon-reload")


def _content(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _moment(text: str) -> str | None:
    """systemd's `@seconds`."""
    if not text.startswith("@"):
        return None
    return datetime.fromtimestamp(int(text[1:]), UTC).isoformat()
