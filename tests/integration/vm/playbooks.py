"""Playbooks of this repository, run on a VM that systemd has started, as far as a playbook can tell.

The guest's first program is the fixture's agent, so systemd gets a process namespace of its own; kernel, modules and
configfs are the guest's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

from labyard.testing.vm import VM, Result, VMError

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
SYSTEMD = """
mkdir /sys/fs/cgroup/machine && echo $$ > /sys/fs/cgroup/machine/cgroup.procs
exec env container=test unshare --mount --uts --ipc --pid --cgroup --fork --kill-child --mount-proc sh -c '
  umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t tmpfs tmpfs /run &&
  exec /lib/systemd/systemd --unit=multi-user.target --show-status=no'
"""
# There are no terminals to log in at, and no network to look for packages in.
MASKED = ("getty.target", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer")
SYSTEMD_SECONDS = 120
PLAYBOOK_SECONDS = 900
HOST = {"ansible_connection": "vm", "ansible_remote_tmp": "/root/.ansible"}


@dataclass(frozen=True)
class Run:
    """How a playbook ended, in its own words."""

    output: str

    @property
    def changed(self) -> int:
        found = re.search(r"^vm .*\bchanged=(\d+)", self.output, re.MULTILINE)
        assert found, self.output
        return int(found.group(1))


class Systemd:
    """A VM with systemd. `run` is the VM's own, inside."""

    def __init__(self, vm: VM) -> None:
        self.vm = vm
        masks = " ".join(f"/etc/systemd/system/{unit}" for unit in MASKED)
        vm.run(f"for unit in {masks}; do ln -s /dev/null $unit; done; touch /var/lib/apt/lists")
        self.process = vm.spawn(SYSTEMD)
        vm.run(
            "until pid=$(pgrep -xo systemd) && nsenter -t $pid -m -p systemctl is-system-running; do sleep 0.2; done",
            timeout=SYSTEMD_SECONDS * vm.time_scale,
        )
        pid = vm.run("pgrep -xo systemd").stdout.strip()
        self._inside = f"nsenter --target {pid} --mount --uts --ipc --pid --cgroup --wd=/root"

    def run(self, command: str, **options: Any) -> Result:
        return self.vm.run(f"exec {self._inside} bash -c {shlex.quote(command)}", **options)

    def play(self, role: str, *options: str, **variables: Any) -> Run:
        """Run a role. AssertionError: it failed, with what Ansible says."""
        with tempfile.TemporaryDirectory(prefix="vm-play-", dir="/tmp") as name:
            folder = Path(name)
            address = str(folder / "vm.sock")
            (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"vm": HOST}}}))
            play = {"hosts": "vm", "gather_facts": False, "roles": [{"role": role, **variables}]}
            (folder / "play.json").write_text(json.dumps([play]))
            with self._listening(address):
                done = subprocess.run(
                    ["ansible-playbook", "-i", folder / "hosts.json", folder / "play.json", *options],
                    cwd=REPOSITORY,
                    env=os.environ | {"ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection"), "VM_SOCKET": address},
                    capture_output=True,
                    text=True,
                    timeout=PLAYBOOK_SECONDS,
                )
        assert done.returncode == 0, done.stdout + done.stderr
        return Run(done.stdout)

    @contextlib.contextmanager
    def _listening(self, address: str) -> Iterator[None]:
        """Do what the connection plugin asks."""
        with Listener(address, "AF_UNIX") as listener:
            threading.Thread(target=self._serve, args=[listener], daemon=True).start()
            yield

    def _serve(self, listener: Listener) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                with listener.accept() as connection:
                    connection.send(self._answer(*connection.recv()))

    def _answer(self, verb: str, what: str, data: bytes | None) -> tuple[str, Any]:
        """What went wrong, and the answer."""
        try:
            if verb == "run":
                done = self.run(what, input=data, check=False)
                return "", (done.returncode, done.stdout_bytes, done.stderr_bytes)
            return "", self.vm.write_file(what, data or b"") if verb == "write" else self.vm.read_file(what)
        except (VMError, OSError) as error:
            return str(error), None
