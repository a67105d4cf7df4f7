"""The VM manager in this process, over a real database and real files: in dry run (contract section 10), and for tests
marked `integration` on a real libvirt."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from integration.vms.guests import write_obedient_disk
from integration.vms.integration_utils import (
    BRIDGE,
    DOMAIN_PREFIX,
    SUBNET,
    TOKEN,
    cleanup_test_resources,
    create_test_template,
    ports,
    qemu_names,
    reserved,
)
from integration.vms.results import (
    ENABLED,
    LeftBehind,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)
from labyard.core.database import Database
from labyard.testing.waiting import PATIENCE
from labyard.vms.app import build
from labyard.vms.observer import Observer
from labyard.vms.service.manager import VmManager
from labyard.vms.service.network import Network
from labyard.vms.settings import Settings

# Hooks of pytest, which looks for them here.
__all__ = ["pytest_runtest_makereport", "pytest_terminal_summary"]

TEST_SECONDS = 120
ROOM = Path("/run/lock/labyard-vms-tests")
LEAST_QEMU = (7, 0)
LEAST_FREE = 1_000_000_000  # bytes
WIDE_FOLDER = "/var/tmp"  # all may look into it


@pytest.fixture
def dry_settings(tmp_path: Path) -> Settings:
    return Settings(storage_path=tmp_path / "vman", operator_dry_run=True, observer_interval=3600, stop_timeout=0.2)


@pytest.fixture
def make_dry(dry_settings: Settings) -> Iterator[Callable[..., TestClient]]:
    """Starts the service; called again, it is the service after a restart. Takes changes of the settings."""
    running: list[TestClient] = []

    def stop() -> None:
        while running:
            running.pop().__exit__(None, None, None)

    def start(**changes: Any) -> TestClient:
        stop()
        settings = Settings.model_validate(dry_settings.model_dump() | changes)
        client = TestClient(build(settings), raise_server_exceptions=False)
        client.__enter__()
        running.append(client)
        return client

    yield start
    stop()


@pytest.fixture
def dry(make_dry: Callable[..., TestClient]) -> TestClient:
    return make_dry()


@pytest.fixture
def manager(dry: TestClient) -> VmManager:
    found: VmManager = dry.app.state.vms  # type: ignore[attr-defined]
    return found


@pytest.fixture
def sql(manager: VmManager) -> Callable[..., list[Any]]:
    """Another program at the database: rows of any kind, foreign keys unchecked."""

    def run(statement: str, **values: Any) -> list[Any]:
        with manager.database.engine.connect() as connection:
            connection.execute(text("PRAGMA foreign_keys=OFF"))
            result = connection.execute(text(statement), values)
            rows = list(result) if result.returns_rows else []
            connection.commit()
            connection.execute(text("PRAGMA foreign_keys=ON"))
        return rows

    return run


@pytest.fixture
def small(dry: TestClient) -> str:
    assert dry.post("/templates", json={"name": "small", "cpu_count": 1, "ram_amount": 512}).status_code == 201
    return "small"


@pytest.fixture
def make_vm(dry: TestClient, small: str) -> Callable[..., str]:
    def make(name: str = "web", running: bool = False) -> str:
        made = dry.post("/vms", json={"template_name": small, "name": name})
        assert made.status_code == 201, made.text
        if running:
            assert dry.post(f"/vms/{name}/actions/start").status_code == 202
        return name

    return make


@pytest.fixture
def make_disk(dry: TestClient) -> Callable[..., str]:
    def make(**given: Any) -> str:
        made = dry.post("/disks", json={"size": 1} | given)
        assert made.status_code == 201, made.text
        found: str = made.json()["id"]
        return found

    return make


# On a real libvirt (contract section 12): tests marked `integration`


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("integration"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))
            if not ENABLED:
                item.add_marker(pytest.mark.skip(reason="VMAN_ENABLE_INTEGRATION_TESTS is not 1"))
        if restarts_libvirtd(item) and os.environ.get("VMAN_TESTS_RESTART_LIBVIRTD") != "1":
            item.add_marker(pytest.mark.skip(reason="it restarts libvirtd, and VMAN_TESTS_RESTART_LIBVIRTD is not 1"))
    items.sort(key=restarts_libvirtd)


def restarts_libvirtd(item: pytest.Item) -> bool:
    return item.get_closest_marker("restarts_libvirtd") is not None


@contextmanager
def libvirtd_stays(alone: bool = False) -> Iterator[None]:
    """No test of another process restarts libvirtd meanwhile. `alone`: none uses it. Not re-entrant."""
    with ROOM.open("a") as room, ROOM.with_suffix(".turn").open("a") as turn:
        # Who waits for the others to leave keeps more from coming.
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.node.get_closest_marker("integration"):
        yield
        return
    with libvirtd_stays(alone=restarts_libvirtd(request.node)):
        yield


@pytest.fixture(scope="session")
def qemu_available() -> dict[str, Any]:
    """What QEMU there is: bin, img, version, kvm (whether KVM boots a guest: VMAN_PROBE_KERNEL and _INITRD name it).
    Skips where machines cannot be run."""
    program = shutil.which("qemu-system-x86_64") or shutil.which("qemu-kvm")
    image_tool = shutil.which("qemu-img")
    if not program or not image_tool:
        pytest.skip("qemu-system-x86_64 (or qemu-kvm) and qemu-img are not both installed")
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", told)
    assert found, f"{program} --version says: {told}"
    version = (int(found[1]), int(found[2]))
    if version < LEAST_QEMU:
        pytest.skip(f"QEMU {version} is older than {LEAST_QEMU}")
    if importlib.util.find_spec("libvirt") is None:
        pytest.skip("python3-libvirt is missing: run inside a VM host (make vms-integration)")
    import libvirt

    from labyard.vms.adapters import accel

    settings = Settings()
    probe = accel.Probe(settings.probe_kernel, settings.probe_initrd, settings.probe_timeout)
    try:
        with libvirtd_stays(), libvirtd() as connection, tempfile.TemporaryDirectory(dir=WIDE_FOLDER) as folder:
            kind = accel.resolve(connection, "auto", probe, Path(folder)).domain_type
    except libvirt.libvirtError as error:
        pytest.skip(f"no libvirtd answers on {settings.libvirt_uri}: {error}")
    return {"bin": program, "img": image_tool, "version": version, "kvm": kind == "kvm"}


@pytest.fixture(scope="session")
def nothing_left(qemu_available: dict[str, Any]) -> Iterator[None]:
    """At the end nothing of ours may be on this host."""
    yield
    with libvirtd_stays(), libvirtd() as connection:
        for network in networks(connection):
            if network.isActive():
                network.destroy()
            network.undefine()
        left = [domain.name() for domain in connection.listAllDomains() if domain.name().startswith(TOKEN)]
    left += qemu_names()
    left += [entry.name for entry in Path("/sys/class/net").iterdir() if entry.name.startswith(TOKEN)]
    if left:
        raise LeftBehind("run", left)


@contextmanager
def libvirtd() -> Iterator[Any]:
    """A connection that the service does not share."""
    import libvirt

    connection = libvirt.open(Settings().libvirt_uri)
    try:
        yield connection
    finally:
        connection.close()


def networks(connection: Any) -> list[Any]:
    """Those of this process's services."""
    return [network for network in connection.listAllNetworks() if network.name().startswith(TOKEN)]


