"""The RDP servers of this node: make, start, stop, remove, look (contract section 6.3)."""

from __future__ import annotations

import errno
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import structlog

from labyard.core.adapter import AdapterError
from labyard.desktops.adapters.agent import AgentRefused, ServerSpec, ServerStatus, Usage
from labyard.desktops.agent.rdp import config
from labyard.desktops.agent.rdp.account import Accounts, give, group_of
from labyard.desktops.agent.rdp.certificate import make_certificate
from labyard.desktops.agent.rdp.home import Homes
from labyard.desktops.agent.rdp.locks import Locks
from labyard.desktops.agent.rdp.meter import Meter, Sources
from labyard.desktops.agent.rdp.negotiate import NegotiationError, negotiate
from labyard.desktops.agent.rdp.network import Network
from labyard.desktops.agent.rdp.place import Made, Place, places
from labyard.desktops.agent.rdp.run import run
from labyard.desktops.agent.rdp.sesman import Answer, ask_for_desktop
from labyard.desktops.agent.rdp.systemd import X_SOCKETS
from labyard.desktops.agent.rdp.units import SESMAN, XRDP, Limits, Units
from labyard.desktops.agent.settings import Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
DAEMON_USER = "xrdp"
SYSTEM_XRDP = Path("/etc/xrdp")
POLL = 0.05  # seconds
ANSWER = 5.0  # seconds that a daemon on this node gets to answer
LOG_LINES = 20
START_FAILED = "RDP_START_FAILED"


@dataclass(frozen=True)
class Parts:
    """What the servers stand on: one of each for the whole agent."""

    units: Units
    accounts: Accounts
    homes: Homes
    network: Network


