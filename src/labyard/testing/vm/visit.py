"""The four methods on a host of the lab, so that what is written for a VM runs there, too."""

from __future__ import annotations

import base64
import contextlib
import io
import shlex
import socket
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qs, urlsplit

from labyard.lab import LabHost
from labyard.testing.vm.client import Agent
from labyard.testing.vm.errors import VMError
from labyard.testing.vm.image.manifest import GUEST
from labyard.testing.vm.machine import Machine

HELLO_SECONDS = 30.0
# The agent comes along in memory: nothing is left on the host, and nothing need be there but Python.
BOOT = """\
import base64, os, sys
place = os.memfd_create("labyard-agent")
os.write(place, base64.b64decode(sys.argv[1]))
sys.path.insert(0, f"/proc/self/fd/{place}")
from guest.visitor import main
main()
"""


class HostMachine(Machine):
    """A lab's host, with the methods of a VM. What is run there is killed at the end, and all else stays."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self._agent = agent

    @property
    def agent(self) -> Agent:
        return self._agent


@contextlib.contextmanager
def visit(host: LabHost) -> Iterator[HostMachine]:
    """A host as a machine, as root. VMError: it cannot be reached, or has no Python."""
    command = argv(host, ["python3", "-c", BOOT, archive()])
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.PIPE)
    agent = Agent(ours)
    try:
        try:
            agent.hello(HELLO_SECONDS)
        except VMError as error:
            process.kill()
            said = process.communicate()[1].decode(errors="replace").strip()
            raise VMError(f"no agent on {host.name} ({host.url}): {said or error}") from error
        yield HostMachine(agent)
    finally:
        agent.close()
        process.wait()
        if process.stderr:
            process.stderr.close()


def argv(host: LabHost, command: Sequence[str]) -> list[str]:
    """What runs a command on a host, with its input and output here."""
    url = urlsplit(host.url)
    if url.scheme == "local":
        return [*command]
    if url.scheme == "docker":
        return ["docker", "exec", "--interactive", url.netloc, *command]
    options = {name: values[0] for name, values in parse_qs(url.query).items()}
    key = ["-i", options["ssh_identity_file"]] if "ssh_identity_file" in options else []
    port = ["-p", str(url.port)] if url.port else []
    sudo = ["sudo", "-n"] if options.get("sudo") == "true" else []
    where = f"{url.username}@{url.hostname}" if url.username else str(url.hostname)
    return ["ssh", "-o", "BatchMode=yes", *key, *port, where, shlex.join([*sudo, *command])]


def archive() -> str:
    """The agent as a zip file in text, small enough for a command line."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as files:
        for file in sorted(GUEST.glob("*.py")):
            files.write(file, f"guest/{file.name}")
    return base64.b64encode(data.getvalue()).decode()
