"""The two single files, and that nothing in them needs more than Python's own library (contract D2 and section 12)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "src/labyard/faas").rglob("*.py"))
# In the standard library from Python 3.14 on; older ones do without.
NEWER = {"compression"}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not bundled"
            yield node.module or ""


def test_there_is_something_to_look_at() -> None:
    assert len(SOURCES) > 30


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_standard_library_only(path: Path) -> None:
    for name in imported(path):
        ours = name == "labyard.faas" or name.startswith("labyard.faas.")
        assert ours or name.split(".")[0] in sys.stdlib_module_names | NEWER, f"{path} imports {name}"


def test_command_imports_little() -> None:
    """Starting Python is most of a call's time in an emulated guest."""
    names = set(imported(ROOT / "src/labyard/faas/cli.py"))
    # urllib.parse only where somebody gives a name that no function can have.
    names.discard("urllib.parse")
    assert names <= {"__future__", "collections.abc", "json", "os", "socket", "stat", "sys", "typing"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("build")
    subprocess.run([sys.executable, ROOT / "scripts/faas_single.py", target], check=True)
    open_up(target)
    return target


def open_up(folder: Path) -> None:
    """Let everybody reach a temporary folder: what is tested runs as nobody."""
    for path in (folder, *folder.parents):
        if path == Path(tempfile.gettempdir()):
            break
        path.chmod(0o755)


def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    # -S and -I: without site-packages, so that nothing installed can help.
    command = [sys.executable, "-I", "-S", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_they_are_programs(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == ["faas", "faasd.py"]
    for path in built.iterdir():
        assert path.read_text().startswith("#!/usr/bin/env python3\n")
        assert path.stat().st_mode & 0o777 == 0o755


def test_version_and_help(built: Path) -> None:
    version = run(built / "faasd.py", "--version").stdout
    assert version.startswith("faasd 0.")
    assert "+" in version
    assert run(built / "faasd.py", "--help").stdout.startswith("Usage: faasd")
    assert run(built / "faas", "--help").stdout.startswith("Usage: faas <command>")


def test_same_sources_make_the_same_files(built: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts/faas_single.py", tmp_path], check=True)
    for path in built.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


USE = """
import io, os, sys, threading
sys.path.insert(0, sys.argv[1])
before = set(os.listdir("."))
import faasd
from faasd import Registry, extract_docker_image, get_image_entrypoint, main
assert threading.active_count() == 1
assert set(os.listdir(".")) == before
registry = Registry(sys.argv[2] + "/registry.json")
registry.load()
assert registry.all() == {}
with open(sys.argv[2] + "/image.tar", "rb") as file:
    extract_docker_image(file, sys.argv[2] + "/rootfs")
    print(get_image_entrypoint(file), open(sys.argv[2] + "/rootfs/file").read())
    try:
        extract_docker_image(io.BytesIO(b""), sys.argv[2] + "/other")
    except Exception as error:
        print(error)
"""


def test_public_names_without_root_and_side_effects(built: Path, tmp_path: Path) -> None:
    from labyard.testing.faas.archives import docker_archive, layer

    (tmp_path / "image.tar").write_bytes(docker_archive([layer({"file": b"content"})], Cmd=["echo"]))
    options: dict[str, object] = {}
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 65534)
        open_up(tmp_path)
        options = {"user": 65534, "group": 65534, "extra_groups": []}
    program = Path(sys.executable).resolve()
    done = subprocess.run(
        [_python_for_everyone(program), "-I", "-S", "-c", USE, str(built), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        **options,  # type: ignore[call-overload]
    )
    assert done.stderr == ""
    assert done.stdout == "['echo'] content\nInvalid Docker image: an archive cannot be read (empty file)\n"


def _python_for_everyone(program: Path) -> str:
    """This Python, or the system's where only root can reach this one."""
    return str(program) if not str(program).startswith("/root/") else "/usr/bin/python3"


def test_daemon_needs_root(built: Path) -> None:
    options: dict[str, object] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    program = _python_for_everyone(Path(sys.executable).resolve())
    done = subprocess.run(
        [program, "-I", built / "faasd.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        **options,  # type: ignore[call-overload]
    )
    assert (done.returncode, done.stdout) == (1, "ERROR: faasd must be run as root\n")
