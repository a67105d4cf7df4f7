"""Pairs as processes: what is in the way is named, leftovers are taken away, nothing stays behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import docker
import docker.errors
import psutil
import pytest
import requests

from integration.evse.peers import discover, wait_until_all_found
from labyard.testing.evse import PairError, Pairs
from labyard.testing.evse.containers import NETWORK
from labyard.testing.evse.processes import record_file
from labyard.testing.evse.settings import IMAGE, installed
from labyard.testing.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.timeout(180)

PairsWith = Callable[..., Pairs]
OFFSET = 7
PTY = Path(f"/tmp/rapi_pty_{OFFSET}")


def program(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


def listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_nothing_is_left_after_a_stop(pairs_with: PairsWith) -> None:
    # What tests before this one left may go meanwhile.
    before = {process.pid for process in psutil.Process().children(recursive=True)}

    def started() -> set[int]:
        return {process.pid for process in psutil.Process().children(recursive=True)} - before

    pairs = pairs_with()
    pairs.start([OFFSET, OFFSET + 1])
    assert len(started()) == 6
    pairs.stop()
    assert started() == set()
    assert not PTY.is_symlink()
    assert not any(listening(base + OFFSET) for base in (8000, 8023, 8080))


KILLED = """
import os, signal, sys
from pathlib import Path
from labyard.testing.evse import Pairs, Settings, backend_of
settings = Settings()
Pairs(settings, backend_of(settings, Path(sys.argv[1]))).start([int(sys.argv[2])])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_is_taken_away(pairs_with: PairsWith, tmp_path: Path) -> None:
    pairs = pairs_with()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(OFFSET)], timeout=PATIENCE, check=False)
    assert all(listening(base + OFFSET) for base in (8000, 8023, 8080)), "orphans"
    (pair,) = pairs.start([OFFSET])
    assert requests.get(f"{pair['native_url']}/loadsharing/peers", timeout=PATIENCE).json() == []


def test_a_process_that_has_an_old_number_is_left_alone(pairs_with: PairsWith) -> None:
    record_file(OFFSET).write_text(f"[[{os.getpid()}, 1.0]]")
    pairs_with().start([OFFSET])


def test_a_stale_link_is_replaced_and_a_file_is_not(pairs_with: PairsWith) -> None:
    pairs = pairs_with()
    PTY.symlink_to("/dev/pts/does-not-exist")
    pairs.start([OFFSET])
    pairs.stop()
    PTY.write_text("somebody's")
    try:
        with pytest.raises(PairError, match=f"{PTY} is no link, so it is not ours: move it away"):
            pairs.start([OFFSET])
        assert PTY.read_text() == "somebody's"
    finally:
        PTY.unlink()


@pytest.mark.parametrize(("base", "part"), [(8000, "gateway"), (8080, "emulator"), (8023, "rapi")])
def test_a_port_in_use_and_its_owner_are_named(pairs_with: PairsWith, base: int, part: str) -> None:
    with socket.create_server(("127.0.0.1", base + OFFSET)), pytest.raises(PairError) as caught:
        pairs_with().start([OFFSET])
    text = str(caught.value)
    assert text.startswith(f"Port already in use: {base + OFFSET}, which the {part} needs, belongs to process ")
    assert str(os.getpid()) in text
    assert f"lsof -i :{base + OFFSET}" in text and "rm -f /tmp/rapi_pty_*" in text
    assert not listening(8000 + OFFSET) and not PTY.is_symlink()


def test_a_binary_that_is_not_there_is_named(pairs_with: PairsWith, tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"Binary not found: NATIVE_BINARY_PATH names .*pio run -e native"):
        pairs_with(NATIVE_BINARY_PATH=str(tmp_path / "program"))


def test_a_binary_that_fails_is_told_at_once_and_nothing_is_left(pairs_with: PairsWith, tmp_path: Path) -> None:
    pairs = pairs_with(NATIVE_BINARY_PATH=program(tmp_path / "native", "echo no such luck", "exit 3"))
    with pytest.raises(PairError, match=rf"Pair {OFFSET}: The gateway did not answer at .*\n.*no such luck"):
        pairs.start([OFFSET])
    assert not listening(8080 + OFFSET) and not PTY.is_symlink()


def test_the_wait_is_adjustable(pairs_with: PairsWith, tmp_path: Path) -> None:
    native = program(tmp_path / "native", "exec sleep 60")
    with pytest.raises(PairError, match=r"within 2 s \(LABYARD_EVSE_HTTP_WAIT\)"):
        pairs_with(NATIVE_BINARY_PATH=native, LABYARD_EVSE_HTTP_WAIT="2").start([OFFSET])


