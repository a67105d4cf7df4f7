"""The archive of a handler in Python, composed of this machine's own Python: no Docker, no network."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
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
    """This host's Python 3 with its libraries, as a layer. Its caches are kept: without them each start compiles."""
    version = subprocess.run(
        [PYTHON, "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    wanted = {Path(f"/usr/bin/{version}")}
    extensions = [path for path in (LIBRARY / version / "lib-dynload").glob("*.so") if not NOT_NEEDED.search(str(path))]
    for program in [*wanted, *extensions]:
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        wanted |= {Path(path) for path in re.findall(r"(/\S+) \(0x", said)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(wanted):
            name = str(path).lstrip("/")
            archive.add(path.resolve(), name if name.startswith("usr/") else f"usr/{name}")
        archive.add(LIBRARY / version, f"usr/lib/{version}", filter=_wanted)
        for member in (
            symlink("usr/bin/python3", version),
            *(symlink(name, f"usr/{name}") for name in ("bin", "lib", "lib64")),
            directory("tmp", mode=0o1777),
            directory("etc"),
            Member("etc/passwd", b"root:x:0:0::/:/bin/sh\nhandler:x:1234:1235::/:/bin/sh\n"),
            Member("etc/group", b"root:x:0:\nhandler:x:1235:\nmore:x:1300:handler\n"),
        ):
            archive.addfile(member.info, io.BytesIO(member.content))
    return buffer.getvalue()


def _wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if NOT_NEEDED.search(f"/{info.name}") else info
