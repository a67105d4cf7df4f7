"""Programs on this machine, timed, with an end to their patience."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labyard.bench.bench import MeasureError

_GIST_LINES = 12
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FAILED = re.compile(r"^\[ERROR\]|^fatal: |UNREACHABLE!|FAILED!")


@dataclass(frozen=True)
class Finished:
    """A program that ended well: how long it took, in seconds, and what it printed."""

    seconds: float
    output: str


def clean_environment(*, venv: bool) -> dict[str, str]:
    """This process's environment without what make and Ansible settings add to it.

    venv: whether programs of the virtual environment that runs this come first in PATH.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANSIBLE_", "MAKE", "MFLAGS", "MOLECULE_", "VIRTUAL_ENV"))
    }
    programs = str(Path(sys.prefix) / "bin")
    folders = [folder for folder in kept.get("PATH", os.defpath).split(os.pathsep) if folder != programs]
    kept["PATH"] = os.pathsep.join([programs, *folders] if venv else folders)
    return kept


def run(command: Sequence[str], *, folder: Path, environment: Mapping[str, str], timeout: float) -> Finished:
    """Run a program in a folder. MeasureError when it fails or takes longer than `timeout` seconds.

    Whatever it started ends with it, also when the bench is interrupted.
    """
    began = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise MeasureError(f"{' '.join(command)} was not done within {timeout:g} s") from error
            raise
    seconds = time.monotonic() - began
    if process.returncode != 0:
        raise MeasureError(f"{' '.join(command)} exited with {process.returncode}:\n{gist(output)}")
    return Finished(seconds, output)


def gist(output: str) -> str:
    """What a reader wants of a failure's output: some lines from Ansible's first failed task on, else the last ones."""
    lines = _COLOUR.sub("", output).rstrip().splitlines()
    first = next((index for index, line in enumerate(lines) if _FAILED.search(line)), len(lines) - _GIST_LINES)
    first = max(first, 0)
    return "\n".join(lines[first : first + _GIST_LINES])
