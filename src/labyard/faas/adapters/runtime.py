"""runc, or crun: containers started, killed, deleted, listed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from labyard.faas.adapters.bundle import make_config
from labyard.faas.adapters.cgroups import Cgroups
from labyard.faas.children import Calls
from labyard.faas.errors import RuntimeFailure
from labyard.faas.limits import Limits
from labyard.faas.names import is_container_id, new_container_id
from labyard.faas.registry import DEFAULT_PATH, Function

SECONDS = 20  # what kill, delete and list may take


class Runtime:
    """One runtime program with its own state folder. What runs is not kept here: the program is asked.

    `cgroups` is what it can make of the host's.
    """

    def __init__(self, program: str, root: Path, cgroups: Cgroups) -> None:
        self.program = program
        self.name = Path(program).name
        self.calls = Calls(self.name)
        self.cgroups = cgroups
        self._root = root
        self.command = [program, "--root", str(root)]
        if self.name == "crun":
            # crun fails where one controller of the kernel is not mounted; without groups there are no limits.
            self.command.append(f"--cgroup-manager={'cgroupfs' if cgroups.enforced else 'disabled'}")

    @property
    def _environment(self) -> dict[str, str]:
        """Nothing but the path. With systemd's NOTIFY_SOCKET the runtime would wait for word from each container."""
        return {"PATH": os.environ.get("PATH", DEFAULT_PATH)}

    def start(self, container: str, bundle: Path, output: int) -> subprocess.Popen[bytes]:
        """Start a container whose process writes to the descriptor `output`: the call that does it.

        It exits with 0 when the process is started, and `bundle/pid` has its number; else its last line says why not.
        """
        return self.calls.start(
            [*self.command, "run", "--detach", "--pid-file", str(bundle / "pid"), "--bundle", str(bundle), container],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=self._environment,
        )

    def delete(self, container: str) -> None:
        """Kill and remove a container; absent is fine. RuntimeFailure when it is still there."""
        if not (self._root / container).exists():
            return
        if said := self._run("delete", "--force", container):
            raise RuntimeFailure(f"{self.name} delete {container}: {said}")

    def observed(self) -> set[str]:
        """Containers of ours that the runtime knows. Its folder is asked: one that is half made is not in its list."""
        if not self._root.is_dir():
            return set()
        return {path.name for path in self._root.iterdir() if is_container_id(path.name)}

    def processes(self) -> list[int]:
        """Calls of the runtime with our state folder that are still under way, whoever made them.

        A folder of that name in another mount namespace, as in a container of this host, is another folder.
        """
        wanted = b"\0".join(word.encode() for word in self.command[1:3])
        ours = Path("/proc/self/ns/mnt").readlink()
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    if wanted in (path / "cmdline").read_bytes() and (path / "ns/mnt").readlink() == ours:
                        found.append(int(path.name))
                except OSError:
                    continue  # it has ended
        return found

    def self_test(self, folder: Path) -> None:
        """Run one throw-away container with all that functions' containers have. RuntimeFailure with its own words."""
        container = new_container_id()
        bundle = folder / container
        rootfs = bundle / "rootfs"
        system = [path for path in ("/bin", "/lib", "/lib64", "/usr") if Path(path).is_dir()]
        for path in ("/proc", "/dev", "/sys", "/tmp", *system):
            (rootfs / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        (rootfs / "control.sock").touch()
        function = Function("self-test", "", str(rootfs), (shutil.which("true") or "/bin/true",))
        limits = Limits(64 << 20, 1.0, 16, 1 << 20, 10, 1, 0)
        config = make_config(container, function, limits, str(rootfs), str(rootfs / "control.sock"), self.cgroups)
        config["mounts"] += [
            {"destination": path, "type": "bind", "source": path, "options": ["bind", "ro"]} for path in system
        ]
        (bundle / "config.json").write_text(json.dumps(config))
        try:
            if said := self._run("run", "--bundle", str(bundle), container):
                raise RuntimeFailure(f"{self.name} cannot run a container here: {said}")
        finally:
            self.delete(container)
            shutil.rmtree(bundle)

    def _run(self, *words: str) -> str:
        """Call the program: empty text, or the last line of what it said when it failed."""
        pipe = subprocess.PIPE
        try:
            call = self.calls.start(
                [*self.command, *words],
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                env=self._environment,
            )
        except OSError as error:
            raise RuntimeFailure(f"{self.program}: {error.strerror}") from None
        with call:
            try:
                _, said = call.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                call.kill()
                raise RuntimeFailure(f"{self.name} {words[0]} did not end within {SECONDS} s") from None
            finally:
                self.calls.ended(call)
        return last_line(said.decode("utf-8", "replace")) if call.returncode else ""


def last_line(output: str) -> str:
    """The runtime's last line, which says what went wrong; of a logged line only its message."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return "it said nothing"
    line = lines[-1]
    if 'msg="' in line:
        line = line.partition('msg="')[2].removesuffix('"').replace('\\"', '"')
    return line


def find_runtime(wanted: str, root: Path, folder: Path, cgroups: Cgroups) -> Runtime:
    """The runtime that is set and works here; with `auto` the first that does. RuntimeFailure says why none does."""
    reasons = []
    for name in ("runc", "crun") if wanted == "auto" else (wanted,):
        program = shutil.which(name)
        if program is None:
            reasons.append(f"the runtime {name} is not installed")
            continue
        is_crun = Path(program).name == "crun"
        for groups in (cgroups.named(), replace(cgroups, enforced=frozenset())) if is_crun else (cgroups,):
            runtime = Runtime(program, root, groups)
            try:
                runtime.self_test(folder)
            except RuntimeFailure as error:
                reasons.append(str(error))
            else:
                return runtime
    raise RuntimeFailure("; ".join(reasons))
