"""What a daemon that was killed left behind, removed before the next one begins (contract 11.2)."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from labyard.faas.adapters.images import Images
from labyard.faas.adapters.loopback import Loopback
from labyard.faas.container import REQUEST_SOCKETS, Place
from labyard.faas.errors import RuntimeFailure
from labyard.faas.log import log
from labyard.faas.names import is_request_socket
from labyard.faas.registry import Registry

SECONDS = 5  # what killed processes may take to be gone


def sweep(place: Place, registry: Registry, images: Images, loopback: Loopback) -> None:
    """Remove containers, their groups, bundles and sockets, addresses nobody registered, scratch, trees nobody uses.

    Links are mended. Nothing is at work yet: whatever is found is left over. FaasError when addresses cannot be read.
    """
    settings = place.settings
    deadline = time.monotonic() + SECONDS
    # One that is being killed may still be making something, which is to be found below.
    while (calls := place.runtime.processes()) and time.monotonic() < deadline:
        for pid in calls:
            _kill(pid)
        time.sleep(0.01)
    # Groups of this name are not looked for: another daemon of this host may have its own there.
    bundles = {path.name for folder in (settings.bundles, settings.warm) for path in folder.iterdir()}
    for container in sorted(place.runtime.observed() | bundles):
        log("init", f"Removing what is left of {container}")
        try:
            remove_container(place, container)
        except RuntimeFailure as error:
            log("init", f"{error}")
    for folder in (settings.bundles, settings.warm, settings.scratch):
        for path in folder.iterdir():
            remove_path(path)
    for path in REQUEST_SOCKETS.iterdir():
        if is_request_socket(path.name) and is_dead(path):
            remove_path(path)
    wanted = registry.all()
    loopback.remove(set(loopback.observed()) - {function.ip for function in wanted.values()})
    if registry.damaged:
        return  # what its functions were made of is kept: the file can be mended and put back
    keys = {function.key for function in wanted.values()}
    for key in images.unheld():
        if key not in keys:
            images.remove_unheld(key)
    links = images.names()
    for name in links:
        if name not in wanted:
            images.forget(name)
    for name, function in wanted.items():
        # Killed in the middle of a deploy: the link was switched, the registry not yet.
        if function.key and links.get(name) != function.key and images.tree(function.key).is_dir():
            images.point(name, function.key)
    for path in settings.requests.iterdir():
        if path.name not in wanted:
            remove_path(path)


def remove_container(place: Place, container: str) -> None:
    """Kill and remove a container that nobody owns, and its groups. RuntimeFailure when it stays."""
    with suppress(OSError):
        place.cgroups.freeze(container, False)  # what is frozen does not die
    groups = place.cgroups.leftovers().get(container, [])
    for group in groups:
        for pid in _members(group):
            _kill(pid)
    place.runtime.delete(container)
    deadline = time.monotonic() + SECONDS
    while any(_members(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.01)
    place.cgroups.remove(container)


def _members(group: Path) -> list[int]:
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def is_dead(path: Path) -> bool:
    """Does nobody listen on a socket? Another daemon of this host may have its own beside ours."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            return probe.connect_ex(str(path)) == errno.ECONNREFUSED
        except OSError:
            return False


def remove_path(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
