"""`labyard vm …`: the image of test VMs, and a shell in one."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from labyard.testing.vm.client import Agent
from labyard.testing.vm.errors import VMError
from labyard.testing.vm.image.build import Recipe
from labyard.testing.vm.image.build import build as build_image
from labyard.testing.vm.image.manifest import DEFAULT_FOLDER
from labyard.testing.vm.session import VMSession

app = typer.Typer(no_args_is_help=True, help="VMs of tests: the image that they boot, and a look into one.")
HELLO_SECONDS = 10.0
LEAVE = "0x1d"  # Ctrl-]
ImageOption = Annotated[Path, typer.Option("--image", help="The image's folder.")]


class Kernel(StrEnum):
    """Debian's: `cloud` is small and boots sooner, `generic` has all drivers."""

    cloud = "cloud"
    generic = "generic"


class Accel(StrEnum):
    auto = "auto"
    kvm = "kvm"
    tcg = "tcg"


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except VMError as error:
        Console(stderr=True).print(f"[red]labyard:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


@app.command()
def build(
    image: ImageOption = DEFAULT_FOLDER,
    suite: Annotated[str, typer.Option(help="Debian's release.")] = Recipe.suite,
    kernel: Annotated[Kernel, typer.Option(help=str(Kernel.__doc__))] = Kernel.cloud,
    package: Annotated[list[str] | None, typer.Option(help="One more package in the guest; repeatable.")] = None,
    mirror: Annotated[str, typer.Option(help="Debian's mirror; empty: mmdebstrap's choice.")] = Recipe.mirror,
    force: Annotated[bool, typer.Option("--force", help="Build again, though nothing has changed.")] = False,
) -> None:
    """Build the image, if it is not there already. Needs the network, and neither root nor mounts."""
    recipe = Recipe(suite, kernel.value, tuple(sorted(package or [])), mirror)
    with _plain_errors():
        done = build_image(image, recipe, lambda text: print(f"labyard: {text}", flush=True), force)
    print(f"{image}: {'built' if done else 'unchanged'}")


@app.command()
def shell(
    folder: Annotated[Path | None, typer.Argument(help="Of a VM left by --vm-keep; a new VM without it.")] = None,
    image: ImageOption = DEFAULT_FOLDER,
    accel: Annotated[Accel, typer.Option(help="As pytest's --vm-accel.")] = Accel.auto,
) -> None:
    """A shell in a VM. Ctrl-] leaves it; a new VM ends with it, one that was kept goes on."""
    with _plain_errors():
        if folder:
            raise typer.Exit(_attach(folder))
        session = VMSession(image, accel.value)
        try:
            vm = session.fresh()
            try:
                raise typer.Exit(_shell(vm.guest.qemu.agent, vm.guest.qemu.folder.path))
            finally:
                vm.close()
        finally:
            session.close()


def _attach(folder: Path) -> int:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(folder / "agent.sock"))
    except OSError as error:
        raise VMError(f"no VM in {folder}: {error.strerror}; it may have ended") from error
    agent = Agent(connection)
    try:
        agent.hello(HELLO_SECONDS)
        return _shell(agent, folder)
    finally:
        agent.close()


def _shell(agent: Agent, folder: Path) -> int:
    """bash on the second serial line, and socat between that and this terminal."""
    socat = shutil.which("socat")
    if not socat:
        raise VMError("socat is not installed: apt-get install socat")
    size = shutil.get_terminal_size()
    terminal = sys.stdin.isatty()
    # The line's echo is for people; a script's input is not to be seen in its output.
    settings = f"rows {size.lines} cols {size.columns}" + ("" if terminal else " -echo")
    bash = "bash -l" if terminal else "bash --noediting -l"
    # Descriptor 3 says when the line is open: what comes before that is lost.
    inside = f"stty {settings}; echo open >&3; exec {bash} 3>&-"
    command = f"exec setsid --ctty --wait sh -c '{inside}' 3>&1 <>/dev/ttyS1 >&0 2>&0"
    call = agent.start("spawn", command=command, env={"TERM": os.environ.get("TERM", "dumb")})
    end = time.monotonic() + HELLO_SECONDS
    while not call.output("stdout"):
        if call.ended.is_set() or time.monotonic() > end:
            raise VMError(f"no shell in the VM: {call.output('stderr').decode(errors='replace')}")
        time.sleep(0.02)
    here = f"STDIO,rawer,escape={LEAVE}" if terminal else "STDIO,ignoreeof"
    bridge = subprocess.Popen([socat, here, f"UNIX-CONNECT:{folder / 'console.sock'}"])

    def end_with_the_shell() -> None:
        call.ended.wait()
        bridge.terminate()

    threading.Thread(target=end_with_the_shell, daemon=True).start()
    bridge.wait()
    return int(call.reply.get("code", 0)) if call.ended.is_set() else 0
