"""What the tests of functions share: the programs, the stock handler's image, and VMs in which they are.

`vm` is a fresh machine in which nothing runs. `deployed` has the daemon running and the stock handler deployed, from a
snapshot of that: for tests of what comes after.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.faas_test_utils import (
    CLIENTS,
    CLIENTS_IN_VM,
    FaaSTestHelper,
    parse_ip_from_output,
)
from helpers.images import LAYERS_IN_VM, create_test_image, image_head, put_image, shared_layers
from helpers.waiting import wait_for_condition

from labyard.testing.faas.stock import handler_archive, handler_layer, small_python_layer

__all__ = ["create_test_image", "parse_ip_from_output", "wait_for_condition"]

HERE = Path(__file__).parent
# The stock handler: a program of the guest's containers, whatever its name looks like.
collect_ignore = ["test_handler.py"]

DAEMON_LOG = "/root/faasd.log"
# In tests that are not about this limit: in an emulated guest that stood still, a handler is not late.
UNHURRIED = {"LABYARD_FAAS_CONNECT_TIMEOUT": "60"}
HANDLER_NAME = "test-handler"
HANDLER_TAR = "/root/test-handler.tar"
BEHAVING_NAME = "behaving"
BEHAVING_HEAD = "/root/behaving.tar.head"
BEHAVING_COMMAND = ["python3", "/app/handler.py"]
# Once before a snapshot, so that no test waits for the first start of a program. Then all is as it was before.
WARMUP = f"""
python3 /root/faasd.py >/dev/null & daemon=$!
until curl --silent --fail http://localhost:8080/health >/dev/null; do sleep 0.2; done
cat {HANDLER_TAR} | python3 /root/faas new warm-up
until curl --silent --fail http://10.0.0.10/ >/dev/null; do sleep 0.2; done
python3 {CLIENTS_IN_VM} 10.0.0.10 1 1 / >/dev/null
kill $daemon; wait $daemon
rm -rf /var/lib/faasd /run/faasd
"""
# The snapshot in which the daemon runs. The first request of a tree takes much longer than others, since nothing
# of it has run yet; so the one that all `behaving` share has been used, too.
RUNNING = f"""
chmod +x /root/faasd.py /root/faas
{" ".join(map("=".join, UNHURRIED.items()))} setsid /root/faasd.py >{DAEMON_LOG} 2>&1 &
until curl --silent --fail http://localhost:8080/health >/dev/null; do sleep 0.2; done
cat {HANDLER_TAR} | /root/faas new {HANDLER_NAME}
cat {BEHAVING_HEAD} {LAYERS_IN_VM} | /root/faas new {BEHAVING_NAME}
for ip in 10.0.0.10 10.0.0.11; do
  until curl --silent --fail http://$ip/ >/dev/null; do sleep 0.2; done
  python3 {CLIENTS_IN_VM} $ip 1 1 / >/dev/null
done
until [ -z "$(ls /var/lib/faasd/bundles)" ]; do sleep 0.1; done
"""


@dataclass(frozen=True)
class Deployed:
    """A VM with the daemon and the stock handler, and its address; addresses of all functions there are, by name."""

    vm: Any
    helper: FaaSTestHelper
    ip: str
    functions: Mapping[str, str]


# ------------------------------------------------------------------------------------- what is tested


@pytest.fixture(scope="session")
def project_root(pytestconfig: pytest.Config) -> Path:
    """The checkout."""
    return pytestconfig.rootpath


@pytest.fixture(scope="session")
def _single_files(project_root: Path) -> Path:
    subprocess.run(["make", "faas-single"], cwd=project_root, check=True, capture_output=True)
    return project_root / "build"


@pytest.fixture(scope="session")
def faasd_script(_single_files: Path) -> Path:
    """The daemon as a single file, made of the sources as they are now."""
    return _single_files / "faasd.py"


@pytest.fixture(scope="session")
def faas_cli(_single_files: Path) -> Path:
    """The command as a single file."""
    return _single_files / "faas"


@pytest.fixture(scope="session")
def test_handler_dockerfile() -> Path:
    return HERE / "Dockerfile.test-handler"


@pytest.fixture(scope="session")
def test_handler_image(test_handler_dockerfile: Path) -> bytes:
    """The archive of the stock handler: by Docker where it has the base image, else composed of this host's Python."""
    return _image_by_docker(test_handler_dockerfile) or handler_archive(HERE / "test_handler.py")


def _image_by_docker(dockerfile: Path) -> bytes | None:
    """None: no Docker here, or it would have to download the base image first."""
    base = dockerfile.read_text().partition("ARG BASE=")[2].split()[0]
    if not shutil.which("docker"):
        return None
    if subprocess.run(["docker", "image", "inspect", base], capture_output=True).returncode != 0:
        return None
    build = ["docker", "build", "--quiet", "--file", dockerfile, "--tag", "test-handler", dockerfile.parent]
    subprocess.run(build, check=True, capture_output=True)
    return subprocess.run(["docker", "save", "test-handler"], check=True, capture_output=True).stdout


