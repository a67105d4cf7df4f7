"""Whether tests with real machines run at all (contract section 12): pytest in a process of its own, as one would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
ONE = "tests/integration/vms/test_integration_vm_lifecycle.py::test_stop"


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """Its exit status, and what it said."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("VMAN_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=CHECKOUT,
        env=inherited | environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_they_are_skipped_unless_asked_for() -> None:
    status, said = run(ONE)
    assert status == 0 and "1 skipped" in said and "VMAN_ENABLE_INTEGRATION_TESTS is not 1" in said


def test_they_are_skipped_without_qemu() -> None:
    status, said = run(ONE, VMAN_ENABLE_INTEGRATION_TESTS="1", PATH="/nowhere")
    assert status == 0 and "1 skipped" in said
    assert "qemu-system-x86_64 (or qemu-kvm) and qemu-img are not both installed" in said


@pytest.mark.parametrize("arguments", [(ONE,), ("-n", "2", ONE)])
def test_a_dry_run_is_refused(arguments: tuple[str, ...]) -> None:
    status, said = run(*arguments, VMAN_ENABLE_INTEGRATION_TESTS="1", VMAN_OPERATOR_DRY_RUN="1")
    assert status == pytest.ExitCode.USAGE_ERROR and "a dry integration run proves nothing" in said


@pytest.mark.parametrize(("expression", "is_there"), [("integration", True), ("not integration", False)])
def test_the_marker_selects_them(expression: str, is_there: bool) -> None:
    _, said = run("--override-ini=addopts=", "--collect-only", "-q", "-m", expression, "tests/integration/vms")
    assert ("test_integration_vm_lifecycle.py::test_stop" in said) is is_there
    assert ("test_vms_api.py::" in said) is not is_there
