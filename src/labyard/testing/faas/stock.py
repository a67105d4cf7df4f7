"""The archive of a handler in Python, composed of this machine's own Python: no Docker, no network."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

from labyard.testing.faas.archives import Member, directory, docker_archive, layer, symlink

PYTHON = Path("/usr/bin/python3")
LIBRARY = Path("/usr/lib")
HANDLER = "/app/handler.py"
# Tests, tools, and what draws in large libraries that no handler of a test wants.
NOT_NEEDED = re.compile(
    r"/(test|idlelib|tkinter|ensurepip|lib2to3|distutils|pydoc_data|turtledemo|config-[^/]*|venv|unittest|wsgiref|xmlrpc"
    r"|curses|dbm|sqlite3|(nis|readline|_curses|_curses_panel|_dbm|_sqlite3|_codecs_\w+)\..*)(/|$)"
)
# What handlers of tests import, and where the modules are that this loads.
FEW_MODULES = """
import encodings.ascii, encodings.latin_1, json, pathlib, signal, socket, subprocess, sys, threading, time
for module in list(sys.modules.values()):
    for path in (getattr(module, "__file__", None), getattr(module, "__cached__", None)):
        if path:
            print(path)
"""


def handler_archive(handler: Path, *arguments: str) -> bytes:
    """An image whose command is `python3 /app/handler.py` with these arguments; about 35 MB.

    The same twice, so that what is made of it can be kept. OSError, subprocess.CalledProcessError: this machine has no
    Python of Debian's.
    """
    return docker_archive([python_layer(), handler_layer(handler)], Cmd=["python3", HANDLER, *arguments])


def handler_layer(handler: Path) -> bytes:
    """The layer above the Python: the handler's file."""
    return layer(directory("app"), Member(HANDLER.lstrip("/"), handler.read_bytes()))


def python_layer() -> bytes:
    """This machine's Python with its library, as a layer. Its caches are kept: without them each start compiles."""
    library = _library()
    extensions = [path for path in (library / "lib-dynload").glob("*.so") if not NOT_NEEDED.search(str(path))]
    return _python([library], extensions)


def small_python_layer() -> bytes:
    """The same with the few modules that handlers of tests need: 10 MB and 150 files, which deploy in less time."""
    found = {Path(line) for line in _ask("-I", "-c", FEW_MODULES).split()}
    extensions = [path for path in found if path.suffix == ".so"]
    return _python(sorted({path for path in found if path.is_relative_to(_library())}), extensions)


def _python(paths: Iterable[Path], extensions: Iterable[Path]) -> bytes:
    """A layer of the program, these paths of its library, and the shared libraries of both."""
    version = _library().name
    program = Path(f"/usr/bin/{version}")
    shared = {program}
    for each in (program, *extensions):
        said = subprocess.run(["ldd", each], capture_output=True, text=True, check=True).stdout
        shared |= {Path(path) for path in re.findall(r"(/\S+) \(0x", said)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(shared):
            name = str(path).lstrip("/")
            archive.add(path.resolve(), name if name.startswith("usr/") else f"usr/{name}")
        for path in paths:
            archive.add(path, str(path).lstrip("/"), filter=_wanted)
        for member in (
            symlink("usr/bin/python3", version),
            *(symlink(name, f"usr/{name}") for name in ("bin", "lib", "lib64")),
            directory(f"usr/lib/{version}/lib-dynload"),  # Python complains where there is none
            directory("tmp", mode=0o1777),
            directory("etc"),
            Member("etc/passwd", b"root:x:0:0::/:/bin/sh\nhandler:x:1234:1235::/:/bin/sh\n"),
            Member("etc/group", b"root:x:0:\nhandler:x:1235:\nmore:x:1300:handler\n"),
        ):
            archive.addfile(member.info, io.BytesIO(member.content))
    return buffer.getvalue()


def _library() -> Path:
    return LIBRARY / _ask("-c", "import sys; print('python%d.%d' % sys.version_info[:2])").strip()


def _ask(*words: str) -> str:
    return subprocess.run([PYTHON, *words], capture_output=True, text=True, check=True).stdout


def _wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if NOT_NEEDED.search(f"/{info.name}") else info