@pytest.fixture
def virt(qemu_available: dict[str, Any]) -> Iterator[Any]:
    """A connection of the test's own: to look, and to meddle."""
    with libvirtd() as connection:
        yield connection


@pytest.fixture(scope="session")
def temp_storage(nothing_left: None) -> Iterator[Path]:
    """A folder for this worker alone, in VMAN_STORAGE_PATH when that is set."""
    # Not pytest's own folder: QEMU's user may not look into it.
    parent = Path(os.environ.get("VMAN_STORAGE_PATH") or WIDE_FOLDER)
    parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(parent).free < LEAST_FREE:
        pytest.skip(f"less than 1 GB is free in {parent}")
    folder = Path(tempfile.mkdtemp(prefix=f"{TOKEN}-", dir=parent))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def test_db(temp_storage: Path) -> Iterator[Database]:
    """A database of this test's own, as another program has it open."""
    path = temp_storage / f"states-{uuid.uuid4().hex[:8]}.db"
    database = Database(f"sqlite:///{path}")
    database.migrate("labyard.vms")
    yield database
    database.close()
    for file in temp_storage.glob(f"{path.name}*"):
        file.unlink()


@pytest.fixture(scope="session")
def guest_disk(temp_storage: Path) -> Path:
    """What machines boot: it obeys the power button, and leaves the processor to others."""
    path = temp_storage / "guest.raw"
    write_obedient_disk(path)
    return path


