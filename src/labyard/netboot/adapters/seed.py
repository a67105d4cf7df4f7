"""The NoCloud seed of a session: what cloud-init is told (cloud-init reference, "NoCloud")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from labyard.core.seed import write_image

LABEL = "CIDATA"
HEADER = "#cloud-config"
TRIES = 10

# libyaml's where PyYAML has it: several times quicker.
_Dumper: type[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Seed:
    """What a machine is told. `user_data` is the user's own text, or None. A new `instance_id` means a first boot."""

    instance_id: str
    hostname: str
    ssh_keys: tuple[str, ...]
    user_data: str | None
    phone_home_url: str


def write_seed(path: Path, seed: Seed) -> None:
    """Write the image, mode 0600, by another name first. OSError; ValueError when user_data is no good cloud-config."""
    write_image(path, LABEL, _files(seed))


def user_data_problem(user_data: str | None) -> str:
    """What is wrong with a user's text, or nothing."""
    try:
        if user_data is not None and user_data.split("\n", 1)[0].rstrip() == HEADER:
            _mapping(user_data)
    except ValueError as error:
        return str(error)
    return ""


def _files(seed: Seed) -> dict[str, bytes]:
    """The keys are in meta-data, which every kind of user-data leaves alone.

    The phone-home is in user-data, where the user has none of his own; beside a script it is in vendor-data, which
    cloud-init reads as well.
    """
    meta = {"instance-id": seed.instance_id, "local-hostname": seed.hostname, "public-keys": list(seed.ssh_keys)}
    ours = {
        "phone_home": {"url": seed.phone_home_url, "post": ["instance_id", "hostname", "fqdn"], "tries": TRIES},
    }
    files = {"meta-data": _yaml(meta), "vendor-data": _cloud_config({})}
    if seed.user_data is None:
        return files | {"user-data": _cloud_config(ours)}
    if seed.user_data.split("\n", 1)[0].rstrip() == HEADER:
        return files | {"user-data": _cloud_config(ours | _mapping(seed.user_data))}
    return files | {"user-data": seed.user_data.encode(), "vendor-data": _cloud_config(ours)}


def _mapping(user_data: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(user_data)
    except yaml.YAMLError as error:
        raise ValueError(f"user_data begins with {HEADER} but is not YAML: {error}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ValueError(f"user_data begins with {HEADER}, so it must be a YAML mapping, not a {type(loaded).__name__}")
    return loaded or {}


def _cloud_config(content: dict[str, Any]) -> bytes:
    return f"{HEADER}\n".encode() + _yaml(content)


def _yaml(content: dict[str, Any]) -> bytes:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000).encode()