class Servers:
    """Every verb is idempotent: asked for what is so already, it says so. AgentRefused when it cannot be."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        self._settings = settings
        self._units = parts.units
        self._accounts = parts.accounts
        self._homes = parts.homes
        self._network = parts.network
        self._locks = Locks()
        self._meters: dict[str, Meter] = {}

    def start_up(self) -> None:
        """Before the first call: the templates are there, and servers that run are measured. AdapterError."""
        self._settings.servers_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._units.prepare()
        for server_id, place in places(self._settings.servers_dir).items():
            made = place.made()
            if made and made.display is not None:
                self._measure(server_id, place, made)

    def create(self, spec: ServerSpec) -> ServerStatus:
        """The account and the files are there; nothing runs. What was begun is taken back when it fails."""
        place = self._place(spec.server_id)
        self._check(spec)
        with self._locks.hold(spec.server_id):
            new = not place.exists()
            if new and not _free(spec.port):
                raise AgentRefused(f"port {spec.port} is taken by another program", "PORT_TAKEN")
            try:
                self._write(place, spec)
            except (AdapterError, OSError) as error:
                if new:
                    self._remove(place)
                raise AgentRefused(f"the server could not be made: {error}") from None
            return self._status(place)

    def start(self, spec: ServerSpec) -> ServerStatus:
        """Answers when the desktop is there and the port negotiates. RDP_START_FAILED: nothing of it runs."""
        place = self._place(spec.server_id)
        self._check(spec)
        with self._locks.hold(spec.server_id):
            made = place.made()
            if made and made.display is not None:
                status = self._status(place)
                if {status.xrdp, status.sesman, status.xorg} == {"active"} and self._negotiates(made):
                    return status
            try:
                self._end(place)
                self._begin(place, spec)
            except (AdapterError, NegotiationError, OSError) as error:
                lines = self._said(place)
                log.error("a server did not start", server=spec.server_id, reason=str(error), log=lines)
                try:
                    self._end(place)
                except (AdapterError, OSError) as trouble:
                    log.error("what was started does not end", server=spec.server_id, reason=str(trouble))
                raise AgentRefused(f"the server did not start: {error}", START_FAILED, lines) from None
            return self._status(place)

    def stop(self, server_id: str) -> ServerStatus:
        """Answers when no process of it is left."""
        place = self._known(server_id)
        with self._locks.hold(server_id):
            try:
                self._end(place)
            except (AdapterError, OSError) as error:
                raise AgentRefused(f"the server does not stop: {error}") from None
            return self._status(place)

    def delete(self, server_id: str) -> None:
        """Nothing of it is left on this node. Absent is fine."""
        place = self._place(server_id)
        with self._locks.hold(server_id):
            try:
                self._end(place)
                self._remove(place)
            except (AdapterError, OSError) as error:
                raise AgentRefused(f"the server cannot be removed: {error}") from None

    def status(self, server_id: str) -> ServerStatus:
        return self._status(self._known(server_id))

    def known(self) -> tuple[str, ...]:
        """Whatever has a folder, an account or a unit."""
        found = set(places(self._settings.servers_dir)) | self._accounts.names()
        return tuple(sorted(found | {f"rdp-{key}" for key in self._units.known()}))

    def usage(self, server_id: str) -> Usage:
        self._known(server_id)
        meter = self._meters.get(server_id)
        if meter is None:
            raise AgentRefused(f"{server_id} does not run", "RDP_STATE")
        usage = meter.usage()
        return replace(usage, detail={**usage.detail, "connections": self._connections(server_id)})

    def display(self, server_id: str) -> tuple[int, Path]:
        """The number of its display, and the file with the cookie for it."""
        place = self._known(server_id)
        made = place.made()
        if made is None or made.display is None:
            raise AgentRefused(f"{server_id} does not run", "SES_NO_RDP_TARGET")
        return made.display, place.home / ".Xauthority"

    def probe(self, server_id: str, username: str | None, password: str | None) -> Mapping[str, Any]:
        """What a client meets: the port, the negotiation, and what sesman says to the user name and password."""
        place = self._known(server_id)
        made = place.made()
        none: dict[str, Any] = {
            "connection_available": False,
            "port_open": False,
            "tls": None,
            "protocol": None,
            "login": {"attempted": False, "succeeded": False, "reason": "the server does not run"},
            "latency_ms": None,
        }
        if made is None or made.display is None:
            return none
        try:
            found = negotiate(LOOPBACK, made.port, made.use_tls, ANSWER)
        except NegotiationError as error:
            return {
                **none,
                "port_open": self._listens(made.port),
                "login": {"attempted": False, "succeeded": False, "reason": str(error)},
            }
        genuine = found.certificate_sha256 in (None, made.certificate_sha256)
        login = self._login(place, made, username, password)
        return {
            "connection_available": genuine,
            "port_open": True,
            "tls": found.tls_version
            and {
                "version": found.tls_version,
                "cipher": found.cipher,
                "certificate_sha256": found.certificate_sha256,
                "certificate_matches": genuine,
            },
            "protocol": found.protocol,
            "login": login,
            "latency_ms": found.latency_ms,
        }

    def _connections(self, server_id: str) -> list[str]:
        """The addresses of RDP clients that are connected now."""
        made = self._known(server_id).made()
        if made is None:
            return []
        return sorted(
            f"{link.raddr.ip}:{link.raddr.port}"
            for link in psutil.net_connections("tcp")
            if link.laddr and link.raddr and link.status == psutil.CONN_ESTABLISHED and link.laddr.port == made.port
        )

    # Making

    def _check(self, spec: ServerSpec) -> None:
        first, last = self._settings.rdp_first_port, self._settings.rdp_last_port
        if not first <= spec.port <= last:
            raise AgentRefused(f"port {spec.port} is not between {first} and {last}")
        if spec.account != spec.server_id:
            raise AgentRefused("the account of a server is named like the server")

    def _write(self, place: Place, spec: ServerSpec) -> Made:
        """Account, certificate and configuration. What is there already stays, except the configuration."""
        home = f"/home/{spec.account}"
        account = self._accounts.ensure(spec.account, home)
        place.make()
        before = place.made()
        group = group_of(DAEMON_USER)
        fingerprint = before.certificate_sha256 if before else None
        if fingerprint is None:
            fingerprint = make_certificate(spec.server_id, place.etc / "cert.pem", place.etc / "key.pem", group)
        keys = place.etc / "rsakeys.ini"
        if not keys.exists():
            run("xrdp-keygen", "xrdp", str(keys))
            shutil.chown(keys, 0, group)
            keys.chmod(0o640)
        if not place.home.is_mount():
            give(place.home, account, 0o700)
        desktop, effective = self._desktop(spec.configuration)
        server = config.Server(
            account=spec.account,
            port=spec.port,
            sesman_port=spec.port + self._settings.rdp_sesman_offset,
            display=self._settings.display(spec.port),
            idle_timeout=self._settings.rdp_idle_timeout,
            configuration=spec.configuration,
        )
        for name, text, mode in (
            ("xrdp.ini", config.xrdp_ini(server), 0o644),
            ("sesman.ini", config.sesman_ini(server), 0o644),
            ("startwm.sh", config.start_script(desktop), 0o755),
            ("reconnectwm.sh", config.RECONNECT_SCRIPT, 0o755),
        ):
            _put(place.etc / name, text, mode)
        for keymap in (*SYSTEM_XRDP.glob("km-*.ini"), SYSTEM_XRDP / "xrdp_keyboard.ini"):
            if not (place.etc / keymap.name).exists():
                shutil.copy(keymap, place.etc)
        _put(place.pam, config.PAM, 0o644)
        for folder, mode in ((place.run, 0o755), (place.log, 0o755)):
            shutil.chown(folder, DAEMON_USER, DAEMON_USER)
            folder.chmod(mode)
        made = replace(Made.of(spec), certificate_sha256=fingerprint, desktop_effective=effective)
        place.note(made)
        return made

    def _desktop(self, configuration: Mapping[str, Any]) -> tuple[config.Desktop, str]:
        asked = str(configuration.get("desktop_environment", "xfce"))
        for name in (asked, config.FALLBACK):
            desktop = config.DESKTOPS.get(name)
            if desktop and shutil.which(desktop.program):
                return desktop, name
            if self._settings.rdp_fallback == "refuse":
                raise AgentRefused(f"the desktop {asked} is not installed on this node", START_FAILED)
        raise AgentRefused(f"neither {asked} nor {config.FALLBACK} is installed on this node", START_FAILED)

    # Starting and stopping

    def _begin(self, place: Place, spec: ServerSpec) -> None:
        until = time.monotonic() + self._settings.rdp_start_timeout
        made = self._write(place, spec)
        self._accounts.set_password(spec.account, spec.password)
        self._clean(place)
        limits = Limits(spec.cpu_limit, spec.memory_limit)
        reasons: dict[str, str | None] = {
            "disk": self._homes.prepare(place, self._accounts.ensure(spec.account, ""), spec.disk_limit),
            "network": self._limit_network(spec),
        }
        self._units.limit(place.hex, limits)
        for service, port in ((SESMAN, spec.port + self._settings.rdp_sesman_offset), (XRDP, spec.port)):
            if self._listens(port):
                raise AdapterError(f"port {port} is taken by another program")
            self._units.start(place.hex, service)
            self._wait(until, f"{service} to listen on port {port}", partial(self._listens, port), place)
        reasons |= self._units.enforced(place.hex, limits)
        answer = self._ask(place, made, spec.account, spec.password)
        if answer.display is None:
            raise AdapterError(f"sesman opens no desktop: {answer.reason}")
        process = config.DESKTOPS[made.desktop_effective or config.FALLBACK].process
        self._wait(until, "the X server and the window manager", lambda: self._shows(place, process), place)
        found = negotiate(LOOPBACK, spec.port, made.use_tls, max(until - time.monotonic(), 1.0))
        if made.use_tls and found.certificate_sha256 != made.certificate_sha256:
            raise AdapterError(f"what answers on port {spec.port} shows another certificate than this server's")
        made = replace(made, display=answer.display, enforcement=_enforcement(reasons))
        place.note(made)
        self._measure(spec.server_id, place, made)

    def _end(self, place: Place) -> None:
        """Nothing of it runs, its display and its home are free."""
        self._meters.pop(place.server_id, None)
        self._units.stop(place.hex)
        made = place.made()
        if made:
            with suppress(AdapterError):  # no nftables: then there is nothing to forget either
                self._network.forget(made.port)
            place.note(made.stopped())
        self._homes.release(place)

    def _remove(self, place: Place) -> None:
        self._units.forget(place.hex)
        self._accounts.remove(place.server_id)
        place.remove()

    def _limit_network(self, spec: ServerSpec) -> str | None:
        try:
            self._network.limit(spec.port, spec.network_bandwidth)
        except AdapterError as error:
            return str(error)
        return None

    def _clean(self, place: Place) -> None:
        """Sockets and pid files of a life that ended by force: sesman would take its display for one in use."""
        made = place.made()
        first = self._settings.display(made.port) if made else 0
        for number in range(first, first + self._settings.rdp_displays) if made else ():
            (X_SOCKETS / f"X{number}").unlink(missing_ok=True)
        for entry in place.run.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        sockets = place.run / "sockdir"
        sockets.mkdir()
        shutil.chown(sockets, 0, DAEMON_USER)  # the desktop's sockets get its group, so that xrdp may connect
        sockets.chmod(0o3777)

    def _measure(self, server_id: str, place: Place, made: Made) -> None:
        sources = Sources(
            taken=lambda: self._units.taken(place.hex),
            counted=lambda: self._network.counted(made.port),
            used=lambda: self._homes.used(place),
        )
        self._meters[server_id] = Meter(made, sources)

    # Looking

    def _place(self, server_id: str) -> Place:
        try:
            return Place(self._settings.servers_dir, server_id)
        except ValueError as error:
            raise AgentRefused(str(error)) from None

    def _known(self, server_id: str) -> Place:
        place = self._place(server_id)
        if not place.exists():
            raise AgentRefused(f"there is no server {server_id} on this node", "RDP_NOT_FOUND")
        return place

    def _status(self, place: Place) -> ServerStatus:
        made = place.made()
        sesman, xrdp = (self._units.state(place.hex, service) for service in (SESMAN, XRDP))
        xorg = "inactive"
        if sesman.active == "active":
            xorg = "active" if self._runs(place, {"Xorg"}) else "failed"
        return ServerStatus(
            server_id=place.server_id,
            xrdp=xrdp.active,
            sesman=sesman.active,
            xorg=xorg,
            since=xrdp.since,
            main_pid=xrdp.main_pid,
            restarts=xrdp.restarts + sesman.restarts,
            display=made.display if made else None,
            desktop_effective=made.desktop_effective if made else None,
            certificate_sha256=made.certificate_sha256 if made else None,
            enforcement=(made.enforcement if made else None) or {},
        )

    def _login(self, place: Place, made: Made, username: str | None, password: str | None) -> dict[str, Any]:
        if username is None or password is None:
            return {"attempted": False, "succeeded": False, "reason": "no credentials were given"}
        if username != place.server_id:
            return {"attempted": True, "succeeded": False, "reason": "this server lets only its own account in"}
        try:
            answer = self._ask(place, made, username, password)
        except AdapterError as error:
            return {"attempted": True, "succeeded": False, "reason": str(error)}
        return {"attempted": True, "succeeded": answer.display is not None, "reason": answer.reason}

    def _ask(self, place: Place, made: Made, account: str, password: str) -> Answer:
        return ask_for_desktop(place.etc / "sesman.ini", account, password, made.resolution, made.depth, ANSWER)

    def _shows(self, place: Place, process: str) -> bool:
        return self._runs(place, {"Xorg"}) and self._runs(place, {process})

    def _runs(self, place: Place, names: set[str]) -> bool:
        return any(_name(pid) in names for pid in self._units.processes(place.hex))

    def _negotiates(self, made: Made) -> bool:
        try:
            return negotiate(LOOPBACK, made.port, made.use_tls, ANSWER).certificate_sha256 in (
                None,
                made.certificate_sha256,
            )
        except NegotiationError:
            return False

    def _listens(self, port: int) -> bool:
        """sesman binds to ::1 where it is told 127.0.0.1."""
        for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, LOOPBACK)):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                if probe.connect_ex((address, port)) == 0:
                    return True
        return False

    def _wait(self, until: float, what: str, there: Callable[[], bool], place: Place) -> None:
        while not there():
            for service in (SESMAN, XRDP):
                if self._units.state(place.hex, service).active == "failed":
                    raise AdapterError(f"{service} ended while waiting for {what}")
            if time.monotonic() > until:
                raise AdapterError(f"waited {self._settings.rdp_start_timeout:g} s in vain for {what}")
            time.sleep(POLL)

    def _said(self, place: Place) -> tuple[str, ...]:
        """The daemons' last lines, from their log files and their units."""
        lines: list[str] = []
        for file in ("sesman.log", "xrdp.log"):
            with suppress(OSError):
                lines += (place.log / file).read_text(errors="replace").splitlines()[-LOG_LINES:]
        with suppress(AdapterError):
            lines += self._units.log(place.hex, LOG_LINES)
        return tuple(lines)


def _enforcement(reasons: Mapping[str, str | None]) -> dict[str, Any]:
    names = {"cpu": "cgroup", "memory": "cgroup", "disk": "filesystem", "network": "nftables"}
    found: dict[str, Any] = {what: names[what] if reasons[what] is None else "none" for what in names}
    found["reasons"] = {what: reason for what, reason in reasons.items() if reason is not None}
    return found


def _free(port: int) -> bool:
    """Whether a server could listen there."""
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return False
    return True


def _put(path: Path, text: str, mode: int) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return ""
