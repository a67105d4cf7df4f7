"""The fixtures `vm` and `vm_factory`, their options and markers.

def test_kernel(vm):
    assert vm.run("uname -r").stdout.strip() == vm.kernel
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from labyard.testing.vm import artefacts, cache
from labyard.testing.vm.accel import CHOICES, known
from labyard.testing.vm.errors import VMError, VMUnavailable
from labyard.testing.vm.image.manifest import DEFAULT_FOLDER, find_image
from labyard.testing.vm.session import VMSession, Wires
from labyard.testing.vm.vm import VM

MARKERS = (
    "vmtest: needs a VM",
    "slow: takes over 30 s",
    "unit: needs no VM",
    "integration: joins real parts",
    "stress: puts load on what it tests",
)
FIXTURES = {"vm", "vm_factory"}
SECONDS, SLOW_SECONDS = 120, 600  # of a test with a VM, for pytest-timeout
VMS = pytest.StashKey[list[VM]]()
FAILED = pytest.StashKey[bool]()
KEPT = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("labyard-vm", "tests inside a real kernel")
    group.addoption(
        "--vm-accel",
        choices=CHOICES,
        default="auto",
        help="auto: KVM if a trial boot works, else software emulation (default: %(default)s)",
    )
    group.addoption(
        "--vm-image",
        metavar="FOLDER",
        type=Path,
        default=DEFAULT_FOLDER,
        help="what `labyard vm build` made (default: %(default)s)",
    )
    group.addoption(
        "--vm-keep",
        choices=("never", "failed", "always"),
        default="never",
        help="leave the VM of a test running for an hour (default: %(default)s)",
    )
    group.addoption(
        "--vm-require", action="store_true", help="fail, not skip, when this machine cannot run VMs as it is"
    )


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    config.stash[KEPT] = []


def pytest_report_header(config: pytest.Config) -> str:
    """What the VMs of this run would be. Nothing is booted to find out."""
    try:
        image = find_image(_image_folder(config))
        accel = known(config.getoption("--vm-accel"), image)
        snapshots = len(list(cache.folder().glob("*.qcow2")))
    except VMError as error:
        return f"vm: {error}"
    return f"vm: {accel}, kernel {image.kernel}, image {image.folder}, snapshots cached: {snapshots}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before `-m` looks at them."""
    timeouts = config.pluginmanager.hasplugin("timeout")
    for item in items:
        if FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.vmtest)
        if timeouts and item.get_closest_marker("vmtest") and not item.get_closest_marker("timeout"):
            seconds = SLOW_SECONDS if item.get_closest_marker("slow") else SECONDS
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """While the VMs of a failed test are still there."""
    report: Any = yield
    vms = item.stash.get(VMS, [])
    if report.failed and vms and not item.stash.get(FAILED, False):
        item.stash[FAILED] = True
        folder = artefacts.folder_of(item.config.rootpath, item.nodeid)
        # The test's time may be over meanwhile. That ends the collecting; unseen, it would end the whole run.
        with contextlib.suppress(pytest.fail.Exception):
            for number, vm in enumerate(vms, start=1):
                name = f"vm{number} " if len(vms) > 1 else ""
                for title, content in artefacts.collect(vm, folder / name.strip()).items():
                    report.sections.append((f"{name}{title}", artefacts.section(content)))
        report.sections.append(("VM", f"all of it is in {folder}"))
    return report  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def vm_preload() -> Mapping[str, bytes | str]:
    """Files that each VM has from the beginning, content by path. To be overridden in a conftest."""
    return {}


@pytest.fixture(scope="session")
def vm_warmup() -> Sequence[str]:
    """Commands that run once before the snapshot, such as programs that are slow the first time. They must leave
    nothing behind that a test could see. To be overridden in a conftest."""
    return []


@pytest.fixture
def vm_files() -> Mapping[str, bytes | str]:
    """Files that tests put into their VM, content by path. To be overridden in a conftest."""
    return {}


@pytest.fixture(scope="session")
def vm_session(request: pytest.FixtureRequest) -> Iterator[Callable[[], VMSession]]:
    """Gives the one session of this process, begun when the first VM is wanted."""
    config = request.config
    begun: list[VMSession] = []

    def session() -> VMSession:
        if not begun:
            keep = config.getoption("--vm-keep") != "never"
            begun.append(VMSession(_image_folder(config), config.getoption("--vm-accel"), keep))
        return begun[0]

    yield session
    for each in begun:
        each.close()


@pytest.fixture
def vm_factory(
    request: pytest.FixtureRequest,
    vm_session: Callable[[], VMSession],
    vm_preload: Mapping[str, bytes | str],
    vm_warmup: Sequence[str],
) -> Iterator[Callable[..., VM]]:
    """Makes VMs: `vm_factory(memory=2048, cpus=2, kernel_args="", nics=["lan"], warmup=["service start"])`.

    `memory` in MiB. `nics`: names of networks, a card each; VMs of this test with the same name are joined, and with
    nothing else. A VM with cards boots instead of coming from a snapshot. `warmup`: commands in place of those of
    `vm_warmup`; such VMs have a snapshot of their own.
    """
    vms: list[VM] = []
    request.node.stash[VMS] = vms
    wires = Wires()

    def make(*, nics: Sequence[str] = (), warmup: Sequence[str] | None = None, **options: Any) -> VM:
        commands = vm_warmup if warmup is None else warmup
        try:
            vm = vm_session().fresh(vm_preload, commands, nics=[wires.nic(name) for name in nics], **options)
        except VMError as error:
            failure = error
        else:
            vms.append(vm)
            return vm
        if isinstance(failure, VMUnavailable) and not request.config.getoption("--vm-require"):
            pytest.skip(str(failure))
        pytest.fail(str(failure), pytrace=False)

    yield make
    keep = request.config.getoption("--vm-keep")
    for vm in vms:
        if keep == "always" or (keep == "failed" and request.node.stash.get(FAILED, False)):
            with contextlib.suppress(VMError):
                _keep(request, vm)
        vm.close()


@pytest.fixture
def vm(vm_factory: Callable[..., VM]) -> VM:
    """A fresh VM: a real kernel, root inside, nothing left of other tests."""
    return vm_factory()


def _image_folder(config: pytest.Config) -> Path:
    """Relative ones are the project's, from whatever folder pytest was started."""
    folder: Path = config.getoption("--vm-image")
    given = folder if folder.is_absolute() else config.invocation_params.dir / folder
    return given if given.exists() else config.rootpath / folder


# ------------------------------------------------------------------------------------ VMs that are kept


def _keep(request: pytest.FixtureRequest, vm: VM) -> None:
    folder = vm.release().qemu.folder
    folder.leave()
    line = f"{request.node.nodeid}: labyard vm shell {folder.path}"
    request.config.stash[KEPT].append(line)
    if (output := getattr(request.config, "workeroutput", None)) is not None:
        output.setdefault("labyard_vm_kept", []).append(line)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """Of pytest-xdist: a worker cannot print."""
    node.config.stash[KEPT].extend(getattr(node, "workeroutput", {}).get("labyard_vm_kept", []))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if kept := config.stash[KEPT]:
        terminalreporter.section("VMs left running, for an hour from their start")
        for line in kept:
            terminalreporter.write_line(line)