def test_another_binary_takes_the_gateways_place(
    pairs_with: PairsWith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found from the current folder, as CI names it, and gets a name and an id of its own."""
    program(tmp_path / "native_program", f'exec {installed("labyard-evse-gateway")} "$@"')
    monkeypatch.chdir(tmp_path)
    (pair,) = pairs_with(NATIVE_BINARY_PATH="./native_program").start([OFFSET])
    config = requests.get(f"{pair['native_url']}/config", timeout=PATIENCE).json()
    assert config["hostname"] == f"openevse-native-{OFFSET}"
    assert config["wifi_serial"].endswith(f"{0xE5E000 + OFFSET:X}")


def test_a_build_of_the_firmware_is_taken_before_ours(
    pairs_with: PairsWith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tmp_path / ".pio/build/native"
    built.mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path / "tests")
    program(built / "program", "exit 0")
    assert pairs_with().settings.native_binary == built / "program"


def test_no_engine_is_told(pairs_with: PairsWith, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    pairs = pairs_with(LABYARD_EVSE_EMULATOR_IMPL="docker")
    with pytest.raises(PairError, match=r"Docker not available: .*LABYARD_EVSE_EMULATOR_IMPL=labyard"):
        pairs.start([OFFSET])


@pytest.fixture
def image() -> str:
    """The emulator's image: what the environment names, which must be there; else the public one or ours."""
    if named := os.environ.get("LABYARD_EVSE_EMULATOR_IMAGE"):
        docker.from_env().images.get(named)
        return named
    try:
        engine = docker.from_env()
        for name in (IMAGE, "labyard/evse-emulator:latest"):
            with suppress(docker.errors.ImageNotFound):
                engine.images.get(name)
                return name
    except docker.errors.DockerException as problem:
        pytest.skip(f"no Docker: {problem}")
    pytest.skip("no image of the emulator is loaded: make evse-emulator-image")


@pytest.mark.timeout(240)  # an engine without overlay copies the image for each container
def test_a_container_takes_the_emulators_place(pairs_with: PairsWith, image: str) -> None:
    engine, name = docker.from_env(), f"emulator_{OFFSET}"
    # What a killed run left has the name and the ports.
    engine.containers.run(image, name=name, detach=True, ports={"8080/tcp": ("127.0.0.1", 8080 + OFFSET)})
    pairs = pairs_with(LABYARD_EVSE_EMULATOR_IMPL="docker", LABYARD_EVSE_EMULATOR_IMAGE=image)
    (pair,) = pairs.start([OFFSET])
    assert engine.containers.get(name).status == "running"
    wait_until(
        lambda: requests.get(f"{pair['native_url']}/status", timeout=PATIENCE).json()["evse_connected"],
        lambda: pairs.log("emulator", OFFSET) + pairs.log("gateway", OFFSET),
    )
    pairs.stop()
    with pytest.raises(docker.errors.NotFound):
        engine.containers.get(name)
    assert not engine.networks.list(names=[NETWORK])


@pytest.fixture
def without_mdns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LABYARD_MDNS", "off")
    yield


def test_who_is_not_found_is_named(pairs_with: PairsWith, without_mdns: None) -> None:
    pairs = pairs_with().start([0, 1])
    discover(pairs)
    with pytest.raises(AssertionError, match=r"Peer discovery timed out: .* has found \[\], not \['openevse-"):
        wait_until_all_found(pairs, seconds=0.5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LABYARD_EVSE_BACKEND", "magic", "LABYARD_EVSE_BACKEND must be one of processes, units, not 'magic'"),
        ("LABYARD_EVSE_HTTP_WAIT", "long", "LABYARD_EVSE_HTTP_WAIT must be a number"),
        ("LABYARD_EVSE_RAPI_BASE_PORT", "0", "LABYARD_EVSE_RAPI_BASE_PORT must be a number"),
    ],
)
def test_a_wrong_variable_is_named(pairs_with: PairsWith, name: str, value: str, message: str) -> None:
    with pytest.raises(PairError, match=message):
        pairs_with(**{name: value})


def test_a_pair_runs_once(pairs_with: PairsWith) -> None:
    pairs = pairs_with()
    (pair,) = pairs.start([OFFSET])
    with pytest.raises(PairError, match=f"pair {OFFSET} is running already"):
        pairs.start([OFFSET])
    assert requests.get(f"{pair['native_url']}/config", timeout=PATIENCE).status_code == 200
