"""Another project that installs Labyard, and nothing that a lab needs, and writes one test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)  # it installs, and boots a VM
REPOSITORY = Path(__file__).parents[3]
TEST = """
def test_kernel_takes_an_address(vm):
    vm.run("ip addr add 10.0.0.10/32 dev lo")
    assert "10.0.0.10/32" in vm.run("ip addr show lo").stdout
"""


@pytest.fixture
def project(tmp_path):
    """Runs a program of the project's own environment, in its folder."""
    uv = Path(sys.executable).with_name("uv")
    (tmp_path / "test_first.py").write_text(TEST)
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / ".venv"], check=True)
    python = tmp_path / ".venv/bin/python"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, REPOSITORY, "pytest"], check=True)

    def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [tmp_path / ".venv/bin" / program, *words]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_a_project_that_installs_labyard_alone(project, image_options, vm):
    vm.close()  # all is skipped where no VM runs
    shown = project("pytest", "-rs").stdout
    assert "1 skipped" in shown
    assert "build/vm: run `make vm-image` (or `labyard vm build`)" in shown

    tested = project("pytest", "--vm-require", *image_options)
    assert "1 passed" in tested.stdout, tested.stdout

    helped = project("labyard", "vm", "build", "--help")
    assert helped.returncode == 0 and "--package" in helped.stdout, helped.stderr
    refused = project("labyard", "status")
    assert refused.returncode == 1
    assert "pip install 'labyard[control]'" in refused.stderr
