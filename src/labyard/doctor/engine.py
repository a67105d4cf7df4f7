"""Questions to the container engine that several checks ask."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from labyard.doctor.model import Problem, Status
from labyard.doctor.work import TimeUp, Work, last_line


@dataclass(frozen=True)
class EngineNetwork:
    """A network of the engine: its subnets in CIDR notation, and whether Labyard made it."""

    name: str
    bridge: str
    subnets: tuple[str, ...]
    ours: bool


def docker(work: Work, *arguments: str, timeout: float | None = None) -> str:
    """Output of a docker command.

    Raises Problem when docker is not installed (`later`), the engine does not answer, or the command fails.
    """
    program = work.need("docker", "the engine")
    try:
        done = work.run([program, *arguments], timeout=timeout)
    except TimeUp as time_up:
        raise Problem(
            f"no answer from the engine to: {time_up}",
            "the engine hangs: look at its log (`journalctl -u docker`) and restart it",
        ) from None
    if done.returncode != 0:
        found = f"docker {arguments[0]}: {last_line(done.stderr, done.stdout)}"
        if is_down(done.stderr):
            raise Problem(found, "`make lab` starts the engine", Status.LATER)
        raise Problem(found, remedy_for(done.stderr))
    return done.stdout.strip()


def is_down(message: str) -> bool:
    """Whether a complaint means that this machine's own engine is merely not started yet."""
    return "is the docker daemon running" in message.lower() and not os.environ.get("DOCKER_HOST")


def remedy_for(message: str) -> str:
    """The way out of a docker command's complaint."""
    text = message.lower()
    if "permission denied" in text and "sock" in text:
        return "run the doctor as root, or let this user talk to the engine"
    if "cannot connect" in text or "is the docker daemon running" in text or "no such host" in text:
        if host := os.environ.get("DOCKER_HOST"):
            return f"DOCKER_HOST is {host!r} and nothing answers there: unset it, or start the engine it names"
        return "start the engine: `systemctl start docker` (without systemd: `setsid dockerd`)"
    if "no space left" in text:
        return "free disk space, for example with `docker system prune`"
    if "operation not permitted" in text or "permission denied" in text:
        return (
            "the engine may not give containers what the lab needs; rootless engines and engines inside an "
            "unprivileged container cannot: use an engine that runs as root on this machine"
        )
    return "look at the engine's log (`journalctl -u docker`), and run the command by hand"


def networks(work: Work, label: str) -> list[EngineNetwork]:
    """All networks of the engine; those with the label are Labyard's own. Raises Problem as `docker` does."""
    ids = docker(work, "network", "ls", "--quiet", "--no-trunc", timeout=4.0).split()
    if not ids:
        return []
    return [parse_network(item, label) for item in json.loads(docker(work, "network", "inspect", *ids))]


def parse_network(item: dict[str, Any], label: str) -> EngineNetwork:
    """One network from the output of `docker network inspect`."""
    options = item.get("Options") or {}
    pools = (item.get("IPAM") or {}).get("Config") or []
    return EngineNetwork(
        name=item["Name"],
        bridge=options.get("com.docker.network.bridge.name", f"br-{item['Id'][:12]}"),
        subnets=tuple(pool["Subnet"] for pool in pools if pool.get("Subnet")),
        ours=label in (item.get("Labels") or {}),
    )
