"""How pairs are run, from the environment: contract 1.1 to 1.3."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labyard.evse.ports import EMULATOR_PORT, GATEWAY_PORT, RAPI_PORT
from labyard.testing.evse.diagnosis import PairError, binary_not_found

IMAGE = "ghcr.io/jeremypoulter/openevse_emulator:latest"
NATIVE_BUILD = Path(".pio/build/native/program")
BACKENDS = ("processes", "units")
IMPLEMENTATIONS = ("labyard", "docker")


@dataclass(frozen=True)
class Ports:
    """Where the parts of one pair are."""

    gateway: int
    emulator: int
    rapi: int
    pty: Path


@dataclass(frozen=True)
class Settings:
    """Waits are in seconds. `native_binary` is None for our own gateway."""

    backend: str = "processes"
    emulator_impl: str = "labyard"
    emulator_image: str = IMAGE
    native_binary: Path | None = None
    gateway_base_port: int = GATEWAY_PORT
    emulator_base_port: int = EMULATOR_PORT
    rapi_base_port: int = RAPI_PORT
    http_wait: float = 30.0
    pty_wait: float = 5.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """PairError names the variable that is wrong, or the binary that is not there."""

        def number(name: str, default: float) -> float:
            text = environment.get(name) or str(default)
            try:
                value = float(text)
            except ValueError:
                value = -1
            if not 0 < value < 65536:
                raise PairError(f"{name} must be a number from 1 to 65535, not {text!r}")
            return value

        def choice(name: str, choices: tuple[str, ...]) -> str:
            value = environment.get(name) or choices[0]
            if value not in choices:
                raise PairError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
            return value

        return cls(
            backend=choice("LABYARD_EVSE_BACKEND", BACKENDS),
            emulator_impl=choice("LABYARD_EVSE_EMULATOR_IMPL", IMPLEMENTATIONS),
            emulator_image=environment.get("LABYARD_EVSE_EMULATOR_IMAGE") or IMAGE,
            native_binary=find_native(environment.get("NATIVE_BINARY_PATH", "")),
            gateway_base_port=int(number("LABYARD_EVSE_GATEWAY_BASE_PORT", cls.gateway_base_port)),
            emulator_base_port=int(number("LABYARD_EVSE_EMULATOR_BASE_PORT", cls.emulator_base_port)),
            rapi_base_port=int(number("LABYARD_EVSE_RAPI_BASE_PORT", cls.rapi_base_port)),
            http_wait=number("LABYARD_EVSE_HTTP_WAIT", cls.http_wait),
            pty_wait=number("LABYARD_EVSE_PTY_WAIT", cls.pty_wait),
        )

    def ports(self, offset: int) -> Ports:
        """Of the pair with this number."""
        return Ports(
            gateway=self.gateway_base_port + offset,
            emulator=self.emulator_base_port + offset,
            rapi=self.rapi_base_port + offset,
            pty=Path(f"/tmp/rapi_pty_{offset}"),
        )


def find_native(named: str) -> Path | None:
    """The firmware's native build: the one that is named, else one that was built in this folder or one above.

    None: there is no build, our own gateway is to be taken. PairError: what is named is not there.
    """
    here = Path.cwd()
    if named:
        binary = (here / named).resolve()
        if not os.access(binary, os.X_OK) or binary.is_dir():
            raise PairError(binary_not_found(f"NATIVE_BINARY_PATH names {binary}, which is no program"))
        return binary
    return next((path for folder in (here, *here.parents) if os.access(path := folder / NATIVE_BUILD, os.X_OK)), None)


def installed(program: str) -> Path:
    """One of our own programs, beside this Python or in PATH. PairError: it is not installed."""
    found = shutil.which(program, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise PairError(binary_not_found(f"{program} is not installed"))
    return Path(found)
