"""Asks the service manager about the daemons that the adapters stand on (contract sections 1.5 and 5.7)."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from labyard.core.adapter import AdapterError
from labyard.netboot.settings import Settings

STATUS_SECONDS = 1.5  # a status must be answered within 2 s
START_SECONDS = 0.5  # that a daemon which stays in the foreground has to fail
# What the daemons of the distribution's units are called where there is no systemd to ask for the unit.
_PROGRAMS = {"kea-dhcp4-server": "kea-dhcp4", "isc-dhcp-server": "dhcpd", "tftpd-hpa": "in.tftpd", "tgt": "tgtd"}


def unit_running(settings: Settings, unit: str) -> bool | None:
    """Whether a daemon runs. AdapterError when that cannot be found out. Answers within STATUS_SECONDS.

    systemd: `systemctl is-active` prints `active`. process: a program of that name is there; `unit` is then the
    distribution's unit name, or the program's own. none: always None, there is nobody to ask.
    """
    if settings.service_manager == "systemd":
        try:
            done = subprocess.run(
                ["systemctl", "is-active", unit], capture_output=True, text=True, timeout=STATUS_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise AdapterError(f"systemctl cannot be asked about {unit}: {error}") from error
        if not done.stdout.strip():  # without a systemd to talk to, systemctl says so on standard error
            raise AdapterError(f"systemctl does not say whether {unit} runs: {done.stderr.strip()[:200]}")
        return done.stdout.strip() == "active"
    if settings.service_manager == "process":
        return bool(processes(unit))
    return None


def processes(unit: str) -> dict[int, list[str]]:
    """Command lines of the running processes of a unit's program, by process id."""
    # The kernel keeps 15 characters of a name.
    name = _PROGRAMS.get(unit.removesuffix(".service"), unit)[:15]
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() != name:
                continue
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # ended meanwhile
        if command:  # that of a zombie is empty
            found[int(folder.name)] = command.rstrip("\0").split("\0")
    return found


def restart(settings: Settings, unit: str, command: list[str], timeout: float) -> None:
    """Restart a daemon. AdapterError when the service manager or the daemon refuses, or `timeout` seconds pass.

    process: the running one is ended and its own command line started again; `command` is used when none runs.
    none: nothing is done, somebody else restarts it.
    """
    if settings.service_manager == "systemd":
        try:
            run(["systemctl", "restart", unit], timeout)
        except CommandFailed:
            # systemd refuses more than a few starts in a row (5 within 10 s) until it is told to forget them.
            run(["systemctl", "reset-failed", unit], timeout)
            run(["systemctl", "restart", unit], timeout)
    elif settings.service_manager == "process":
        for pid, running in processes(unit).items():
            command = running
            _end(pid, timeout)
        _start(command)


def _end(pid: int, timeout: float) -> None:
    """End a process and wait until its number is free again: a daemon's pid file is stale only then."""
    until = time.monotonic() + timeout
    try:
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < until + 1:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # one that this process started stays as a zombie otherwise
            os.kill(pid, signal.SIGKILL if time.monotonic() > until else 0)
            time.sleep(0.02)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise AdapterError(f"process {pid} belongs to another user and cannot be restarted: {error}") from error
    raise AdapterError(f"process {pid} does not end within {timeout:g} s")


def _start(command: list[str]) -> None:
    """Start a daemon in a session of its own. One that stays in the foreground has START_SECONDS to fail."""
    with tempfile.TemporaryFile() as said:
        try:
            # Not waited for on success: a daemon outlives the one that starts it.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
            code = process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            return
        except OSError as error:
            raise AdapterError(f"{' '.join(command)}: {error}") from error
        if code:
            said.seek(0)
            raise CommandFailed(f"{' '.join(command)}: {said.read().decode(errors='replace').strip()[-1000:]}")


class CommandFailed(AdapterError):
    """A command ran to its end and said that something is wrong."""


def run(command: list[str], timeout: float, **environment: str) -> str:
    """What a command prints. CommandFailed when it fails, AdapterError when it cannot be run or takes longer than
    `timeout` seconds. `environment` is added to this process's own."""
    name = Path(command[0]).name
    env = os.environ | environment
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=env)
    except FileNotFoundError:
        raise AdapterError(f"{name} is not installed on this host, or not in PATH") from None
    except subprocess.TimeoutExpired:
        raise AdapterError(f"{' '.join(command)}: no end within {timeout:g} s") from None
    except OSError as error:
        raise AdapterError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}")[-1000:]
        raise CommandFailed(f"{' '.join(command)}: {said}")
    return done.stdout
