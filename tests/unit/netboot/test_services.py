"""Asking and restarting daemons, with programs that are really started."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from labyard.core.adapter import AdapterError
from labyard.netboot.adapters import services
from labyard.netboot.settings import Settings
from labyard.testing.waiting import PATIENCE

# Of this worker of pytest-xdist alone: programs are looked for on the whole machine, by 15 characters of their names.
PROGRAM = f"labyard-{os.getpid()}"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still is no silent systemctl."""
    monkeypatch.setattr(services, "STATUS_SECONDS", PATIENCE)


def settings(manager: str) -> Settings:
    return Settings.model_validate({"service_manager": manager})


def put_systemctl(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("script", "running"),
    [
        ("echo active", True),
        ("echo inactive; exit 3", False),
        ("echo activating; exit 3", False),
        ("echo failed; exit 3", False),
    ],
)
def test_only_active_is_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, running: bool) -> None:
    put_systemctl(tmp_path, monkeypatch, script)
    assert services.unit_running(settings("systemd"), "tftpd-hpa") is running
    assert (tmp_path / "calls").read_text() == "is-active tftpd-hpa\n"


def test_a_hung_or_missing_systemctl_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "STATUS_SECONDS", 0.1)
    put_systemctl(tmp_path, monkeypatch, "exec sleep 60")
    with pytest.raises(AdapterError, match="timed out"):
        services.unit_running(settings("systemd"), "tgt")
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(AdapterError, match="No such file"):
        services.unit_running(settings("systemd"), "tgt")


def test_a_systemctl_without_systemd_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_systemctl(tmp_path, monkeypatch, "echo 'System has not been booted with systemd' >&2; exit 1")
    with pytest.raises(AdapterError, match="has not been booted with systemd"):
        services.unit_running(settings("systemd"), "tgt")


def test_a_restart_that_systemd_holds_back_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_systemctl(
        tmp_path, monkeypatch, f'[ "$1" = restart ] && [ ! -e {tmp_path}/reset ] && exit 1; touch {tmp_path}/reset'
    )
    services.restart(settings("systemd"), "isc-dhcp-server", [], PATIENCE)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["restart", "reset-failed", "restart"]


def test_none_knows_and_does_nothing() -> None:
    assert services.unit_running(settings("none"), "tgt") is None
    services.restart(settings("none"), "tgt", ["/does/not/exist"], 1)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / PROGRAM
    shutil.copy(shutil.which("sleep") or "/bin/sleep", path)
    yield path
    for pid in services.processes(PROGRAM):
        services._end(pid, PATIENCE)


def test_a_process_is_found_and_restarted_with_its_own_command(program: Path) -> None:
    assert services.unit_running(settings("process"), PROGRAM) is False
    services.restart(settings("process"), PROGRAM, [str(program), "600"], PATIENCE)
    assert services.unit_running(settings("process"), PROGRAM) is True
    (first,) = services.processes(PROGRAM)
    services.restart(settings("process"), PROGRAM, [str(program), "601"], PATIENCE)
    ((second, command),) = services.processes(PROGRAM).items()
    assert second != first
    assert command == [str(program), "600"]


def test_a_process_that_fails_at_once_is_said(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "START_SECONDS", PATIENCE)
    with pytest.raises(services.CommandFailed, match="invalid time interval"):
        services.restart(settings("process"), PROGRAM, [str(program), "soon"], PATIENCE)


def test_a_zombie_does_not_run(program: Path) -> None:
    zombie = subprocess.Popen([program, "0"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    assert services.unit_running(settings("process"), PROGRAM) is False
    zombie.wait()


@pytest.mark.parametrize(
    ("command", "seconds", "said"),
    [
        (["/does/not/exist"], PATIENCE, "not installed"),
        (["sleep", "60"], 0.2, "no end within"),
        (["sh", "-c", "echo why >&2; exit 1"], PATIENCE, "why"),
    ],
)
def test_a_command_that_fails_says_why(command: list[str], seconds: float, said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        services.run(command, seconds)
