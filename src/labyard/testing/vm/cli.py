"""`labyard vm …`: the image of test VMs, and a shell in one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
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
from labyard.testing.vm.folders import live, sweep
from labyard.testing.vm.image.build import Recipe
from labyard.testing.vm.image.build import build as build_image
from labyard.testing.vm.image.manifest import DEFAULT_FOLDER
from labyard.testing.vm.session import VMSession

app = typer.Typer(
    no_args_is_help=True,
    help="VMs of tests: the image that they boot, those that run, and a look into one. No lab and no root needed.\n\n"
    "A test that takes the argument `vm` gets a fresh VM: pip install labyard pytest, `labyard vm build` once in your "
    "project's folder, then pytest.",
)
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


@app.command(epilog="For example: labyard vm build --package strace --package tcpdump")
def build(
    image: ImageOption = DEFAULT_FOLDER,
    suite: Annotated[str, typer.Option(help="Debian's release.")] = Recipe.suite,
    kernel: Annotated[Kernel, typer.Option(help=str(Kernel.__doc__))] = Kernel.cloud,
    package: Annotated[list[str] | None, typer.Option(help="One more package in the guest; repeatable.")] = None,
    mirror: Annotated[str, typer.Option(help="Debian's mirror; empty: mmdebstrap's choice.")] = Recipe.mirror,
    force: Annotated[bool, typer.Option("--force", help="Build again, though nothing has changed.")] = False,
) -> None:
    """Build the image that VMs boot: a Debian kernel and a small Debian.

    Needs the network and a minute or two, once; when nothing has changed it does nothing. It mounts nothing, and needs
    no root where user namespaces are allowed. `pytest --vm-image FOLDER` takes another image than build/vm.
    """
    recipe = Recipe(suite, kernel.value, tuple(sorted(package or [])), mirror)
    began = time.monotonic()
    with _plain_errors(), Console(stderr=True).status("building the image") as status:

        def say(step: str) -> None:
            print(f"labyard: [{time.monotonic() - began:3.0f} s] {step}", flush=True)
            status.update(step)

        done = build_image(image, recipe, say, force)
    print(f"{image}: {f'built in {time.monotonic() - began:.0f} s' if done else 'unchanged'}")


@app.command(name="list")
def list_vms() -> None:
    """Show the VMs of yours that run: those of tests under way, and those that --vm-keep has left."""
    found = list(live())
    if not found:
        print("no VM runs; `pytest --vm-keep=failed` leaves that of a failed test running")
    for folder, facts in found:
        minutes = (time.time() - facts["started"]) / 60
        print(f"{folder}  process {facts['pid']}, {facts['memory']} MiB, for {minutes:.0f} min")


@app.command()
def stop(folder: Annotated[Path, typer.Argument(help="As `labyard vm list` shows it.")]) -> None:
    """End a VM that --vm-keep has left, before its hour is over."""
    with _plain_errors():
        pids = [facts["pid"] for path, facts in live() if path == folder.absolute()]
        if not pids:
            raise VMError(f"no VM in {folder}; `labyard vm list` shows those that run")
        os.kill(pids[0], signal.SIGTERM)
        end = time.monotonic() + HELLO_SECONDS
        while any(path == folder.absolute() for path, _ in live()):
            if time.monotonic() > end:
                raise VMError(f"process {pids[0]} does not end on SIGTERM")
            time.sleep(0.05)
        sweep()


@app.command(epilog="For example: pytest -k that_fails --vm-keep=failed, then labyard vm shell FOLDER as it says")
def shell(
    folder: Annotated[Path | None, typer.Argument(help="Of a VM left by --vm-keep; a new VM without it.")] = None,
    image: ImageOption = DEFAULT_FOLDER,
    accel: Annotated[Accel, typer.Option(help="As pytest's --vm-accel.")] = Accel.auto,
) -> None:
    """Open a shell in a VM: as root, on a kernel that you may ruin.

    Ctrl-] leaves it. A new VM ends with its shell; one that was kept goes on until its hour is over, or
    `labyard vm stop`.
    """
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
