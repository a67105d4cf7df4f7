"""What is in the way of a pair, and the way out: the seven causes of contract section 8."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

AVAHI_SOCKET = Path("/run/avahi-daemon/socket")


class PairError(RuntimeError):
    """A pair cannot be started; the message says why, and what to do."""


def binary_not_found(what: str) -> str:
    """For a gateway or emulator program that is missing."""
    return (
        f"Binary not found: {what}. Set NATIVE_BINARY_PATH to the gateway's program, build the firmware with "
        "`pio run -e native`, or install ours: pip install --editable . in the checkout."
    )


def port_in_use(port: int, part: str, owner: str) -> str:
    """`owner` is the process that has it, "" when it cannot be told."""
    return (
        f"Port already in use: {port}, which the {part} needs, belongs to {owner or 'another process'}. End that, or "
        f"give other ports (LABYARD_EVSE_{part.upper()}_BASE_PORT). To look: lsof -i :{port}. Leftovers of a run by "
        'hand: docker ps -q --filter "name=emulator_" | xargs -r docker stop; rm -f /tmp/rapi_pty_*'
    )


def owner_of(port: int) -> str:
    """Who listens on a port: `process 12 (socat …)`; "" when that cannot be told."""
    import psutil

    try:
        found = [one.pid for one in psutil.net_connections("tcp") if one.laddr and one.laddr.port == port and one.pid]
        return f"process {found[0]} ({' '.join(psutil.Process(found[0]).cmdline())})" if found else ""
    except psutil.Error:
        return ""


def docker_not_available(problem: object) -> str:
    """The engine does not answer, or its library is missing."""
    return (
        f"Docker not available: {problem}. Start the engine (sudo systemctl start docker, or Docker Desktop), or take "
        "our own emulator: LABYARD_EVSE_EMULATOR_IMPL=labyard"
    )


def pull_failed(image: str, problem: object) -> str:
    """The image is not loaded and could not be fetched."""
    return (
        f"Failed to pull image {image}: {problem}. Check the network, or load it by hand: docker pull {image}. An "
        "image that is loaded is taken as it is; another one: LABYARD_EVSE_EMULATOR_IMAGE"
    )


def no_bridge(pty: Path, seconds: float, said: str) -> str:
    """The link to the PTY did not come; `said` is what socat printed."""
    text = f"{pty} did not appear within {seconds:g} s of starting socat"
    if "denied" in said.lower() or not os.access(pty.parent, os.W_OK) or not Path("/dev/pts").is_dir():
        text = (
            f"PTY permission denied: {text}. {pty.parent} must be writable (chmod 1777 {pty.parent}) and /dev/pts "
            f"mounted. To look: ls -la {pty.parent} | grep rapi_pty; ls /dev/pts"
        )
    return f"{text}. socat said: {said.strip() or 'nothing'}"


def socat_missing() -> str:
    """The bridge's program is not there."""
    return "socat is not installed: apt-get install socat; on macOS: brew install socat"


def not_ready(what: str, url: str, seconds: float, said: str) -> str:
    """A part does not answer; `said` is the end of its log."""
    waited = f"within {seconds:g} s (LABYARD_EVSE_HTTP_WAIT)"
    return f"The {what} did not answer at {url} {waited}. It said:\n{said or 'nothing'}"


def not_discovered(url: str, wanted: Iterable[str], found: Iterable[str], seconds: float, native: bool) -> str:
    """A gateway does not list what it should; `native`: it needs the host's mDNS daemon."""
    text = (
        f"Peer discovery timed out: after {seconds:g} s {url} has found {sorted(found)}, not {sorted(wanted)}. Give it "
        "more time, look with avahi-browse -a -r (macOS: dns-sd -B _openevse._tcp), restart the daemon with "
        "sudo systemctl restart avahi-daemon"
    )
    missing = mdns_missing(native)
    return f"{missing} {text}" if missing else text


def mdns_missing(native: bool, exists: Callable[[], bool] = AVAHI_SOCKET.exists) -> str:
    """Why there can be no mDNS; "" when there is nothing to say. Our own gateway brings its responder along."""
    if not native or sys.platform == "darwin" or exists():
        return ""
    how = (
        "start it: sudo systemctl start avahi-daemon"
        if shutil.which("avahi-daemon")
        else ("install it: sudo apt-get install avahi-daemon")
    )
    return f"mDNS not available: the native build needs avahi-daemon, which does not run; {how}."
