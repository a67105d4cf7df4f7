"""The emulator of a pair as a container `emulator_N`: contract 1.1."""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import Any

from labyard.testing.evse.diagnosis import PairError, docker_not_available, pull_failed
from labyard.testing.evse.settings import Ports

ENVIRONMENT = {"WEB_PORT": "8080", "SERIAL_MODE": "tcp", "SERIAL_TCP_PORT": "8023"}
NETWORK = "labyard-evse-emulators"
LABELS = {"labyard": "evse-emulator"}
OURS = {"label": [f"{name}={value}" for name, value in LABELS.items()]}
GRACE = 2  # s until the engine kills it


class Containers:
    """Made of one image, which is pulled only when it is not there. PairError: no engine, no image."""

    def __init__(self, image: str) -> None:
        self._image = image

    @cached_property
    def _engine(self) -> Any:
        try:
            import docker
        except ImportError as problem:
            raise PairError(docker_not_available(f"{problem} (pip install 'docker>=7,<8')")) from problem
        try:
            engine = docker.from_env()
            engine.ping()
        except docker.errors.DockerException as problem:
            raise PairError(docker_not_available(problem)) from problem
        return engine

    def start(self, offset: int, ports: Ports) -> None:
        """One container; its ports are published on loopback."""
        self._require_image()
        self._engine.containers.run(
            self._image,
            name=_name(offset),
            detach=True,
            labels=LABELS,
            network=self._network(),
            environment=ENVIRONMENT,
            ports={"8080/tcp": ("127.0.0.1", ports.emulator), "8023/tcp": ("127.0.0.1", ports.rapi)},
        )

    def remove(self, offsets: list[int]) -> bool:
        """Whether there were any of exactly these names."""
        found = [container for offset in offsets if (container := self._container(offset)) is not None]
        for container in found:
            with contextlib.suppress(_errors().NotFound):
                container.stop(timeout=GRACE)
                container.remove(force=True)
        for network in self._engine.networks.list(filters=OURS):
            with contextlib.suppress(_errors().APIError):  # other pairs are in it
                network.remove()
        return bool(found)

    def ended(self, offset: int) -> bool:
        """Whether it is not running."""
        container = self._container(offset)
        return container is None or container.status in ("exited", "dead")

    def log(self, offset: int) -> str:
        """The end of what it printed."""
        container = self._container(offset)
        return "" if container is None else container.logs(tail=40).decode(errors="replace")

    def _network(self) -> str | None:
        """None is the engine's own bridge. One that runs with `--bridge=none`, as the lab's does, publishes no port of
        a container that has no other network."""
        names = {network.name for network in self._engine.networks.list()}
        if "bridge" in names:
            return None
        if NETWORK not in names:
            self._engine.networks.create(NETWORK, driver="bridge", labels=LABELS)
        return NETWORK

    def _container(self, offset: int) -> Any:
        try:
            return self._engine.containers.get(_name(offset))
        except _errors().NotFound:
            return None

    def _require_image(self) -> None:
        try:
            self._engine.images.get(self._image)
        except _errors().ImageNotFound:
            try:
                self._engine.images.pull(self._image)
            except _errors().DockerException as problem:
                raise PairError(pull_failed(self._image, problem)) from problem


def _errors() -> Any:
    import docker.errors

    return docker.errors


def _name(offset: int) -> str:
    return f"emulator_{offset}"