@pytest.fixture(scope="session")
def small_layers() -> list[bytes]:
    """A handler that behaves as its arguments say, on a Python with few modules: what deploys quickly."""
    return [small_python_layer(), handler_layer(HERE / "fixtures/test-handler/handler.py")]


# ------------------------------------------------------------------------------------- without a VM


@pytest.fixture
def temp_dir() -> Iterator[Path]:
    """A folder that is gone after the test."""
    with tempfile.TemporaryDirectory(prefix="faas-test-") as folder:
        yield Path(folder)


@pytest.fixture
def mock_registry_file(temp_dir: Path) -> Path:
    """A registry with two functions, as older daemons wrote it: the three keys that each entry must have."""
    entries = {
        name: {"ip": ip, "rootfs": f"/var/lib/faasd/images/{name}/rootfs", "cmd": ["python3", "/app/handler.py"]}
        for name, ip in (("handler1", "10.0.0.10"), ("handler2", "10.0.0.11"))
    }
    path = temp_dir / "registry.json"
    path.write_text(json.dumps(entries, indent=2))
    return path


# ------------------------------------------------------------------------------------- with a VM


@pytest.fixture(scope="session")
def guest_files(faasd_script: Path, faas_cli: Path, test_handler_image: bytes) -> dict[str, bytes]:
    """What tests find in the VM. Read once: the fixture `vm` knows files that it has by the object."""
    return {
        "/root/faasd.py": faasd_script.read_bytes(),
        "/root/faas": faas_cli.read_bytes(),
        "/root/test_handler.py": (HERE / "test_handler.py").read_bytes(),
        HANDLER_TAR: test_handler_image,
    }


@pytest.fixture
def vm_files(guest_files: dict[str, bytes]) -> dict[str, bytes]:
    """The files that a test puts into its VM. They are there already, so that it costs nothing."""
    return dict(guest_files)


@pytest.fixture(scope="session")
def vm_preload(guest_files: dict[str, bytes], small_layers: list[bytes]) -> Mapping[str, bytes]:
    """What is in the snapshot."""
    return {
        **guest_files,
        LAYERS_IN_VM: shared_layers(small_layers),
        BEHAVING_HEAD: image_head(small_layers, Cmd=BEHAVING_COMMAND),
        CLIENTS_IN_VM: CLIENTS.read_bytes(),
    }


@pytest.fixture(scope="session")
def vm_warmup() -> list[str]:
    return [WARMUP]


@pytest.fixture
def setup_vm(vm_files: dict[str, bytes]) -> Callable[[Any], None]:
    """Puts the programs and the image into a VM, ready to be used."""

    def setup(vm: Any) -> None:
        for path, content in vm_files.items():
            vm.write_file(path, content)
        vm.run("chmod +x /root/faasd.py /root/faas && mkdir -p /var/lib/faasd")

    return setup


@pytest.fixture
def faasd_daemon(setup_vm: Callable[[Any], None]) -> Callable[[Any], tuple[Any, Any]]:
    """Starts the daemon in a VM and waits until its API answers; the VM and the process."""

    def start(vm: Any) -> tuple[Any, Any]:
        setup_vm(vm)
        process = vm.spawn("/root/faasd.py", env=UNHURRIED)
        FaaSTestHelper(vm).wait_for_api()
        return vm, process

    return start


@pytest.fixture
def deployed(vm_factory: Callable[..., Any]) -> Deployed:
    """The daemon is running and has the stock handler, which has answered before."""
    vm = vm_factory(warmup=[RUNNING])
    vm.spawn(f"tail --lines=+1 --follow {DAEMON_LOG}")  # for the report, should the test fail
    helper = FaaSTestHelper(vm)
    functions = {name: entry["ip"] for name, entry in helper.read_registry().items()}
    return Deployed(vm, helper, functions[HANDLER_NAME], functions)


@pytest.fixture
def behaving(small_layers: list[bytes]) -> Callable[..., str]:
    """Deploys a handler that behaves as told (fixtures/test-handler/handler.py) in a VM; its address.

    `options` of `faas new`; `inner`: an image configuration in place of the one with these arguments.
    """

    def deploy(vm: Any, name: str, *arguments: str, options: Sequence[str] = (), **inner: Any) -> str:
        command = inner or {"Cmd": [*BEHAVING_COMMAND, *arguments]}
        path = put_image(vm, f"/root/{name}.tar", small_layers, **command)
        return FaaSTestHelper(vm).deploy_handler(path, name, *options)

    return deploy
