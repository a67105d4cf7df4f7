"""Settings: environment variables with the prefix LABYARD_FAAS_ (contract section 2)."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labyard.faas.errors import BadRequest, SettingsError
from labyard.faas.limits import Limits, parse_size

PREFIX = "LABYARD_FAAS_"
GIB = 1024**3


@dataclass(frozen=True)
class Settings:
    """Times in seconds, sizes in bytes."""

    root: Path
    run: Path
    api_bind: tuple[str, ...]
    api_port: int
    api_token_file: Path | None
    pool_first: ipaddress.IPv4Address
    pool_last: ipaddress.IPv4Address
    function_port: int
    device: str
    label: str
    runtime: str
    connect_timeout: float
    total_concurrency: int
    queue_timeout: float
    warm_idle: float
    warm_freeze: bool
    max_upload: int
    max_unpacked: int
    max_entries: int
    drain_timeout: float
    observer_interval: float
    limits: Limits  # of functions that name none

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"

    @property
    def scratch(self) -> Path:
        """On the same file system as the images: what is ready is renamed into place."""
        return self.root / ".scratch"

    @property
    def registry(self) -> Path:
        return self.root / "registry.json"

    @property
    def audit(self) -> Path:
        return self.root / "audit.jsonl"

    @property
    def requests(self) -> Path:
        return self.root / "requests"

    @property
    def warm(self) -> Path:
        return self.run / "warm"

    @property
    def runtime_root(self) -> Path:
        return self.run / "runc"

    def token(self) -> str | None:
        """The API's token; None when none is set. SettingsError when its file cannot be read or is empty."""
        if self.api_token_file is None:
            return None
        try:
            token = self.api_token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{PREFIX}API_TOKEN_FILE: {error}") from None
        if not token:
            raise SettingsError(f"{PREFIX}API_TOKEN_FILE {self.api_token_file} is empty")
        return token


class _Reader:
    """Takes single values out of the environment; each failure names its variable."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str) -> str:
        return self._environ.get(PREFIX + name, "").strip() or default

    def path(self, name: str, default: str) -> Path:
        path = Path(self.text(name, default))
        if not path.is_absolute():
            raise SettingsError(f"{PREFIX}{name} {str(path)!r} is not an absolute path")
        return path

    def number(self, name: str, default: float, least: float = 0, most: float = 10**9) -> float:
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            raise SettingsError(f"{PREFIX}{name} {text!r} is not a number") from None
        if not least <= value <= most:
            raise SettingsError(f"{PREFIX}{name} {text} is not between {least:g} and {most:g}")
        return value

    def whole(self, name: str, default: int, least: int = 0, most: int = 10**9) -> int:
        value = self.number(name, default, least, most)
        if value != int(value):
            raise SettingsError(f"{PREFIX}{name} {value:g} is not a whole number")
        return int(value)

    def size(self, name: str, default: int) -> int:
        try:
            return parse_size(self.text(name, str(default)))
        except ValueError as error:
            raise SettingsError(f"{PREFIX}{name}: {error}") from None

    def switch(self, name: str) -> bool:
        text = self.text(name, "0")
        if text not in ("0", "1"):
            raise SettingsError(f"{PREFIX}{name} {text!r} is neither 0 nor 1")
        return text == "1"

    def address(self, name: str, text: str) -> ipaddress.IPv4Address:
        try:
            return ipaddress.IPv4Address(text.strip())
        except ValueError:
            raise SettingsError(f"{PREFIX}{name} {text!r} is not an IPv4 address") from None


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings. SettingsError names the variable that cannot be used."""
    read = _Reader(environ)
    pool = read.text("POOL", "10.0.0.10-10.0.0.254")
    first, dash, last = pool.partition("-")
    if not dash:
        raise SettingsError(f"{PREFIX}POOL {pool!r} is not FIRST-LAST, two IPv4 addresses")
    pool_first, pool_last = read.address("POOL", first), read.address("POOL", last)
    if pool_first > pool_last:
        raise SettingsError(f"{PREFIX}POOL {pool!r}: the first address comes after the last")
    label, device = read.text("LABEL", "lo:faas"), read.text("DEVICE", "lo")
    if not label.startswith(device) or len(label) > 15:
        raise SettingsError(f"{PREFIX}LABEL {label!r} does not begin with the device {device!r}, or is over 15 long")
    runtime = read.text("RUNTIME", "runc")
    if not re.fullmatch(r"auto|(/.*/)?(runc|crun)", runtime):
        raise SettingsError(f"{PREFIX}RUNTIME {runtime!r} is not runc, crun, auto or the path of one of the two")
    token_file = read.text("API_TOKEN_FILE", "")
    return Settings(
        root=read.path("ROOT", "/var/lib/faasd"),
        run=read.path("RUN", "/run/faasd"),
        api_bind=_binds(read),
        api_port=read.whole("API_PORT", 8080, 1, 65535),
        api_token_file=read.path("API_TOKEN_FILE", token_file) if token_file else None,
        pool_first=pool_first,
        pool_last=pool_last,
        function_port=read.whole("FUNCTION_PORT", 80, 1, 65535),
        device=device,
        label=label,
        runtime=runtime,
        connect_timeout=read.number("CONNECT_TIMEOUT", 5, 0.1, 3600),
        total_concurrency=read.whole("TOTAL_CONCURRENCY", 64, 1, 4096),
        queue_timeout=read.number("QUEUE_TIMEOUT", 10, 0, 3600),
        warm_idle=read.number("WARM_IDLE", 300, 1),
        warm_freeze=read.switch("WARM_FREEZE"),
        max_upload=read.size("MAX_UPLOAD", 2 * GIB),
        max_unpacked=read.size("MAX_UNPACKED", 8 * GIB),
        max_entries=read.whole("MAX_ENTRIES", 500000, 1),
        drain_timeout=read.number("DRAIN_TIMEOUT", 2, 0, 3600),
        observer_interval=read.number("OBSERVER_INTERVAL", 30, 0.1, 86400),
        limits=_limits(read),
    )


def _binds(read: _Reader) -> tuple[str, ...]:
    """Where the API listens. The loopback address always answers (contract D5)."""
    given = [str(read.address("API_BIND", part)) for part in read.text("API_BIND", "127.0.0.1").split(",")]
    if "0.0.0.0" in given:
        return ("0.0.0.0",)
    return tuple(dict.fromkeys(["127.0.0.1", *given]))


def _limits(read: _Reader) -> Limits:
    limits = Limits(memory=0, cpu=0, pids=0, tmp=0, timeout=0, concurrency=0, warm=0)
    for name, variable, default in (
        ("memory", "MEMORY", "512M"),
        ("cpu", "CPU", "1.0"),
        ("pids", "PIDS", "64"),
        ("tmp", "TMP_SIZE", "64M"),
        ("timeout", "EXEC_TIMEOUT", "30"),
        ("concurrency", "CONCURRENCY", "16"),
        ("warm", "WARM", "0"),
    ):
        try:
            limits = limits.with_changes({name: read.text(variable, default)})
        except BadRequest as error:
            raise SettingsError(f"{PREFIX}{variable}: {error}") from None
    return limits
