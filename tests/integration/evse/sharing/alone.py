"""Run a script in a network namespace of its own: with a loopback, and without any other gateway."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[3]
PATIENCE = 120


def run_alone(script: str, *arguments: str, before: str = "true") -> list[str]:
    """The lines it prints. `before` is what a shell does first. Skips where a test may not have a namespace."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this host does not let a test have a network namespace of its own")
    shell = f'ip link set lo up && {before} && PYTHONPATH={TESTS} exec "$0" -c "$@"'
    done = subprocess.run(
        [unshare, "-rn", "sh", "-c", shell, sys.executable, script, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
