"""Runs one of the system's programs: an argument list, never a shell."""

from __future__ import annotations

import subprocess

from labyard.core.adapter import AdapterError

TIMEOUT = 20.0  # seconds


def run(*arguments: str, given: str | None = None, timeout: float = TIMEOUT) -> str:
    """What it prints. `given` is its standard input. AdapterError when it is not there, fails or takes too long."""
    name = arguments[0]
    try:
        done = subprocess.run(
            arguments, input=given or "", capture_output=True, text=True, timeout=timeout, check=False
        )
    except FileNotFoundError:
        raise AdapterError(f"{name} is not installed on this node") from None
    except subprocess.TimeoutExpired:
        raise AdapterError(f"{name} gave no answer within {timeout:g} s") from None
    if done.returncode:
        said = " / ".join((done.stderr.strip() or done.stdout.strip()).splitlines())[:300]
        raise AdapterError(f"{' '.join(arguments[:2])} failed: {said or done.returncode}")
    return done.stdout