@pytest.fixture
def service_settings(
    temp_storage: Path, test_db: Database, qemu_available: dict[str, Any], guest_disk: Path
) -> dict[str, Any]:
    """Those of this test's service, by the names of `Settings`."""
    return {
        "storage_path": temp_storage,
        "db_url": str(test_db.engine.url),
        "default_boot_disk": guest_disk,
        "domain_prefix": DOMAIN_PREFIX,
        "domain_type": "kvm" if qemu_available["kvm"] else "qemu",
        "network_name": TOKEN,
        "bridge_name": BRIDGE,
        "subnet": SUBNET,
        # The address 169.254.169.254 can be one worker's only.
        "metadata_bind_ip": next(SUBNET.hosts()),
        "stop_timeout": 2,
        "detach_timeout": PATIENCE,
        "observer_interval": 3600,
    }


@pytest.fixture
def start_service(service_settings: dict[str, Any], temp_storage: Path) -> Iterator[Callable[..., TestClient]]:
    """Starts the service; called again, it is the service after a restart. Takes changes of the settings.

    Afterwards all is deleted through the service, and none of it may be left."""
    running: list[TestClient] = []
    changed: dict[str, Any] = {}

    def stop() -> None:
        while running:
            running.pop().__exit__(None, None, None)

    def start(**changes: Any) -> TestClient:
        stop()
        changed.update(changes)
        client = TestClient(build(Settings(**service_settings | changed)), raise_server_exceptions=False)
        client.__enter__()
        running.append(client)
        return client

    yield start
    try:
        client = running[-1] if running else start()
        named = {kind: [entry["id"] for entry in client.get(f"/{kind}").json()] for kind in ("vms", "disks")}
        templates = [template["name"] for template in client.get("/templates").json()]
        left = cleanup_test_resources(client, **named, templates=templates)
        left += [str(lease) for lease in client.get("/network/leases").json()]
    finally:
        stop()
        with libvirtd() as connection:
            left_behind = _clear(connection, temp_storage)
    if left + left_behind:
        raise LeftBehind("test", left + left_behind)


def _clear(virt: Any, storage: Path) -> list[str]:
    """What the service's own deletions have left, which is taken away by force."""
    left = []
    for domain in virt.listAllDomains():
        if domain.name().startswith(DOMAIN_PREFIX):
            left.append(f"domain {domain.name()}")
            if domain.isActive():
                domain.destroy()
            domain.undefine()
    left += [f"QEMU {name}" for name in qemu_names()]
    for network in networks(virt):
        left += [f"lease {lease}" for lease in network.DHCPLeases()]
        left += [f"reservation {ip}" for ip in reserved(network).values()]
        left += [f"interface {port}" for port in ports(network)]
    for file in [*storage.glob("disks/*"), *storage.glob("vms/*")]:
        left.append(f"file {file}")
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()
    return left


@pytest.fixture
def test_client(start_service: Callable[..., TestClient]) -> TestClient:
    """The service over HTTP, with libvirt, QEMU, files and a database behind it."""
    return start_service()


@pytest.fixture
def test_operator(test_client: TestClient) -> VmManager:
    """The use cases behind `test_client`."""
    found: VmManager = test_client.app.state.vms  # type: ignore[attr-defined]
    return found


@pytest.fixture
def test_network_manager(test_operator: VmManager) -> Network:
    return test_operator.network


@pytest.fixture
def test_observer(test_operator: VmManager) -> Observer:
    return test_operator.observer


@pytest.fixture
def real_vm(test_client: TestClient) -> Callable[..., str]:
    """Makes a machine of a new template and starts it, unless told otherwise; its id."""

    def make(name: str = "web-1", size: str = "small", running: bool = True) -> str:
        template = create_test_template(test_client, size)
        made = test_client.post("/vms", json={"template_name": template["name"], "name": name})
        assert made.status_code == 201, made.text
        if running:
            started = test_client.post(f"/vms/{name}/actions/start")
            assert (started.status_code, started.json()) == (202, {"status": "started"})
        return name

    return make


@pytest.fixture
def real_disk(test_client: TestClient) -> Callable[..., str]:
    """Makes a data disk; its id."""

    def make(size: int = 1, attach_to: str | None = None, **given: Any) -> str:
        made = test_client.post("/disks", json={"size": size} | given)
        assert (made.status_code, made.json()["state"]) == (201, "available"), made.text
        disk_id: str = made.json()["id"]
        if attach_to:
            attached = test_client.post(f"/disks/{disk_id}/attach", json={"vm_id": attach_to})
            assert (attached.status_code, attached.json()) == (200, {"status": "attached"})
        return disk_id

    return make
